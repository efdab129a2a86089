"""DDIM inversion: Denoising Diffusion Implicit Models (arXiv 2010.02502, eq. 13) run from the picture to the noise.

In the host's variance-exploding form x = z / sqrt(alpha_bar), sigma = sqrt((1 - alpha_bar) / alpha_bar), the DDIM step
is Euler's: x' = x + (sigma' - sigma) e with the derivative e = (x - x0) / sigma. The same line serves epsilon, v and
flow models, since all of them are asked for x0 (for a flow model, e is its velocity).

Going down, the sampler takes the derivative at the *noisier* end of each step. Going up that end is not known yet. So
the inversion guesses where to ask the network (the pairing), and may then ask again (the refinement, a fixed-point
iteration as in AIDI, arXiv 2309.04907, and ReNoise, arXiv 2403.14602). Its limit is replayed exactly.

Differs from the papers: `extrapolated`, the default, guesses the noisier end from the derivatives of the last two
steps, at no cost. With the papers' pairing (Null-text Inversion, arXiv 2211.09794) the previous latent stands for it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from .diffusion import append_dims, to_d

# The model contract with its cond bound: x (B, C, h, w), sigma (B,) float32 -> x0.
Denoise = Callable[[Tensor, Tensor], Tensor]
# Called after each step with its number (from 1), the number of steps, the latent and the prediction of the picture.
OnStep = Callable[[int, int, Tensor, Tensor], None]

# A step's lower and upper level, and the derivative along it.
Derivative = tuple[tuple[float, float], Tensor]

Pairing = Literal["extrapolated", "held", "papers", "same level"]
PAIRINGS: tuple[Pairing, ...] = get_args(Pairing)


def invert(denoise: Denoise, latent: Tensor, levels: Tensor, **how) -> Tensor:
    """The path of `invert_and_record` alone."""
    return invert_and_record(denoise, latent, levels, **how)[0]


def invert_and_record(
    denoise: Denoise,
    latent: Tensor,
    levels: Tensor,
    *,
    flow: bool = False,
    pairing: Pairing = "extrapolated",
    refinement: int = 0,
    tolerance: float = 1e-3,
    on_step: OnStep | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The path of a picture to noise.

    latent: (B, C, h, w) float32, scaled, lying at levels[0]; levels: (N+1,) rising, from `rising_sigmas`.
    pairing: where the network is asked for the derivative of a step from s to t:
        extrapolated: at t, the latent extrapolated by the derivatives of the last two steps;
        held: at t, the latent extrapolated by the last derivative;
        papers: at t, the previous latent, unchanged in the network's own input;
        same level: at s, as it is (the first step, whose s is 0, as `papers`).
    refinement: more evaluations at t, each from the result of the one before; a row stops by itself once it changes
        by less than tolerance (RMS, as a fraction of its picture's), or once it changes more than it did before.
    Returns the path (N+1, B, C, h, w) float32 on the CPU; and the latents (N, B, C, h, w) at which the network gave
    each step, None without refinement, where `exact_replay.evaluated_at` finds them from the path.
    Raises ValueError where the model's answer is not finite.
    """
    if pairing not in PAIRINGS:
        raise ValueError(f"The pairing '{pairing}' is unknown: choose one of {', '.join(PAIRINGS)}.")
    steps = levels.tolist()
    path = _new_path(latent, len(steps))
    points = _new_path(latent, len(steps) - 1) if refinement else None
    x = latent.float()
    derivatives: list[Derivative] = []
    enough = tolerance * _size(x)
    for i, (s, t) in enumerate(itertools.pairwise(steps)):
        y, level = evaluation_point(pairing, x, s, t, derivatives, flow=flow)
        e, x0 = _derivative(denoise, y, level)
        end = x + (t - s) * e
        end, y = _refine(denoise, x, (s, t), (y, level), end, refinement, enough)
        _require_finite(end, t)
        if points is not None:
            points[i] = y
        derivatives = [*derivatives[-1:], ((s, t), (end - x) / (t - s))]
        x = path[i + 1] = end
        if on_step is not None:
            on_step(i + 1, len(steps) - 1, x, x0)
    return path, points


