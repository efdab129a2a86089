"""Papercut scenes: seeded pictures of paper cut-outs on a ground, with everything about them known exactly.

A scene is a value. It renders itself and knows its caption, its masks and edges; set against a rearrangement of itself
(the same cut-outs elsewhere) it knows the forward flow and what becomes hidden or bare. Pixel (i, j) is the point
x = j, y = i; x runs right, y down, angles turn clockwise, in degrees.
"""

from dataclasses import dataclass, replace
from math import cos, exp, log, pi, radians, sin
from random import Random

import torch
from torch import Tensor

from .shapes import COLOURS, GROUNDS, PATTERNS, SHAPES, TONES, distance

SIZE = 256
# Seeds of the published splits. Training reads the first alone.
SPLITS = {
    "train": range(0, 1_000_000),
    "validation": range(1_000_000, 1_100_000),
    "test": range(2_000_000, 2_100_000),
}
SHADOW_OFFSET, SHADOW_WIDTH, SHADOW_DEPTH = (3.0, 4.0), 9.0, 0.20


@dataclass(frozen=True)
class CutOut:
    """One piece of paper: what it is, and where it lies (centre, radius in pixels, clockwise angle, stretch)."""

    shape: str
    colour: str
    pattern: str
    x: float
    y: float
    size: float
    angle: float = 0.0
    stretch: tuple[float, float] = (1.0, 1.0)
    grain: float = 0.5  # period of the pattern in local units, so that it moves, turns and grows with the paper

    @property
    def name(self) -> str:
        return " ".join(w for w in (self.colour, "" if self.pattern == "plain" else self.pattern, self.shape) if w)

    def matrix(self) -> Tensor:
        """(2, 2) float64: local units -> pixels, without the shift to the centre."""
        c, s = cos(radians(self.angle)), sin(radians(self.angle))
        a, b = self.size * self.stretch[0], self.size * self.stretch[1]
        return torch.tensor([[c * a, -s * b], [s * a, c * b]], dtype=torch.float64)

    def to_local(self, points: Tensor) -> Tensor:
        """Pixels (..., 2) -> local units (..., 2)."""
        centre = torch.tensor([self.x, self.y], dtype=points.dtype)
        return (points - centre) @ torch.linalg.inv(self.matrix()).T.to(points.dtype)

    def to_pixels(self, local: Tensor) -> Tensor:
        """Local units (..., 2) -> pixels (..., 2)."""
        return local @ self.matrix().T.to(local.dtype) + torch.tensor([self.x, self.y], dtype=local.dtype)

    def field(self, points: Tensor) -> Tensor:
        """The outline's implicit function at `points` (..., 2) -> (...): negative inside."""
        local = self.to_local(points)
        return SHAPES[self.shape](local[..., 0], local[..., 1])

    def paint(self, points: Tensor) -> Tensor:
        """The paper's colour at `points` (H, W, 2) -> (H, W, 3)."""
        local = self.to_local(points)
        colour = torch.tensor(COLOURS[self.colour])
        light = colour + 0.62 * (1 - colour)
        if self.pattern == "striped":
            fraction = _ramp(torch.cos(2 * pi * local[..., 0] / self.grain), 0.25)
        elif self.pattern == "dotted":
            wave = torch.cos(2 * pi * local[..., 0] / self.grain) + torch.cos(2 * pi * local[..., 1] / self.grain)
            fraction = _ramp(wave - 0.75, 0.5)
        else:
            fraction = torch.zeros_like(local[..., 0])
        shade = 1 - 0.10 * (0.5 + 0.5 * local[..., 1:]).clamp(
            0, 1
        )  # a faint gradient of light, so that turns can be seen
        return (colour + fraction[..., None] * (light - colour)) * shade


