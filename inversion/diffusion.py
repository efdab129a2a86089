"""What every technique computes: noising, one DDIM step down and up, guidance, and the prediction a result needs.

Denoising Diffusion Implicit Models (arXiv 2010.02502, eq. 12 and 13) and Classifier-Free Diffusion Guidance (arXiv
2207.12598, eq. 6) on predictions x0 of the picture. `append_dims` and `to_d` bear the names of k-diffusion.

Latents are in the host's variance-exploding form, x = x0 + sigma * noise with sigma^2 = (1 - alpha_bar) / alpha_bar;
a flow model's own form is x = (1 - sigma) * x0 + sigma * noise. One line then serves both:

    D  = D_u + w (D_c - D_u)          guidance with CFG w
    x' = D + r (x - D),  r = s' / s   the step from the level s down to s'

Both are affine, so the prediction D_u* with which x arrives exactly at a wanted x' is known without any optimisation:

    D* = (x' - r x) / (1 - r),        D_u* = (D* - w D_c) / (1 - w)

Epsilon, v and x0 are affine in each other at a given x, so what holds for one of them holds for all.
"""

from __future__ import annotations

from torch import Tensor

# Below this distance from 1 the unconditional prediction has no say in the result.
CFG_TOLERANCE = 1e-3


def append_dims(x: Tensor, ndim: int) -> Tensor:
    """(B, ...) with axes of length 1 appended until it has `ndim`: values for rows that act on (B, C, h, w)."""
    return x.reshape(*x.shape, *[1] * (ndim - x.ndim))


def to_d(x: Tensor, sigma: float | Tensor, denoised: Tensor) -> Tensor:
    """The derivative of the sampler's path, (x - x0) / sigma: the predicted noise, or a flow model's velocity.

    x, denoised: (B, C, h, w); sigma: a number or (B,), above 0.
    """
    return (x - denoised) / _level(sigma, x)


def noised(latent: Tensor, noise: Tensor, sigma: float | Tensor, *, flow: bool = False) -> Tensor:
    """latent (B, C, h, w) at the noise level sigma, a number or (B,); noise: (B, C, h, w), or (n, B, C, h, w)."""
    level = _level(sigma, latent)
    return (1 - level) * latent + level * noise if flow else latent + level * noise


def ddim_step(x: Tensor, denoised: Tensor, sigma: float | Tensor, below: float | Tensor) -> Tensor:
    """x' at the level `below` (0 or more, less than sigma), eta 0; at 0 exactly x0.

    x, denoised: (B, C, h, w); levels: a number or (B,). It is Euler's step, x + (below - sigma) * to_d(x, ...).
    """
    return denoised + _level(below, x) / _level(sigma, x) * (x - denoised)


def step_up(x: Tensor, below: float, sigma: float, noise: Tensor, *, flow: bool = False) -> Tensor:
    """x (B, C, h, w) at the level `below`, noised to the level sigma above it as forward diffusion would."""
    if not flow:
        return x + max(sigma**2 - below**2, 0.0) ** 0.5 * noise
    ratio = (1 - sigma) / (1 - below)
    return ratio * x + max(sigma**2 - (ratio * below) ** 2, 0.0) ** 0.5 * noise


def guided(conditional: Tensor, unconditional: Tensor, cfg: float) -> Tensor:
    """D of the guided model; predictions (B, C, h, w), of x0, noise or velocity alike."""
    return unconditional + cfg * (conditional - unconditional)


def needed_denoised(x: Tensor, wanted: Tensor, sigma: float | Tensor, below: float | Tensor) -> Tensor:
    """D*, the prediction with which `ddim_step` arrives at `wanted`; all (B, C, h, w)."""
    ratio = _level(below, x) / _level(sigma, x)
    return (wanted - ratio * x) / (1 - ratio)


def needed_unconditional(
    x: Tensor, wanted: Tensor, conditional: Tensor, sigma: float | Tensor, below: float | Tensor, cfg: float
) -> Tensor:
    """D_u*, the unconditional prediction with which the guided step arrives at `wanted`; all (B, C, h, w).

    Raises ValueError at CFG 1, where the unconditional prediction counts for nothing.
    """
    require_guidance(cfg)
    return (needed_denoised(x, wanted, sigma, below) - cfg * conditional) / (1 - cfg)


def gain(sigma: float | Tensor, below: float | Tensor, like: Tensor, *, flow: bool = False) -> float | Tensor:
    """How much of an error in D arrives in the next latent; of one in D_u it is |w - 1| times that.

    sigma, below: numbers, or (B,) for a gain (B, 1, 1, 1). The next latent is measured in the variance-preserving form
    of the papers, z = x / sqrt(1 + sigma'^2), in which latents are of unit size at every level; a flow model's latents
    are so already.
    """
    s, t = _level(sigma, like), _level(below, like)
    size = 1.0 if flow else (1 + t * t) ** 0.5
    return (1 - t / s) / size


def error_weight(sigma: Tensor, prediction: str) -> Tensor:
    """What turns a squared error of x0 into that of the network's own prediction, `eps`, `v` or `flow`.

    eps = (x - x0) / sigma; v = alpha eps - s x0 with alpha^2 = 1 / (1 + sigma^2), s = sigma alpha; a flow model's
    velocity is (x - x0) / sigma.
    """
    return (1.0 + sigma**2) / sigma**2 if prediction == "v" else 1.0 / sigma**2


def require_guidance(cfg: float) -> None:
    """Raises ValueError at CFG 1, where nothing guides."""
    if abs(cfg - 1) < CFG_TOLERANCE:
        raise ValueError(
            "At CFG 1 the model makes no unconditional prediction, so there is nothing to fit: set the CFG that you "
            "will sample with, 7.5 for example."
        )


def _level(values: float | Tensor, like: Tensor) -> float | Tensor:
    """A number as it is, or (B,) in the dtype of `like` (B, C, h, w) and shaped to act on its rows."""
    return append_dims(values.to(like), like.ndim) if isinstance(values, Tensor) else values