def replay(denoise: Denoise, noisy: Tensor, levels: Tensor, *, on_step: OnStep | None = None) -> Tensor:
    """Euler's steps from the noise back to the picture, as the host's `euler` and `ddim` samplers take them.

    noisy: (B, C, h, w) float32, scaled, at levels[-1]; levels: (N+1,) rising.
    Returns (N+1, B, C, h, w) float32 on the CPU in the order of the levels: [0] is the picture.
    """
    steps = levels.tolist()
    path = _new_path(noisy, len(steps), at=-1)
    x = noisy.float()
    for i in range(len(steps) - 1, 0, -1):
        e, x0 = _derivative(denoise, x, steps[i])
        x = x + (steps[i - 1] - steps[i]) * e
        _require_finite(x, steps[i - 1])
        path[i - 1] = x
        if on_step is not None:
            on_step(len(steps) - i, len(steps) - 1, x, x0)
    return path


def evaluation_point(
    pairing: Pairing, x: Tensor, s: float, t: float, derivatives: Sequence[Derivative], *, flow: bool
) -> tuple[Tensor, float]:
    """The latent and the noise level at which the derivative of the step from s to t is taken.

    x: (B, C, h, w) at s; derivatives: those of the last one or two steps.
    """
    if pairing == "same level" and s > 0:
        return x, s
    if pairing in ("papers", "same level") or not derivatives:
        # The network's input is x / sqrt(1 + sigma^2) (flow: x itself); it stays the same when the level changes.
        return (x if flow else x * math.sqrt((1 + t * t) / (1 + s * s))), t
    e = derivatives[-1][1]
    if pairing == "extrapolated" and len(derivatives) == 2:
        # Every derivative was taken at the upper end of its step: a straight line through the last two, read at t.
        (_, before), older = derivatives[0]
        e = e + (e - older) * ((t - s) / (s - before))
    return x + (t - s) * e, t


def _refine(
    denoise: Denoise,
    x: Tensor,
    step: tuple[float, float],
    first: tuple[Tensor, float],
    end: Tensor,
    iterations: int,
    enough: Tensor,
) -> tuple[Tensor, Tensor]:
    """Solve end = x + (t - s) e(end, t): then the sampler's step from `end` arrives at x exactly.

    first: the latent and the level of the first evaluation; end: its answer. From one to the other the change is the
    error that the sampler's step would make. enough: (B,) RMS change that ends a row.
    Returns the end, and the latent whose evaluation gave it.
    """
    (s, t), (point, level) = step, first
    last = _size(end - point) if level == t else torch.full_like(enough, math.inf)
    active = torch.ones_like(last, dtype=torch.bool)
    for _ in range(iterations):
        if not bool(active.any()):
            break
        answer = x + (t - s) * _derivative(denoise, end, t)[0]
        change = _size(answer - end)
        active = active & (change < last)  # a growing change runs away: strong guidance, or too wide a step
        taken = append_dims(active, end.ndim)
        point, end = torch.where(taken, end, point), torch.where(taken, answer, end)
        active = active & (change > enough)
        last = change
    return end, point


def _derivative(denoise: Denoise, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """e = (x - x0) / sigma, and x0."""
    x0 = denoise(x, torch.full((x.shape[0],), sigma, dtype=torch.float32, device=x.device))
    return to_d(x, sigma, x0), x0


def _size(x: Tensor) -> Tensor:
    """(B,) root mean square of each row."""
    return x.flatten(1).square().mean(1).sqrt()


def _new_path(latent: Tensor, levels: int, at: int = 0) -> Tensor:
    # Kept on the CPU level by level: fifty levels of a large batch do not fit beside the model on a small card.
    path = torch.empty((levels, *latent.shape), dtype=torch.float32)
    path[at] = latent
    return path


def _require_finite(x: Tensor, sigma: float) -> None:
    if not bool(torch.isfinite(x).all()):
        raise ValueError(
            f"The model's answer at noise level {sigma:.4g} is not a number: run the model in full precision "
            "(start ComfyUI with --force-fp32), or lower the CFG."
        )
