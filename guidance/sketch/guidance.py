"""Sketch-Guided Diffusion (arXiv 2211.13752, section 3.2): each guided step descends the gradient of the loss between
predicted edges and sketch. Its length is a fraction of what the step itself changes.

    z~_{t-1} = z_{t-1} - alpha grad_{z_t} L,      alpha = beta |z_t - z_{t-1}| / |grad_{z_t} L|

The norms are those of each row of the batch. Public re-implementations take one norm of the whole batch, which is
doubled for classifier-free guidance: beta is then larger by the square root of two, and rows depend on each other. z is
the variance-preserving latent z = x / sqrt(1 + sigma^2), in which the lengths of steps compare; the host's x is
variance-exploding.

The step is written as a shift of the prediction x0, so that any sampler can take it. With Euler's step (DDIM) to the
next noise level it is the paper's formula exactly. Samplers that call the model between two levels get the same shift.
Samplers that add noise at their steps or remember earlier ones make more of a shift: what they make of it is measured.
|z_t - z_{t-1}| is that of the deterministic step, without the noise that they add.

Differs from the paper, each with a switch:
- The target is blurred early and sharpens later. A sharp line attracts only what is near it, from either side.
- A row's step grows while its gradient keeps its direction, and shrinks where the gradient reverses.
Off unless asked for: strokes have weights, blank paper counts less (one-sided), a mask confines loss and step to a
region, and a gradient is used for more than one step. `SketchRecipe.faithful()` is the paper's algorithm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ...inversion.diffusion import append_dims, ddim_step
from .predictor import PredictorSpec, Target
from .targets import blur, closeness, edge_target, to_cells

PROBABILITY_FLOOR = 1e-3
"""Probabilities are clamped here before the log: one stroke that cannot be met must not outweigh all others."""

EARLY = 0.1
"""In this first fraction of a run each guided step computes a new gradient: the composition is decided there."""
OLD_GRADIENT = 0.5
"""The length of a step along a gradient of an earlier step, as a fraction of the length along a new one."""

Scale = Literal["sampler", "euler"]

StepRule = Literal["palimpsest", "paper"]

LEAST_GAIN, MOST_GAIN = 0.2, 2.0
"""Limits of the factor by which `next_gain` changes the paper's step length."""


@dataclass(frozen=True)
class SketchRecipe:
    """When and how strongly to guide.

    strength: the paper's beta (1.6). start, end: fractions of the run (the host's percent: 0 = noise, 1 = picture).
    every: guide each n-th step. one_sided: 0..1, how much less blank paper counts than strokes. blur: std of
    the target's blur at the beginning of the window, in pixels of the latent; it falls to 0 at the end.

    renew: the fraction of a run for which a gradient is used after the EARLY steps. Guided steps within it follow the
    last gradient by OLD_GRADIENT of their length, at no cost (0: a new one at each step, as in the paper).

    adapt: how fast a row's step length follows its gradients, see `next_gain` (0: the paper's length always).

    hold: the fraction of a run for which, after the EARLY steps, the difference that the negative prompt makes is used
    again. Steps within it that compute a gradient leave out the negative half of the call (0: none does, as in the
    paper).

    scale: "sampler" keeps the fraction of the step's change that Euler has with every sampler; "euler" shifts the
    prediction as for Euler, so that samplers that add noise or remember steps go further.
    """

    strength: float = 1.6
    start: float = 0.0
    end: float = 0.5
    every: int = 1
    one_sided: float = 0.0
    blur: float = 3.0
    renew: float = 0.0
    adapt: float = 0.5
    hold: float = 0.15
    scale: Scale = "sampler"

    @staticmethod
    def faithful(**changes) -> "SketchRecipe":
        """The paper's algorithm, with any of the above on top."""
        return SketchRecipe(**{"blur": 0.0, "adapt": 0.0, "hold": 0.0, **changes})

    def with_step_rule(self, rule: StepRule) -> "SketchRecipe":
        """paper: a new gradient and a new negative half at each step, always of the paper's length."""
        return self if rule == "palimpsest" else replace(self, renew=0.0, adapt=0.0, hold=0.0)


@dataclass(frozen=True, eq=False)
class SketchTarget:
    """What the predictor should see. kind: as the predictor's target; values: (S, K, H, W), closeness in 0..1 or scaled
    latents; weight: (S, 1, H, W) in 0..1; detail: cells for each pixel of the latent; S is 1 or the batch."""

    kind: Target
    values: Tensor
    weight: Tensor
    detail: int = 1


def sketch_target(
    spec: PredictorSpec,
    lines: Tensor,
    importance: Tensor,
    size: tuple[int, int],
    *,
    one_sided: float = 0.0,
    region: Tensor | None = None,
    latent: Tensor | None = None,
) -> SketchTarget:
    """lines: (S, H, W) bool, thin; importance: (S, H, W) in 0..1 on the lines; size: (h, w) of the latent.

    region: (S, h, w) in 0..1, where the sketch acts. latent: (S, 4, h, w), the encoded sketch, for a predictor of
    latents. A stroke weighs its importance, blank paper 1 - one_sided. Raises ValueError where that latent is missing.
    """
    scale = (lines.shape[-2] / size[0] + lines.shape[-1] / size[1]) / 2
    present = edge_target(lines, size, detail=spec.detail, spread=spec.spread)
    weight = to_cells(closeness(importance.float(), spec.spread * scale), size, spec.detail)
    weight = weight + (1 - present) * (1 - one_sided)
    if region is not None:
        weight = weight * F.interpolate(region[:, None].to(weight), size=tuple(weight.shape[-2:]), mode="nearest")
    values = present if spec.target == "edges" else latent
    if values is None:
        raise ValueError("A predictor of latents needs the latent of the sketch: give it, or use one of edges.")
    return SketchTarget(spec.target, values, weight, spec.detail)


