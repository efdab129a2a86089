"""Chains of Papercut scenes to morph, and how a morph is judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from random import Random

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ...morphing.frame_distance import pairs, table, token_between
from ...papercut.classifier import SIDE, Classifier
from ...papercut.scenes import SIZE, SPLITS, CutOut, Ground, Scene, pixel_grid

COLOURS = ("red", "orange", "green", "blue", "purple", "pink", "brown", "black")
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "moon")
TONES = ("cream", "mint", "rose", "sky", "lilac")
KINDS = ("shape", "colour", "place", "ground")
# Neighbours in these look alike: the first of each list to the second is near, to the last is far.
NEAR = {
    "circle": "moon",
    "square": "cross",
    "triangle": "heart",
    "star": "cross",
    "heart": "circle",
    "cross": "star",
    "moon": "circle",
    "red": "orange",
    "orange": "red",
    "green": "blue",
    "blue": "purple",
    "purple": "blue",
    "pink": "red",
    "brown": "black",
    "black": "brown",
}
# Fractions of the strongest contrast in a picture: a thing is above the first; a ghost lies between the two.
SOLID, GHOST = 0.5, 0.25
BORDER, SHADOW = 12, 17
# Radii of the cut-outs; less than this fraction of the area of the least of them is a scrap of paper, and no thing.
SIZES, SCRAP = (46.0, 60.0), 0.25


def chains(count: int = 10, length: int = 4, split: str = "test") -> list[tuple[Scene, ...]]:
    """Chains of scenes in which each step changes one thing, every kind in turn, near and far in turn."""
    found = []
    for index in range(count):
        rng = Random(SPLITS[split][index])
        scenes = [single(rng)]
        for step in range(length - 1):
            scenes.append(changed(scenes[-1], KINDS[(index + step) % 4], bool((index // 2 + step) % 2), rng))
        found.append(tuple(scenes))
    return found


def single(rng: Random) -> Scene:
    """One plain cut-out on a ground without texture, so that what is found in a frame is a thing and no pattern."""
    x, y = (rng.uniform(96, SIZE - 96) for _ in range(2))
    thing = CutOut(rng.choice(SHAPES), rng.choice(COLOURS), "plain", x, y, rng.uniform(*SIZES), rng.uniform(-15, 15))
    return Scene(Ground(rng.choice(("plain", "gradient")), rng.choice(TONES), (rng.uniform(0, 6), 0.0)), (thing,))


def changed(scene: Scene, kind: str, far: bool, rng: Random) -> Scene:
    """The scene with one thing different."""
    thing, ground = scene.objects[0], scene.ground
    if kind == "ground":
        tone = rng.choice([tone for tone in TONES if tone != ground.tone])
        other = "gradient" if ground.kind == "plain" else "plain"
        return replace(scene, ground=replace(ground, tone=tone, kind=other if far else ground.kind))
    if kind == "place":
        reach = 70.0 if far else 28.0
        x = thing.x + (reach if thing.x < SIZE / 2 else -reach)
        thing = replace(thing, x=x, y=thing.y + (reach if thing.y < SIZE / 2 else -reach) / 2)
    else:
        options, now = (SHAPES, thing.shape) if kind == "shape" else (COLOURS, thing.colour)
        other = rng.choice([word for word in options if word not in (now, NEAR[now])]) if far else NEAR[now]
        thing = replace(thing, **{kind: other})
    return replace(scene, objects=(thing,))


def things_in(picture: Tensor) -> int:
    """How many things stand out from the ground of a picture (3, H, W) in 0..1; a ghost of one counts as well, a scrap
    of paper does not.

    The ground is the plane of colour through the border. Shadows lie next to their things and are not counted.
    """
    from scipy import ndimage

    pixels = picture.movedim(0, -1).double().numpy()
    contrast = np.linalg.norm(pixels - _ground(pixels), axis=-1)
    strongest = np.quantile(contrast, 0.995)
    if strongest < 0.2:
        return 0
    solid = ndimage.binary_opening(contrast > SOLID * strongest, iterations=1)
    near = ndimage.binary_dilation(solid, iterations=SHADOW)
    ghosts = ndimage.binary_opening((contrast > GHOST * strongest) & ~near, iterations=1)
    smallest = SCRAP * smallest_thing() * contrast.size
    return sum(_pieces(found, smallest) for found in (solid, ghosts))


@cache
def smallest_thing() -> float:
    """The area of the least cut-out that a scene may hold, as a fraction of the picture."""
    areas = []
    for shape in SHAPES:
        thing = CutOut(shape, COLOURS[0], "plain", SIZE / 2, SIZE / 2, SIZES[0])
        areas.append(float((thing.field(pixel_grid()) < 0).double().mean()))
    return min(areas)


def _pieces(found: np.ndarray, smallest: float) -> int:
    from scipy import ndimage

    labels, count = ndimage.label(found, structure=np.ones((3, 3)))
    return int((ndimage.sum_labels(found, labels, range(1, count + 1)) >= smallest).sum()) if count else 0


def _ground(pixels: np.ndarray) -> np.ndarray:
    """The plane of colour that fits the border best, robustly: what touches the border is left out."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    basis = np.stack([np.ones_like(x), x / width, y / height], -1).astype(np.float64)
    border = np.ones((height, width), bool)
    border[BORDER:-BORDER, BORDER:-BORDER] = False
    a, b = basis[border], pixels[border]
    keep = np.linalg.norm(b - np.median(b, axis=0), axis=-1) < 0.25
    plane = np.linalg.lstsq(a[keep], b[keep], rcond=None)[0]
    return basis @ plane


def perceived(pictures: Tensor, classifier: Classifier, cyclic: bool = False) -> Tensor:
    """Distances of neighbours to the eye of the classifier, much as LPIPS (arXiv 1801.03924) has them: between
    directions of its features, place by place and layer by layer. (N, H, W, 3) in 0..1 -> (N-1,), or (N,) around a
    cycle.
    """
    return torch.stack([token_between(*pairs(tokens, cyclic)) for tokens in _looked_at(pictures, classifier)]).mean(0)


def perceived_table(pictures: Tensor, classifier: Classifier) -> Tensor:
    """(N, N), such distances of any two pictures."""
    return torch.stack([table(tokens, token_between) for tokens in _looked_at(pictures, classifier)]).mean(0)


def _looked_at(pictures: Tensor, classifier: Classifier) -> Iterator[Tensor]:
    """(N, places, features) of each layer."""
    x = pictures.movedim(-1, 1)
    x = torch.nn.functional.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True) * 2 - 1
    for layer in classifier.trunk:
        x = layer(x)
        yield rearrange(x, "n c h w -> n (h w) c")


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over pictures (B, H, W, 3) in 0..1, in dB."""
    error = (a.clamp(0, 1) - b).square().flatten(1).mean(1).clamp_min(1e-12)
    return float((-10 * torch.log10(error)).mean())


def frechet(a: Tensor, b: Tensor) -> float:
    """The distance of two sets of features (N, D) and (M, D) as FID (arXiv 1706.08500) has it: of their Gaussians."""
    a, b = a.double(), b.double()
    covariances = torch.cov(a.T), torch.cov(b.T)
    shared = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp_min(0).sqrt().sum()
    apart = (a.mean(0) - b.mean(0)).square().sum()
    return float(apart + covariances[0].trace() + covariances[1].trace() - 2 * shared)