@dataclass(frozen=True)
class Ground:
    """What the cut-outs lie on: a tone, a kind of pattern, and where the pattern begins."""

    kind: str
    tone: str
    phase: tuple[float, float] = (0.0, 0.0)
    period: float = 56.0

    @property
    def name(self) -> str:
        return f"{self.tone} {self.kind} ground"

    def paint(self, points: Tensor) -> Tensor:
        """The ground's colour at `points` (H, W, 2) -> (H, W, 3)."""
        x, y = points[..., 0], points[..., 1]
        turn = 2 * pi / self.period
        if self.kind == "gradient":
            dark = ((x * cos(self.phase[0]) + y * sin(self.phase[0])) / SIZE + 0.5).clamp(0, 1.5) / 1.5 * 1.6
        elif self.kind == "checked":
            dark = _ramp(torch.sin(turn * x + self.phase[0]) * torch.sin(turn * y + self.phase[1]), 0.15)
        elif self.kind == "waves":
            dark = _ramp(torch.sin(turn * y + self.phase[0] + 1.2 * torch.sin(turn * 0.6 * x + self.phase[1])), 0.3)
        else:
            dark = torch.zeros_like(x)
        return torch.tensor(TONES[self.tone]) * (1 - 0.13 * dark[..., None])


@dataclass(frozen=True)
class Scene:
    """Cut-outs, back to front, on a ground."""

    ground: Ground
    objects: tuple[CutOut, ...]

    @property
    def caption(self) -> str:
        names = [f"{'an' if o.name[0] in 'aeiou' else 'a'} {o.name}" for o in self.objects]
        ground = f"a {self.ground.name}"
        if not names:
            return ground
        things = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
        return f"{things} on {ground}"

    def render(self, points: Tensor | None = None) -> Tensor:
        """The picture, (3, 256, 256) float32 in 0..1, with smooth edges and soft shadows; or what is seen at points
        (H, W, 2), a pixel apart."""
        points = pixel_grid() if points is None else points
        picture = self.ground.paint(points)
        for item in self.objects:
            shadow = distance(item.field(points - torch.tensor(SHADOW_OFFSET)))
            picture = picture * (1 - SHADOW_DEPTH * (0.5 - shadow / SHADOW_WIDTH).clamp(0, 1)[..., None])
            cover = (0.5 - distance(item.field(points)) / 1.3).clamp(0, 1)[..., None]
            picture = picture + cover * (item.paint(points) - picture)
        return picture.permute(2, 0, 1).clamp(0, 1).float()

    def labels(self, points: Tensor | None = None) -> Tensor:
        """Which cut-out is seen at each point (..., 2): its index, or -1 for the ground."""
        points = pixel_grid() if points is None else points
        seen = torch.full(points.shape[:-1], -1, dtype=torch.long)
        for i, item in enumerate(self.objects):
            seen[item.field(points) < 0] = i
        return seen

    def masks(self) -> Tensor:
        """(N, 256, 256) bool: the visible part of each cut-out."""
        return self.labels()[None] == torch.arange(len(self.objects))[:, None, None]

    def edges(self) -> Tensor:
        """(256, 256) bool: pixels whose right or lower neighbour shows another cut-out."""
        seen = self.labels()
        edge = torch.zeros_like(seen, dtype=torch.bool)
        edge[:, :-1] |= seen[:, :-1] != seen[:, 1:]
        edge[:-1] |= seen[:-1] != seen[1:]
        return edge

    def with_object(self, index: int, **changes) -> "Scene":
        """The same scene with one cut-out changed (any field of `CutOut`)."""
        objects = list(self.objects)
        objects[index] = replace(objects[index], **changes)
        return replace(self, objects=tuple(objects))

    def with_ground(self, **changes) -> "Scene":
        return replace(self, ground=replace(self.ground, **changes))

    def motion_to(self, other: "Scene") -> "Motion":
        """Ground truth between this scene and a rearrangement of it (same cut-outs, same order)."""
        if [o.shape for o in self.objects] != [o.shape for o in other.objects]:
            raise ValueError("A rearrangement has the same cut-outs in the same order.")
        flow, occluded = _carry(self, other)
        _, uncovered = _carry(other, self)
        return Motion(flow, occluded, uncovered)


@dataclass(frozen=True)
class Motion:
    """flow: (256, 256, 2) float32 pixels on the first picture, forward; occluded: (256, 256) bool on the first picture,
    what is not seen in the second; uncovered: (256, 256) bool on the second, what was not seen in the first."""

    flow: Tensor
    occluded: Tensor
    uncovered: Tensor


