"""The colour cast that an editor has laid over a picture, and its removal.

A gain a channel, and an offset that is the same everywhere or a cubic of the place, fitted to the pixels that agree
(iteratively reweighted least squares, Geman and McClure's weights). A cubic cannot follow the outline of an edit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .alignment import size_of
from .registration import LUMINANCE

Colour = Literal["off", "gain and offset", "smooth field"]

SAMPLES = 2**13
ROUNDS = 8
DARKEST, LIGHTEST = 2 / 255, 253 / 255
"""Beyond these a channel is cut off, and says nothing of its gain."""
LEAST, MOST = 2 / 255, 0.05
"""Differences of this size are expected in any picture that was compressed, and from most casts."""
CELLS = 24
"""The field is kept on so many cells a side."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cast:
    """edited = gain * source + offset; gain (3,), offset (3, 1, 1), or (3, cells, cells) spread over the source.

    brighter, warmer: the change of the mean luminance, and of red against blue, as fractions of full scale.
    """

    gain: Tensor
    offset: Tensor
    brighter: float = 0.0
    warmer: float = 0.0

    @classmethod
    def none(cls) -> Cast:
        return cls(gain=torch.ones(3), offset=torch.zeros(3, 1, 1))

    def laid_on(self, source: Tensor) -> Tensor:
        """source (3, H, W), the whole of it, with the cast, and cut off at black and white as the edited picture is."""
        offset = _read(self.offset.to(source), (0, 1, 0, 1), size_of(source))
        return (source * self.gain.to(source)[:, None, None] + offset).clamp(0, 1)

    def undone(self, picture: Tensor, box: tuple[float, float, float, float] = (0, 1, 0, 1)) -> Tensor:
        """picture (3, h, w) without the cast; box: which part of the source it shows (top, bottom, left, right)."""
        offset = _read(self.offset.to(picture), box, size_of(picture))
        return (picture - offset) / self.gain.to(picture)[:, None, None]


def _read(field: Tensor, box: tuple[float, float, float, float], size: tuple[int, int]) -> Tensor:
    if field.shape[-1] == 1:
        return field
    top, bottom, left, right = box
    rows = torch.linspace(0, 1, 2 * size[0] + 1)[1::2].to(field) * (bottom - top) + top
    columns = torch.linspace(0, 1, 2 * size[1] + 1)[1::2].to(field) * (right - left) + left
    places = torch.stack([columns.expand(size), rows[:, None].expand(size)], -1) * 2 - 1
    return F.grid_sample(field[None], places[None], mode="bicubic", padding_mode="border", align_corners=False)[0]


def fit(source: Tensor, view: Tensor, known: Tensor, colour: Colour) -> Cast:
    """source, view (3, H, W): the same pixels before and after, but for what was edited; known (H, W) bool."""
    if colour == "off" or not known.any():
        return Cast.none()
    step = max(1, round((source.shape[1] * source.shape[2] / SAMPLES) ** 0.5))
    rows, columns = (torch.arange(step // 2, side, step, device=source.device) for side in source.shape[1:])
    y, x = ((at + 0.5) / side * 2 - 1 for at, side in zip((rows, columns), source.shape[1:]))
    seen = known[rows][:, columns]
    before, after = (one[:, rows][:, :, columns][:, seen] for one in (source, view))
    degree = 3 if colour == "smooth field" else 0
    terms = _terms(x.expand(len(rows), -1)[seen], y[:, None].expand(-1, len(columns))[seen], degree)
    gain, factors, weight = _regression(before, after, terms)
    moved = ((after - before) * weight).sum(1) / weight.sum().clamp_min(1e-6)
    brighter = float(moved @ moved.new_tensor(LUMINANCE))
    return Cast(gain=gain, offset=_field(factors, degree), brighter=brighter, warmer=float(moved[0] - moved[2]))


def _terms(x: Tensor, y: Tensor, degree: int) -> Tensor:
    """(terms, N): products of powers of x and y (N,), up to this degree."""
    return torch.stack([x**i * y**j for i in range(degree + 1) for j in range(degree + 1 - i)])


def _field(factors: Tensor, degree: int) -> Tensor:
    """The sum of the terms (3, terms) on the cells: (3, CELLS, CELLS), or (3, 1, 1) where there is but one."""
    if not degree:
        return factors[:, :, None]
    x = (torch.arange(CELLS).to(factors) + 0.5) / CELLS * 2 - 1
    across, down = x.expand(CELLS, CELLS).flatten(), x[:, None].expand(CELLS, CELLS).flatten()
    return (factors @ _terms(across, down, degree)).reshape(3, CELLS, CELLS)


def _regression(before: Tensor, after: Tensor, terms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """before, after (3, N), terms (T, N) -> gain (3,), factors of the terms (3, T), and each pixel's weight (N,)."""
    whole = (after > DARKEST) & (after < LIGHTEST) & (before > DARKEST) & (before < LIGHTEST)
    error = (after - before).square().sum(0)
    wished = terms.new_tensor([1.0, *[0.0] * len(terms)]).double()
    basis = torch.cat([before[:, None], terms.expand(3, -1, -1)], 1)  # (3, 1 + T, N)
    gentle = torch.diag(terms.new_tensor([1.0, 1e-6, *[0.01] * (len(terms) - 1)]).double())
    for _ in range(ROUNDS):
        # The median, though more than half of what is seen may be edited: no cast is as large as MOST.
        scale = error.median().clamp(max=3 * MOST**2) + LEAST**2
        weight = (1 + error / (4 * scale)).pow(-2)
        weighted = basis * (weight * (whole + 1e-6))[:, None]
        normal, right = (weighted @ basis.mT).double(), (weighted @ after[:, :, None]).double()[..., 0]
        # A picture of hardly any range does not separate a gain from an offset: then it is an even offset.
        ridge = 1e-3 * normal[:, 1, 1, None, None] * gentle
        found = torch.linalg.solve(normal + ridge, right + ridge @ wished).to(before)
        gain, factors = found[:, 0].clamp(0.5, 2.0), found[:, 1:]
        error = (after - gain[:, None] * before - factors @ terms).square().sum(0)
    return gain, factors, weight
