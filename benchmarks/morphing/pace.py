"""Even pace: frames chosen and rescheduled from measured ones, as the nodes do it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace

from torch import Tensor

from ...morphing.frame_distance import pairs, plain_between, table
from ...morphing.frame_selection import choose
from ...morphing.measured_frames import MeasuredFrames, together
from ...morphing.reschedule import reschedule
from ...morphing.schedule import Alphas
from ...morphing.torn_frames import shortened, torn


def plain_steps(latents: Tensor, cyclic: bool = False) -> Tensor:
    """Root mean square difference of neighbours, (N, C, h, w) -> (N-1,), or (N,) around a cycle."""
    return plain_between(*pairs(latents, cyclic))


def _frames_of(made: SimpleNamespace) -> MeasuredFrames:
    return MeasuredFrames(made.alphas, made.latents)


def evened(measured: Sequence[MeasuredFrames], frames: int | None = None) -> Alphas:
    """Alphas rescheduled from all measured frames; None keeps the number of frames of the last run."""
    seen = together(measured)
    steps = shortened(plain_steps(seen.latents), torn(seen.latents, seen.alphas))
    return reschedule(seen.alphas, steps, frames=frames or len(measured[-1].alphas))


def evenest(
    measured: Sequence[MeasuredFrames], frames: int, distances: Callable[[Tensor], Tensor] | None = None
) -> SimpleNamespace:
    """The frames that make the evenest morph, out of all measured frames; no `pictures`.

    distances: latents (P, C, h, w) -> (P, P), of any two frames; None for those of the latents themselves.
    """
    seen = together(measured)
    between = distances(seen.latents) if distances else table(seen.latents, plain_between)
    rows = choose(seen.alphas, between, frames, torn=torn(seen.latents, seen.alphas))
    alphas = replace(seen.alphas, values=tuple(seen.alphas.values[row] for row in rows))
    return SimpleNamespace(pictures=None, latents=seen.latents[rows], alphas=alphas)
