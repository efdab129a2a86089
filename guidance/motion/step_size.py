"""How strongly guidance may pull: scale, clip, curve, step length, damping (Motion Guidance, arXiv 2401.18085).

The released numbers belong to 512 x 512 pictures with 4 x 64 x 64 latents. Losses are means over pixels, so their
gradient in one element falls with the picture's area, while the norm of an update grows with the latent's size: both
numbers are scaled, so that one element is pulled alike at every size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import sqrt

import torch
from torch import Tensor

from ...inversion.diffusion import append_dims

PAPER_PIXELS = 512 * 512
PAPER_LATENT = 4 * 64 * 64
Curve = Callable[[float], float]


def scaled_weight(weight: float, height: int, width: int) -> float:
    """The guidance weight for pictures of another size than the paper's."""
    return weight * height * width / PAPER_PIXELS


def scaled_clip(clip: float, elements: int) -> float:
    """The largest norm of a change of epsilon, for latents of `elements` = C x h x w; 0 or less means no limit."""
    return clip * sqrt(elements / PAPER_LATENT) if clip > 0 else float("inf")


def clipped(change: Tensor, limit: float) -> Tensor:
    """The change (B, C, h, w), shortened where its norm is over the limit; rows apart; what is not finite goes."""
    change = torch.where(append_dims(torch.isfinite(change).flatten(1).all(dim=1), change.ndim), change, 0.0)
    norm = append_dims(change.flatten(1).norm(dim=1), change.ndim)
    return change * (limit / norm.clamp_min(1e-12)).clamp(max=1.0)


def fraction_of_steps(step: int, steps: int) -> float:
    """Where a step stands in a run, 0 at the first and 1 at the last."""
    return step / max(steps - 1, 1)


@dataclass(frozen=True)
class Window:
    """When guidance acts: between two fractions of the run, by a curve over it (1 = full strength)."""

    start: float = 0.0
    end: float = 1.0
    curve: Curve | None = None

    def at(self, step: int, steps: int) -> float:
        position = fraction_of_steps(step, steps)
        if not self.start - 1e-9 <= position <= self.end + 1e-9:
            return 0.0
        return 1.0 if self.curve is None else max(float(self.curve(position)), 0.0)


def polyak_step(loss: Tensor, floor: Tensor | float, gradient: Tensor) -> Tensor:
    """(B,) the step length (loss - floor) / |gradient|^2: exact for a linear loss, free of weights and sizes."""
    excess = (loss - floor).clamp_min(0.0)
    return excess / gradient.flatten(1).square().sum(dim=1).clamp_min(1e-20)


@dataclass
class Damper:
    """Catches a loss that grows within a noise level: halves that picture's pull, which recovers while all goes well.

    Lives for one run. Not in the paper. active: off leaves every pull as it is. factor: (B,) in (0, 1]. caught: how
    often a pull was damped.
    """

    active: bool = True
    factor: Tensor | None = None
    best: dict[bool, Tensor] = field(default_factory=dict)
    caught: int = 0
    tolerance: float = 1.5

    def next_level(self) -> None:
        """Losses of another noise level are of other pictures: they are not compared with those before."""
        self.best.clear()

    def __call__(self, loss: Tensor, kind: bool = False) -> Tensor:
        """loss: (B,) of the state now; kind: losses of different make-up are never compared. Returns the factor."""
        if not self.active:
            return torch.ones_like(loss)
        factor = torch.ones_like(loss) if self.factor is None else self.factor
        best = self.best.get(kind, torch.full_like(loss, float("inf")))
        bad = loss > self.tolerance * best
        self.caught += int(bad.sum())
        self.factor = torch.where(bad, factor * 0.5, (factor * 1.2).clamp(max=1.0)).clamp_min(1e-3)
        self.best[kind] = torch.where(bad | ~torch.isfinite(loss), best, torch.minimum(best, loss))
        return self.factor
