"""What became of a motion, read from the picture alone: where the thing is now, and whether its old place is empty.

The judge knows the scene: a pixel belongs to a moved cut-out where it is nearer to the cut-out's colours than to the
ground that should be seen there without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...guidance.flow.warp import Landing, backward_warp
from ...guidance.morphology import dilate
from ...papercut.scenes import CutOut
from ...papercut.shapes import COLOURS
from .cases import Case

SOFT, SHADOW, GHOST, LEAST_BARE = 3, 7, 0.1, 60
NOTHING = 256.0  # the error in pixels of a thing that is not there


@dataclass(frozen=True)
class Verdict:
    """goal: pixels by which the moved things miss their goals. colour: L1 along the asked flow. ghost: fraction of the
    old place that still shows the thing, None where too little was laid bare. old_place: L1 to the right picture there.
    background: dB against the source, outside what may change. sliver: as `ghost`, with all that was laid bare, up to
    the thing's new outline: short moves and turns lay bare no more than that, and what misses its goal shows there."""

    goal: float
    colour: float
    ghost: float | None
    old_place: float | None
    background: float
    sliver: float | None = None


class Asked(NamedTuple):
    """What was asked of the sampler: (1, 256, 256, 2), where it leads, and (256, 256) bool, what may change."""

    flow: Tensor
    landing: Landing
    free: Tensor


class Judge:
    """A case with its pictures drawn once."""

    def __init__(self, case: Case):
        self.case = case
        self.source, self.truth, self.empty = (s.render() for s in (case.before, case.after, case.emptied()))
        moved = [index for index, _ in case.moved]
        self.things = [case.before.objects[index] for index in moved]
        self.old, self.new = (scene.masks()[moved] for scene in (case.before, case.after))
        # Soft edges and the shadow at the new place belong to neither.
        self.bare, self.bare_all = self._bare(SOFT + SHADOW, SOFT), self._bare(SOFT, 1)

    def _bare(self, outside: int, inside: int) -> Tensor:
        """(N, 256, 256) bool: the old places, so many pixels off the new ones and inside the old outlines."""
        return self.old & ~dilate(self.new.any(0, keepdim=True), outside) & ~dilate(~self.old, inside)

    def shown(self, picture: Tensor) -> Tensor:
        """(N, 256, 256) bool: where a picture (3, 256, 256) shows each of the moved things."""
        # A shadow is the ground, darker.
        ground = torch.stack([(picture - dark * self.empty).norm(dim=0) for dark in (1.0, 0.9, 0.8)]).amin(0)
        near = torch.stack([ground, *(_apart(picture, thing) for thing in self.things)])
        return near.argmin(0)[None] == torch.arange(1, len(near))[:, None, None]

    def goal_error(self, picture: Tensor) -> float:
        """Pixels: the larger of the centre's and of the outline's mean distance to where they should be."""
        errors, windows = [], dilate(self.old | self.new, 16)
        for found, goal in zip(self.shown(picture) & windows, self.new):
            if int(found.sum()) < 0.1 * int(goal.sum()):
                return NOTHING
            errors += [float((_centre(found) - _centre(goal)).norm()), _outline_distance(found, goal)]
        return max(errors)

    def ghost(self, picture: Tensor, bare: Tensor | None = None) -> float | None:
        """bare: (N, 256, 256) bool, where each thing is not to be seen; None: well off its new place."""
        places = zip(self.shown(picture), self.bare if bare is None else bare)
        fractions = [float(seen[place].float().mean()) for seen, place in places if int(place.sum()) >= LEAST_BARE]
        return max(fractions, default=None)

    def verdict(self, picture: Tensor, asked: Asked) -> Verdict:
        """picture: (3, 256, 256) in 0..1."""
        seen = (asked.flow[0] != 0).any(-1) & ~asked.landing.occluded[0]
        colour = (backward_warp(picture[None], asked.flow)[0] - self.source).abs()[:, seen].mean()
        noise = (picture - self.source)[:, ~asked.free].square().mean().clamp_min(1e-10)
        ghost = self.ghost(picture)
        old = None if ghost is None else float((picture - self.truth).abs()[:, self.bare.any(0)].mean())
        sliver = self.ghost(picture, self.bare_all)
        return Verdict(self.goal_error(picture), float(colour), ghost, old, float(-10 * noise.log10()), sliver)

    def reliable(self) -> bool:
        """Whether the drawn pictures are read rightly: at the goal after, a ghost before."""
        if self.goal_error(self.truth) >= 1.0 or self.goal_error(self.source) <= 2.5:
            return False
        after, before = self.ghost(self.truth), self.ghost(self.source)
        return after is None or (after < 0.02 and before > 0.9)


def reliable_judge(case: Case) -> Judge | None:
    judge = Judge(case)
    return judge if judge.reliable() else None


def _apart(picture: Tensor, thing: CutOut) -> Tensor:
    """(256, 256) how far each pixel's colour is from those of a cut-out."""
    colour = torch.tensor(COLOURS[thing.colour])
    light = colour + 0.62 * (1 - colour)
    mixes = torch.linspace(0, 1, 5) if thing.pattern != "plain" else torch.zeros(1)
    tones = [shade * torch.lerp(colour, light, mix) for mix in mixes for shade in (0.9, 1.0)]
    return torch.stack([(picture - tone[:, None, None]).norm(dim=0) for tone in tones]).amin(0)


def _centre(mask: Tensor) -> Tensor:
    return torch.nonzero(mask).float().mean(dim=0)


def _rim(mask: Tensor) -> Tensor:
    """(N, 2) the pixels of a mask that touch its outside."""
    return torch.nonzero(mask & dilate(~mask[None], 1)[0]).float()


def _outline_distance(found: Tensor, goal: Tensor) -> float:
    """Mean distance of the outlines in pixels, in both directions, the larger."""
    apart = torch.cdist(_rim(found), _rim(goal))
    return max(float(apart.amin(0).mean()), float(apart.amin(1).mean()))
