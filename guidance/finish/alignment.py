"""Where each point of a source lies in the picture that an editor made of it, and pictures read at such places.

Coordinates are continuous: the centre of the first pixel is at 0.5, so that another size of a picture is a mere factor.

Resampling in two passes: Catmull and Smith, "3-D transformations of images in scanline order", SIGGRAPH 1980. Kernel:
Lanczos with three lobes, wider where the picture shrinks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LOBES = 3
CELL = 16
"""Pixels a side of a latent's cell, at most."""
Size = tuple[int, int]
"""(height, width) in pixels."""


def size_of(picture: Tensor) -> Size:
    """Of a picture (..., H, W)."""
    return picture.shape[-2], picture.shape[-1]


class Box(NamedTuple):
    """Rows top..bottom and columns left..right of a picture, the last ones excluded."""

    top: int
    bottom: int
    left: int
    right: int

    def wider(self, pixels: int, size: Size) -> Box:
        """By so many pixels on each side, within a picture of this size."""
        height, width = size
        top, left = max(0, self.top - pixels), max(0, self.left - pixels)
        return Box(top, min(height, self.bottom + pixels), left, min(width, self.right + pixels))


@dataclass(frozen=True, kw_only=True, eq=False)
class Alignment:
    """edited = matrix @ source + shift, for points (x, y) in pixels of both pictures.

    matrix: (2, 2), shift: (2,), float64 on the CPU. source, edited: the sizes of the two pictures.
    """

    matrix: Tensor
    shift: Tensor
    source: Size
    edited: Size

    @classmethod
    def stretched(cls, source: Size, edited: Size) -> Alignment:
        """The edited picture shows all of the source, at its own size and proportions: nothing has moved."""
        factors = torch.tensor([edited[1] / source[1], edited[0] / source[0]], dtype=torch.float64)
        return cls(matrix=factors.diag(), shift=torch.zeros(2, dtype=torch.float64), source=source, edited=edited)

    @classmethod
    def lying(cls, source: Size, edited: Size) -> Alignment:
        """As an edit lies that nobody has moved: the middle of the source where it is smaller by less than CELL pixels,
        which is what VAE Encode keeps; else all of it, stretched."""
        cut = [whole - part for whole, part in zip(source, edited)]
        if source == edited or not all(0 <= one < CELL for one in cut):
            return cls.stretched(source, edited)
        shift = torch.tensor([-(cut[1] // 2), -(cut[0] // 2)], dtype=torch.float64)
        return cls(matrix=torch.eye(2, dtype=torch.float64), shift=shift, source=source, edited=edited)

    def at(self, source: Size, edited: Size) -> Alignment:
        """The same between copies of these sizes."""
        before = torch.tensor([self.source[1] / source[1], self.source[0] / source[0]], dtype=torch.float64)
        after = torch.tensor([edited[1] / self.edited[1], edited[0] / self.edited[0]], dtype=torch.float64)
        matrix = after[:, None] * self.matrix * before
        return Alignment(matrix=matrix, shift=after * self.shift, source=source, edited=edited)

    def after(self, matrix: Tensor, shift: Tensor) -> Alignment:
        """A point of the source first goes through `matrix @ point + shift`, then as before."""
        moved = self.matrix @ shift + self.shift
        return replace(self, matrix=self.matrix @ matrix, shift=moved)

    def of(self, points: Tensor) -> Tensor:
        """Places in the edited picture, (..., 2), of points of the source, (..., 2), both (x, y)."""
        return points @ self.matrix.T.to(points) + self.shift.to(points)

    def drift(self) -> tuple[Tensor, Tensor]:
        """(matrix, shift) of the same move in the source's own pixels: what is left when both have one size."""
        alike = self.at(self.source, self.source)
        return alike.matrix, alike.shift

    def farthest(self) -> float:
        """Pixels of the source by which a corner of it has moved at most; 0 where nothing has."""
        matrix, shift = self.drift()
        moved = matrix - torch.eye(2).to(matrix)  # first, so that 0 is exactly 0
        return float((corners(self.source) @ moved.T + shift).norm(dim=1).max())

    def away(self, other: Alignment) -> float:
        """Pixels of the source between where both put a corner of it, at most."""
        ends = corners(self.source)
        apart = (self.of(ends) - other.of(ends)) @ torch.linalg.inv(other.matrix).T
        return float(apart.norm(dim=1).max())

    def move(self) -> Move:
        matrix, shift = self.drift()
        centre = torch.tensor([self.source[1] / 2, self.source[0] / 2], dtype=torch.float64)
        wide, high = float(matrix[:, 0].norm()), float(matrix[:, 1].norm())
        turned = math.degrees(math.atan2(float(matrix[1, 0] - matrix[0, 1]), float(matrix[0, 0] + matrix[1, 1])))
        by = matrix @ centre + shift - centre
        return Move(right=float(by[0]), down=float(by[1]), wider=wide, higher=high, turned=turned)

    def overlap(self) -> Tensor:
        """(H, W) bool: the pixels of the source that the edited picture shows."""
        height, width = self.source
        x = torch.arange(width, dtype=torch.float32) + 0.5
        y = torch.arange(height, dtype=torch.float32)[:, None] + 0.5
        (a, b), (c, d) = self.matrix.tolist()
        right, down = self.shift.tolist()
        across, along = a * x + b * y + right, c * x + d * y + down
        # Half a pixel: the outermost pixels are known to their centres.
        inside = (across >= 0.5 - EDGE) & (across <= self.edited[1] - 0.5 + EDGE)
        return inside & (along >= 0.5 - EDGE) & (along <= self.edited[0] - 0.5 + EDGE)


EDGE = 0.25
"""So many pixels beyond the outermost centres a picture still counts as known."""


class Move(NamedTuple):
    """An alignment in words' terms. right, down: how far the middle has moved, in pixels of the source; wider, higher:
    factors of size; turned: degrees clockwise."""

    right: float
    down: float
    wider: float
    higher: float
    turned: float


def corners(size: Size) -> Tensor:
    """(4, 2) float64, (x, y) of the picture's corners."""
    height, width = size
    return torch.tensor([[0, 0], [width, 0], [0, height], [width, height]], dtype=torch.float64)


def warp(edited: Tensor, alignment: Alignment, mode: str = "bilinear") -> Tensor:
    """edited (C, h, w) on the source's grid -> (C, H, W), by torch's sampler: quick, for finding and comparing.

    Beyond the edges the outermost pixels are repeated. The picture must not be much larger than the source.
    """
    (height, width), (h, w) = alignment.source, alignment.edited
    # torch's places run from -1 to 1 on both pictures.
    theta = torch.empty(2, 3, dtype=torch.float64)
    theta[:, :2] = alignment.matrix * torch.tensor([width, height]) / torch.tensor([[w], [h]])
    centre = alignment.of(torch.tensor([width / 2, height / 2], dtype=torch.float64))
    theta[:, 2] = centre / torch.tensor([w, h]) * 2 - 1
    x, y = (torch.linspace(-1, 1, 2 * side + 1, dtype=torch.float64)[1::2] for side in (width, height))
    # torch's own affine_grid takes as long as the sampler.
    across, down = ((row[0] * x).float() + (row[1] * y + row[2]).float()[:, None] for row in theta)
    grid = torch.stack([across, down], -1).to(edited)
    return F.grid_sample(edited[None], grid[None], mode=mode, padding_mode="border", align_corners=False)[0]


def resample(edited: Tensor, alignment: Alignment, box: Box) -> Tensor:
    """edited (C, h, w) at the places of the source's pixels in the box -> (C, bottom - top, right - left).

    Lanczos in both directions; beyond the edges the outermost pixels are repeated. The matrix must not turn by more
    than a few tens of degrees.
    """
    (a, b), (c, d) = alignment.matrix.tolist()
    right, down = alignment.shift.tolist()
    x = torch.arange(box.left, box.right, device=edited.device, dtype=torch.float32) + 0.5
    y = torch.arange(box.top, box.bottom, device=edited.device, dtype=torch.float32) + 0.5
    # Rows of the edited picture that the box needs, with the reach of the kernel.
    reach = LOBES * max(1.0, abs(d)) + 1
    ends = [c * at_x + d * at_y + down for at_x in (box.left, box.right) for at_y in (box.top, box.bottom)]
    first = min(max(0, math.floor(min(ends) - reach)), edited.shape[1] - 1)
    last = max(min(edited.shape[1], math.ceil(max(ends) + reach)), first + 1)
    rows = torch.arange(first, last, device=edited.device, dtype=torch.float32) + 0.5
    # First pass: along each row of the edited picture, at the columns of the source. The row `c x + d y + down` is
    # met at this y, which says where on the row the column lies.
    met = (rows[:, None] - down - c * x) / d
    across = _along(edited[:, first:last], a * x + b * met + right, abs(a - b * c / d), 2)
    # Second pass: along each column.
    return _along(across, c * x + d * y[:, None] + down - first, abs(d), 1)


def _along(picture: Tensor, places: Tensor, shrink: float, dim: int) -> Tensor:
    """picture (C, h, w) read along one of its sides (dim 1 or 2) at places (h', w') in continuous pixels.

    shrink: pixels of the picture from one place to the next; above 1 the kernel widens, against aliasing.
    """
    wide = max(1.0, shrink)
    half = math.ceil(LOBES * wide)
    size = picture.shape[dim]
    nearest = (places - 0.5).floor()
    part = places - 0.5 - nearest
    index = nearest.long()
    total = torch.zeros_like(places)
    out = picture.new_zeros(picture.shape[0], *places.shape)
    for tap, weight in _lanczos(part, range(1 - half, half + 1), wide):
        total += weight
        at = (index + tap).clamp_(0, size - 1)
        out += weight * picture.gather(dim, at.expand(picture.shape[0], *at.shape))
    return out / total


def _lanczos(part: Tensor, taps: Iterable[int], wide: float) -> Iterator[tuple[int, Tensor]]:
    """Each tap with sinc(x) sinc(x / LOBES) at x = (part - tap) / wide, 0 beyond the lobes.

    Sines of differences come from those of the two parts, which are taken once.
    """
    waves = [(turn, (turn * part).sin(), (turn * part).cos()) for turn in (math.pi / wide, math.pi / wide / LOBES)]
    for tap in taps:
        x = (part - tap) / wide
        narrow, broad = (sin * math.cos(turn * tap) - cos * math.sin(turn * tap) for turn, sin, cos in waves)
        value = narrow * broad * (LOBES / math.pi**2) / x.square()
        yield tap, torch.where(x.abs() < 1e-3, 1.0, value) * (x.abs() < LOBES)


def resized(picture: Tensor, size: Size) -> Tensor:
    """picture (C, h, w) at this size, smoothed first where it shrinks."""
    if size_of(picture) == size:
        return picture
    return F.interpolate(picture[None], size, mode="bilinear", align_corners=False, antialias=True)[0]


def within(size: Size, area: int) -> Size:
    """The size, its proportions kept, of at most `area` pixels; never larger than it was."""
    factor = min(1.0, math.sqrt(area / (size[0] * size[1])))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
