"""Motions of Papercut's test split, known through and through: the flow to ask for, and the picture that is right.

A case takes part only if `motion_judge.py` reads it rightly in the drawn pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import cos, pi, sin
from random import Random
from typing import TypeVar

import torch
from torch import Tensor

from ...guidance.flow.fields import Transform, compose_flows, transform_flow
from ...papercut.scenes import SIZE, SPLITS, CutOut, Scene, sample_scene

Judged = TypeVar("Judged")
MOVES = (8, 16, 32, 48, 64, 96)
COUNTS = {f"move {length} px": 8 for length in MOVES} | {
    "turn": 11, "scale": 10, "stretch": 10, "two objects": 10, "onto a pattern": 11,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A motion. moved: which cut-outs go elsewhere, back to front, and how."""

    kind: str
    before: Scene
    after: Scene
    moved: tuple[tuple[int, Transform], ...]

    def flow(self) -> tuple[Tensor, Tensor]:
        """What an artist would ask for: (1, 256, 256, 2), and the layers (1, 256, 256)."""
        masks, parts = self.before.masks(), []
        for index, change in reversed(self.moved):
            item = self.before.objects[index]
            pivot = torch.tensor([item.x, item.y], dtype=torch.float64)
            parts.append(transform_flow(masks[index][None].float(), change, pivot))
        return compose_flows(parts)

    def emptied(self) -> Scene:
        """The scene without what moves."""
        moved = {index for index, _ in self.moved}
        kept = tuple(item for i, item in enumerate(self.before.objects) if i not in moved)
        return Scene(self.before.ground, kept)


def inside(item: CutOut, margin: float = 6.0) -> bool:
    """Whether a cut-out lies in the picture with its shadow."""
    reach = 1.1 * item.size * max(item.stretch) + margin
    return all(reach <= value <= SIZE - reach for value in (item.x, item.y))


def changed(item: CutOut, change: Transform) -> CutOut:
    """The cut-out after a motion about its own centre; a stretch runs along its own first axis."""
    return CutOut(
        item.shape,
        item.colour,
        item.pattern,
        item.x + change.move[0],
        item.y + change.move[1],
        item.size * change.scale,
        item.angle + change.turn,
        (item.stretch[0] * change.stretch, item.stretch[1]),
        item.grain,
    )


def _move(rng: Random, length: float) -> Transform:
    way = rng.uniform(0, 2 * pi)
    return Transform(move=(round(length * cos(way)), round(length * sin(way))))


def _turn(rng: Random, item: CutOut) -> Transform | None:
    """Turns whose outline shows them."""
    if item.shape in ("circle", "ring"):
        return None
    return Transform(turn=rng.choice((-1, 1)) * rng.uniform(20, 45))


def _scale(rng: Random, item: CutOut) -> Transform:
    return Transform(scale=rng.choice((rng.uniform(0.6, 0.8), rng.uniform(1.25, 1.6))))


def _stretch(rng: Random, item: CutOut) -> Transform:
    return Transform(stretch=rng.choice((rng.uniform(0.55, 0.75), rng.uniform(1.3, 1.7))), stretch_angle=item.angle)


def _two(rng: Random, item: CutOut) -> Transform:
    move = _move(rng, rng.uniform(16, 48))
    return Transform(move=move.move, turn=0.0 if item.shape in ("circle", "ring") else rng.uniform(-20, 20))


def _chooser(kind: str) -> Callable[[Random, CutOut], Transform | None]:
    if kind.startswith("move"):
        return lambda rng, item: _move(rng, float(kind.split()[1]))
    if kind == "onto a pattern":
        return lambda rng, item: _move(rng, rng.uniform(32, 72))
    return {"turn": _turn, "scale": _scale, "stretch": _stretch, "two objects": _two}[kind]


def attempt(kind: str, seed: int) -> Case | None:
    """The case of a seed, or None where its scene does not fit the kind."""
    rng, count = Random(f"motion-{kind}-{seed}"), 2 if kind == "two objects" else 1
    before = sample_scene(seed, objects=count)
    if kind == "onto a pattern" and before.ground.kind not in ("checked", "waves"):
        return None
    if len({item.colour for item in before.objects}) < count:
        return None
    moved, after, choose = [], before, _chooser(kind)
    for index, item in enumerate(before.objects):
        change = choose(rng, item)
        if change is None or not inside(item) or not inside(changed(item, change)):
            return None
        moved.append((index, change))
        after = after.with_object(index, **vars(changed(item, change)))
    return Case(kind, before, after, tuple(moved))


def cases(counts: dict[str, int], judge: Callable[[Case], Judged | None], split: str = "test") -> Iterator[Judged]:
    """What `judge` makes of so many motions of each kind, always the same, no scene twice; None is passed over."""
    seeds = iter(SPLITS[split])
    for kind, count in counts.items():
        found = 0
        while found < count:
            case = attempt(kind, next(seeds))
            judged = None if case is None else judge(case)
            if judged is not None:
                found += 1
                yield judged