def sketch_loss(predicted: Tensor, target: SketchTarget, *, std: float = 0.0) -> Tensor:
    """predicted: (B, K, H, W), logits or scaled latents; std: blur in pixels of the latent. Returns (B,), >= 0:
    the sum over pixels of the weighted squared difference (latents, the paper's) or relative entropy (edges)."""
    if target.kind == "latent":
        error = (blur(predicted, std) - blur(target.values, std)).square().sum(1, keepdim=True)
        return (error * target.weight).flatten(1).sum(1)
    return (_relative_entropy(predicted, target, std) * target.weight).flatten(1).sum(1)


def _relative_entropy(logits: Tensor, target: SketchTarget, std: float) -> Tensor:
    """KL(target || predicted) for each cell, both blurred: the cross-entropy minus the target's own entropy."""
    if std <= 0:
        e = target.values.expand_as(logits)
        cross = F.binary_cross_entropy_with_logits(logits, e, reduction="none")
    else:
        e = blur(target.values, std * target.detail)
        p = blur(logits.sigmoid(), std * target.detail).clamp(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
        cross = -(e * p.log() + (1 - e) * (1 - p).log())
    return cross - _entropy(e)


def _entropy(e: Tensor) -> Tensor:
    e = e.clamp(1e-7, 1 - 1e-7)
    return -(e * e.log() + (1 - e) * (1 - e).log())


def blur_at(recipe: SketchRecipe, fraction: float) -> float:
    """The target's blur at a fraction of the run (0..1): quadratic in the remaining fraction of the window."""
    length = max(recipe.end - recipe.start, 1e-6)
    return recipe.blur * min(1.0, max(0.0, (recipe.end - fraction) / length)) ** 2


def next_gain(
    gain: Tensor | float, gradient: Tensor, before: Tensor | None, adapt: float, region: Tensor | None = None
) -> Tensor | float:
    """The factor (B, 1, 1, 1) of each row's step: the last gain, larger where the gradient keeps the direction of
    `before`, smaller where it reverses.

        gain_k = gain_{k-1} exp(adapt cos(g_k, g_{k-1})),   within LEAST_GAIN and MOST_GAIN

    This is hypergradient descent (Baydin et al. 2018, arXiv 1703.04782) in its multiplicative form. gradient, before:
    (B, C, h, w); region: (B or 1, 1, h, w), where they count.
    """
    if before is None or adapt == 0:
        return gain
    if region is not None:
        gradient, before = gradient * region, before * region
    cosine = (direction(gradient) * direction(before)).sum((1, 2, 3), keepdim=True)
    return (gain * torch.exp(adapt * cosine)).clamp(LEAST_GAIN, MOST_GAIN)


def renewed(fractions: Sequence[float], renew: float) -> list[bool]:
    """At which guided steps something is computed that is used for a fraction of the run: a gradient, or what the
    negative prompt changes. fractions: of the run, rising; renew: see the recipe."""
    out, last = [], -math.inf
    for fraction in fractions:
        out.append(fraction - last >= renew - 1e-6 or fraction - fractions[0] < EARLY)
        last = fraction if out[-1] else last
    if out[-2:] == [False, True]:
        out[-1] = False  # computed at the very end it would be used once
    return out


def next_level(sigma: float, schedule: Tensor) -> tuple[int, float] | None:
    """Where a model call at `sigma` stands in a falling schedule (N+1,): the number of the step (0-based) and the level
    that the step leads to. None past the last step. Calls between two levels belong to the step round them."""
    below = (schedule < sigma * (1 - 1e-4)).nonzero()
    if len(below) == 0:
        return None
    index = int(below[0])
    return max(index - 1, 0), float(schedule[index])


def guided_shift(
    x: Tensor,
    x0: Tensor,
    gradient: Tensor,
    sigma: Tensor,
    sigma_next: float,
    strength: Tensor | float,
    region: Tensor | None = None,
) -> Tensor:
    """What to subtract from the prediction x0 so that the step to sigma_next is the paper's, row by row.

    x, x0, gradient: (B, C, h, w) in the host's variance-exploding form, gradient = dL/dx (its length does not matter);
    sigma: (B,); strength: the paper's beta, for all or (B, 1, 1, 1); region: (B or 1, 1, h, w) in 0..1: loss,
    displacement and step count there alone. A row without a gradient is left as it is.
    """
    s = append_dims(sigma.float(), x.ndim)
    after = ddim_step(x, x0, sigma.float(), sigma_next)
    moved = x / (1 + s * s).sqrt() - after / (1 + sigma_next**2) ** 0.5
    if region is not None:
        moved, gradient = moved * region, gradient * region
    step = strength * row_norm(moved) * direction(gradient) * (1 + sigma_next**2) ** 0.5
    return step / (1 - sigma_next / s)


def direction(gradient: Tensor) -> Tensor:
    """(B, ...) with each row at length 1, or 0 where it is 0."""
    size = row_norm(gradient)
    return torch.where(size > 0, gradient / size.clamp_min(torch.finfo(torch.float32).tiny), 0.0)


def row_norm(x: Tensor) -> Tensor:
    """(B, ...) -> (B, 1, ...), the Euclidean norm of each row."""
    return append_dims(x.flatten(1).norm(dim=1), x.ndim)
