"""The pictures and the edits of them: photographs of scikit-image and scikit-learn, and Papercut's scenes.

Both packages come with `make setup`; without them only Papercut is measured. Their pictures are read as files.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...guidance.finish.alignment import resized, size_of
from ...papercut.scenes import SPLITS, sample_scene
from .truth import KINDS, Cast, Move, Truth, make

FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}
PHOTOGRAPHS = {
    "validation": ("coffee.png", "china.jpg", "brick.png", "rocket.jpg", "motorcycle_left.png", "gravel.png"),
    "test": (
        "astronaut.png", "flower.jpg", "grass.png", "chelsea.png", "camera.png", "hubble_deep_field.jpg", "coins.png",
        "ihc.png", "retina.jpg",
    ),
}  # fmt: skip
TEXTURES = ("brick.png", "gravel.png", "grass.png")
FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
SIDES = (8, 16, 112)
LARGEST = 1024
"""Pixels of the longer side; larger photographs are reduced."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """name: of the picture; fraction: of it that is edited; kind: how."""

    name: str
    fraction: float
    kind: str
    seed: int
    move: Move
    cast: Cast
    pictures: tuple[Tensor, Tensor]

    def truth(self) -> Truth:
        source, other = self.pictures
        return make(source, other, self.fraction, self.move, seed=self.seed, kind=self.kind, cast=self.cast)


def photographs(split: str) -> dict[str, Tensor]:
    """Those of the split that are here, (3, H, W) each; none where the packages are not installed."""
    found = {}
    for package, folder in FOLDERS.items():
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        for path in sorted((Path(spec.submodule_search_locations[0]) / folder).iterdir()):
            if path.name in PHOTOGRAPHS[split]:
                found[path.name] = read(path)
    return found


def read(path: Path) -> Tensor:
    with Image.open(path) as picture:
        picture = picture.convert("RGB")
        picture.thumbnail((LARGEST, LARGEST))
        return torch.from_numpy(np.asarray(picture).copy()).movedim(-1, 0).float() / 255


def scenes(split: str, count: int) -> dict[str, Tensor]:
    """Papercut's, (3, 256, 256) each."""
    return {f"scene {i}": sample_scene(SPLITS[split][i]).render() for i in range(count)}


def cases(pictures: dict[str, Tensor], count: int, first: int) -> list[Case]:
    """So many edits of the pictures in turn; first: the number of the first one, which is its seed."""
    names = sorted(pictures)
    return [drawn(names, pictures, first + i) for i in range(count)]


def drawn(names: list[str], pictures: dict[str, Tensor], number: int) -> Case:
    """A random edit and what the editor does to the whole: one in six shifts by less than a pixel and no more."""
    draw = random.Random(number)
    at = number % len(names)
    source = pictures[names[at]]
    other = pictures[names[(at + 1 + draw.randrange(len(names) - 1)) % len(names)]]
    height, width = size_of(source)
    multiple, factor = draw.choice(SIDES), draw.choice((1.0, 1.0, 0.8, 1.2))
    size = tuple(max(multiple, round(side * factor / multiple) * multiple) for side in (height, width))
    zoom = 1.0 if draw.random() < 0.25 else draw.uniform(0.8, 1.2)
    aspect = draw.choice((1.0, 1.0, draw.uniform(0.96, 1.04)))
    move = Move(
        size=(size[0], size[1]),
        right=draw.uniform(-0.05, 0.05) * width,
        down=draw.uniform(-0.05, 0.05) * height,
        wider=zoom * aspect,
        higher=zoom / aspect,
        turned=draw.choice((0.0, draw.uniform(-3, 3))),
        crop=draw.random() < 0.3,
    )
    if draw.random() < 1 / 6:
        move = Move(size=(size[0], size[1]), right=draw.uniform(-0.5, 0.5), down=draw.uniform(-0.5, 0.5))
    red, green, blue = (draw.uniform(0.92, 1.08) for _ in range(3))
    offset = draw.uniform(-0.03, 0.03), draw.uniform(-0.03, 0.03), draw.uniform(-0.03, 0.03)
    return Case(
        name=names[at],
        fraction=draw.choice(FRACTIONS),
        kind=draw.choice(KINDS),
        seed=number,
        move=move,
        cast=Cast(gain=(red, green, blue), offset=offset, field=draw.choice((0.0, 0.0, 0.02))),
        pictures=(source, resized(other, (height, width))),
    )
