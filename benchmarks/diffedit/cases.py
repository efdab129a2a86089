"""Papercut edits with everything known: two scenes, their captions, what differs between them and where.

All are drawn from the test split: one cut-out on a ground, with one word of its caption changed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, log
from random import Random

import torch
from torch import Tensor

from ...papercut.scenes import SIZE, SPLITS, Scene, sample_scene
from ...papercut.shapes import COLOURS, PATTERNS, SHAPES, TONES

KINDS = ("colour", "shape", "pattern", "tone")
SMALLEST, LARGEST = 0.02, 0.60
FIRST_SEED = 20_000


@dataclass(frozen=True)
class Edit:
    """kind: what is changed, a word that the classifier answers. mask: (256, 256) bool, where the pictures differ."""

    kind: str
    before: Scene
    after: Scene
    mask: Tensor

    @property
    def fraction(self) -> float:
        """The part of the picture that has to change, 0..1."""
        return float(self.mask.float().mean())


def edits(count: int, kinds: tuple[str, ...] = KINDS) -> list[Edit]:
    """The first `count` edits; the kinds take turns, and so do small and large cut-outs (2 % to 60 % of the area)."""
    seeds = SPLITS["test"][FIRST_SEED:]
    return [_edit(seeds[i], kinds[i % len(kinds)], (i // len(kinds)) % 10 / 9) for i in range(count)]


def _edit(seed: int, kind: str, place: float) -> Edit:
    rng = Random(f"papercut-edit-{seed}")
    area = exp(log(SMALLEST) + place * (log(LARGEST) - log(SMALLEST)))
    before = _with_area(sample_scene(seed, objects=1), area)
    item = before.objects[0]
    if kind == "tone":
        after = before.with_ground(tone=_other(rng, TONES, before.ground.tone))
        return Edit(kind, before, after, ~before.masks()[0])
    vocabulary = {"colour": COLOURS, "shape": SHAPES, "pattern": PATTERNS}[kind]
    after = before.with_object(0, **{kind: _other(rng, vocabulary, getattr(item, kind))})
    return Edit(kind, before, after, before.masks()[0] | after.masks()[0])


def _other(rng: Random, vocabulary, present: str) -> str:
    return rng.choice([word for word in vocabulary if word != present])


def _with_area(scene: Scene, area: float) -> Scene:
    """The scene with its cut-out scaled to cover `area` of the picture, as far as it fits, and moved inside."""
    item = scene.objects[0]
    here = float(replace(scene, objects=(replace(item, x=SIZE / 2, y=SIZE / 2),)).masks().float().mean())
    size = min(item.size * (area / here) ** 0.5, SIZE / 2)
    low, high = min(0.95 * size, SIZE / 2), max(SIZE - 0.95 * size, SIZE / 2)
    x, y = min(max(item.x, low), high), min(max(item.y, low), high)
    # The pattern keeps its period in pixels.
    grain = min(max(item.grain * item.size / size, 0.2), 0.75)
    return scene.with_object(0, size=size, x=x, y=y, grain=grain)


def pictures(scenes: list[Scene]) -> Tensor:
    """(B, 3, 256, 256) float32 in 0..1."""
    return torch.stack([scene.render() for scene in scenes])
