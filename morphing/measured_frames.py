"""The measured frames of several runs of one morph, combined.

With the same model, noise and prompts a frame depends on its own alpha alone. So the frames of earlier runs stay valid,
and a reschedule that uses all of them finds the leaps of a morph far more exactly than one that uses the last run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .schedule import Alphas


@dataclass(frozen=True, eq=False)
class MeasuredFrames:
    """Frames that were measured: alphas of N, with their latents (N, C, h, w), pictures (N, H, W, C), or both."""

    alphas: Alphas
    latents: Tensor | None = None
    images: Tensor | None = None


@dataclass(frozen=True)
class SeenAlphas(Alphas):
    """Alphas with the runs that they were found from, the latest last."""

    measured: tuple[MeasuredFrames, ...] = field(default=(), compare=False, repr=False)


def remembering(alphas: Alphas, measured: Sequence[MeasuredFrames]) -> SeenAlphas:
    """The same alphas, with what they were found by."""
    return SeenAlphas(alphas.values, alphas.keyframes, alphas.cyclic, tuple(measured))


def measured_for(alphas: Alphas) -> tuple[MeasuredFrames, ...]:
    """The runs that alphas were found from, the latest last; none where they know of none."""
    return alphas.measured if isinstance(alphas, SeenAlphas) else ()


def together(measured: Sequence[MeasuredFrames]) -> MeasuredFrames:
    """The frames of all runs in the order of their alphas; of frames at one alpha the latest.

    Only what the last run has is kept, and only of runs that have it alike: of the same morph, in the same size.
    """
    last = measured[-1]
    alike = [frames for frames in measured if _fits(frames, last)]
    places = {
        value: (number, row) for number, frames in enumerate(alike) for row, value in enumerate(frames.alphas.values)
    }
    values = sorted(places)

    def gathered(batches: list[Tensor | None]) -> Tensor | None:
        known = [batch for batch in batches if batch is not None]  # all or none: they are alike
        if not known:
            return None
        return torch.stack([known[number][row].to(known[-1]) for number, row in (places[value] for value in values)])

    alphas = Alphas(tuple(values), last.alphas.keyframes, last.alphas.cyclic)
    return MeasuredFrames(
        alphas, gathered([frames.latents for frames in alike]), gathered([frames.images for frames in alike])
    )


def _fits(frames: MeasuredFrames, last: MeasuredFrames) -> bool:
    """Whether its frames can be combined with those of the last run."""
    kind = lambda one: (one.alphas.keyframes, one.alphas.cyclic)
    shape = lambda batch: None if batch is None else batch.shape[1:]
    batches = ((frames.latents, last.latents), (frames.images, last.images))
    return kind(frames) == kind(last) and all(b is None or shape(a) == shape(b) for a, b in batches)
