"""One guided DDIM step, and the unconditional prediction that a wanted result needs.

Denoising Diffusion Implicit Models (arXiv 2010.02502, eq. 13) and Classifier-Free Diffusion Guidance (arXiv 2207.12598,
eq. 6) on predictions x0 of the picture, in the host's variance-exploding form (a flow model's own form fits too):

    D  = D_u + w (D_c - D_u)                      guidance with CFG w
    x' = r x + (1 - r) D,     r = sigma' / sigma  the step from sigma down to sigma'

Both are affine, so the prediction D_u* that carries x exactly to a wanted x' is known without any optimisation:

    D* = (x' - r x) / (1 - r),    D_u* = (D* - w D_c) / (1 - w)

Epsilon, v and x0 are affine in each other at a given x, so what holds for one of them holds for all.
"""

from __future__ import annotations

from torch import Tensor

# Below this distance from 1 the unconditional prediction has no say in the result.
CFG_TOLERANCE = 1e-3


def as_rows(values: float | Tensor, like: Tensor) -> float | Tensor:
    """A number, or (B,) shaped to act on the rows of `like` (B, C, h, w)."""
    return values.to(like).reshape(-1, *[1] * (like.ndim - 1)) if isinstance(values, Tensor) else values


def guide(conditional: Tensor, unconditional: Tensor, cfg: float) -> Tensor:
    """D of the guided model; both predictions (B, C, h, w)."""
    return unconditional + cfg * (conditional - unconditional)


def step(x: Tensor, denoised: Tensor, sigma: float | Tensor, below: float | Tensor) -> Tensor:
    """x' at the level `below` (0 or more, less than sigma); x, denoised: (B, C, h, w); levels: a number or (B,)."""
    ratio = as_rows(below, x) / as_rows(sigma, x)
    return ratio * x + (1 - ratio) * denoised


def needed_denoised(x: Tensor, wanted: Tensor, sigma: float | Tensor, below: float | Tensor) -> Tensor:
    """D*, the prediction with which `step` arrives at `wanted`; all (B, C, h, w)."""
    ratio = as_rows(below, x) / as_rows(sigma, x)
    return (wanted - ratio * x) / (1 - ratio)


def needed_unconditional(
    x: Tensor, wanted: Tensor, conditional: Tensor, sigma: float | Tensor, below: float | Tensor, cfg: float
) -> Tensor:
    """D_u*, the unconditional prediction with which the guided step arrives at `wanted`; all (B, C, h, w).

    Raises ValueError at CFG 1, where the unconditional prediction counts for nothing.
    """
    require_guidance(cfg)
    return (needed_denoised(x, wanted, sigma, below) - cfg * conditional) / (1 - cfg)


def gain(sigma: float | Tensor, below: float | Tensor, cfg: float, like: Tensor, *, flow: bool = False) -> Tensor:
    """How much of an error in D_u arrives in the next latent, as (B, 1, 1, 1).

    The next latent is measured in the variance-preserving form of the papers, z = x / sqrt(1 + sigma'^2), in which
    latents are of unit size at every level; a flow model's latents are so already.
    """
    s, t = (
        like.new_tensor(level).reshape(-1, *[1] * (like.ndim - 1)) if isinstance(level, float) else as_rows(level, like)
        for level in (sigma, below)
    )
    size = 1.0 if flow else (1 + t * t).sqrt()
    return abs(cfg - 1) * (1 - t / s) / size


def require_guidance(cfg: float) -> None:
    if abs(cfg - 1) < CFG_TOLERANCE:
        raise ValueError(
            "At CFG 1 the model makes no unconditional prediction, so there is nothing to fit: set the CFG that you "
            "will sample with, 7.5 for example."
        )