def pixel_grid() -> Tensor:
    """(256, 256, 2) float32: the point x, y of every pixel."""
    side = torch.arange(SIZE, dtype=torch.float32)
    return torch.stack(torch.meshgrid(side, side, indexing="xy"), -1)


def sample_scene(seed: int, objects: int | None = None) -> Scene:
    """The scene of a seed: one to three cut-outs (mostly one), or as many as asked for (0 to 3)."""
    rng = Random(f"papercut-{seed}")
    count = rng.choices((1, 2, 3), (0.6, 0.25, 0.15))[0] if objects is None else objects
    phase = (rng.uniform(0, 2 * pi), rng.uniform(0, 2 * pi))
    ground = Ground(rng.choice(GROUNDS), rng.choice(tuple(TONES)), phase, rng.uniform(48, 72))
    placed: list[CutOut] = []
    while len(placed) < count:
        item = _sample_cutout(rng, count, taken={(o.colour, o.shape) for o in placed})
        tight = 0.75 if rng.random() < 0.2 else 1.05  # now and then two overlap
        if all((item.x - o.x) ** 2 + (item.y - o.y) ** 2 > (tight * (item.size + o.size)) ** 2 for o in placed):
            placed.append(item)
    return Scene(ground, tuple(placed))


def rearranged(scene: Scene, seed: int, *, reach: float = 32.0) -> Scene:
    """The scene with at least one cut-out moved by up to `reach` pixels, turned, or scaled so that it can be seen."""
    rng = Random(f"papercut-motion-{seed}")
    chosen = [i for i in range(len(scene.objects)) if rng.random() < 0.6] or [rng.randrange(len(scene.objects))]
    for i in chosen:
        item = scene.objects[i]
        length, way = reach * rng.random() ** 0.7, rng.uniform(0, 2 * pi)
        x = min(max(item.x + length * cos(way), 0.6 * item.size), SIZE - 0.6 * item.size)
        y = min(max(item.y + length * sin(way), 0.6 * item.size), SIZE - 0.6 * item.size)
        limit = min(25.0, 0.5 * reach / item.size * 180 / pi)
        turn = 0.0 if item.shape in ("circle", "ring") and item.pattern == "plain" else rng.uniform(-limit, limit)
        grow = rng.uniform(1 - 0.25 * reach / 32, 1 + 0.25 * reach / 32)
        scene = scene.with_object(i, x=x, y=y, angle=item.angle + turn, size=item.size * max(grow, 0.5))
    return scene


def _sample_cutout(rng: Random, count: int, taken: set[tuple[str, str]]) -> CutOut:
    while True:
        shape, colour = rng.choice(tuple(SHAPES)), rng.choice(tuple(COLOURS))
        if (colour, shape) not in taken:
            break
    low, high = (26, 100) if count < 2 else (24, 54)
    size = exp(rng.uniform(log(low), log(high)))
    margin = min(0.9 * size, SIZE / 2 - 6)
    x, y = rng.uniform(margin, SIZE - margin), rng.uniform(margin, SIZE - margin)
    grain = min(max(rng.uniform(17, 26) / size, 0.34), 0.75)
    return CutOut(shape, colour, rng.choice(PATTERNS), x, y, size, rng.uniform(-25, 25), (1.0, 1.0), grain)


def _carry(first: Scene, second: Scene) -> tuple[Tensor, Tensor]:
    """Where each pixel of `first` goes in `second` (256, 256, 2), and whether it is hidden there (256, 256)."""
    points = pixel_grid().double()
    seen, goal = first.labels(points), points.clone()
    for i, (a, b) in enumerate(zip(first.objects, second.objects)):
        goal[seen == i] = b.to_pixels(a.to_local(points[seen == i]))
    outside = ((goal < -0.5) | (goal > SIZE - 0.5)).any(-1)
    return (goal - points).float(), outside | (second.labels(goal) != seen)


def _ramp(wave: Tensor, softness: float) -> Tensor:
    """A soft step: 0 below, 1 above zero."""
    return (0.5 + wave / (2 * softness)).clamp(0, 1)
