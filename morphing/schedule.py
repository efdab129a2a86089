"""ALPHAS: where each frame of a morph lies between its key pictures.

DiffMorpher (arXiv 2312.07409) morphs two pictures, alpha in [0, 1]. Here K key pictures lie at 0, 1, ..., K-1, so that
1.3 lies between the second and the third; a cyclic morph goes on from K-1 to K, which is the first picture again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, get_args

import torch
from torch import Tensor

Pace = Literal["uniform", "ease at the ends", "ease at each picture", "curve"]
PACES: tuple[Pace, ...] = get_args(Pace)
# Far above the rounding of curves and of other nodes' floats, far below any step between frames.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Alphas:
    """One float a frame.

    values: N floats in [0, top], where top is K-1, or K if cyclic.
    keyframes: K >= 1, the number of key pictures.
    cyclic: whether the last key picture leads back to the first.
    Raises ValueError where they do not agree.
    """

    values: tuple[float, ...]
    keyframes: int
    cyclic: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(float(value) for value in self.values))
        if self.keyframes < 1:
            raise ValueError("A morph needs at least one key picture.")
        if not self.values:
            raise ValueError("A morph needs at least one frame.")
        bad = [value for value in self.values if not 0.0 <= value <= self.top]
        if bad:
            raise ValueError(
                f"The alpha {bad[0]:.4g} lies outside 0 to {self.top:g}, the range of {self.keyframes} key pictures: "
                "set `keyframes` to the number of pictures that are morphed."
            )

    def __len__(self) -> int:
        """Number of frames, N."""
        return len(self.values)

    @property
    def top(self) -> float:
        """The largest alpha."""
        return float(self.keyframes if self.cyclic else self.keyframes - 1)

    def weights(self) -> Tensor:
        """(N, K) float64, how much of each key picture is in each frame; a row sums to 1, at most two are not 0."""
        weights = torch.zeros(len(self), self.keyframes, dtype=torch.float64)
        for row, value in enumerate(self.values):
            low, high, fraction = self.between(value)
            weights[row, low] += 1.0 - fraction
            weights[row, high] += fraction
        return weights

    def between(self, value: float) -> tuple[int, int, float]:
        """The key pictures before and after an alpha, and the fraction of the second, in [0, 1).

        On a key picture both are that picture and the fraction is 0.
        """
        low = math.floor(value)
        fraction = value - low
        high = low + 1 if fraction > 0 else low
        return low % self.keyframes, high % self.keyframes, fraction

    def needed(self) -> tuple[int, ...]:
        """The key pictures that any frame is made of, rising."""
        used = {key for value in self.values for key in self.between(value)[:2]}
        return tuple(sorted(used))

    def frame_of(self, key: int) -> int | None:
        """The first frame that is key picture `key` itself, or None."""
        at = (row for row, value in enumerate(self.values) if self.between(value) == (key, key, 0.0))
        return next(at, None)

    def part(self, start: int, count: int) -> Alphas:
        """The frames start, ..., start + count - 1; a count of 0 takes all that follow. ValueError for no frames."""
        if not 0 <= start < len(self):
            raise ValueError(f"`start` is {start}, but the morph has the frames 0 to {len(self) - 1}.")
        stop = len(self) if count == 0 else start + count
        return replace(self, values=self.values[start:stop])


def schedule(
    frames: int,
    keyframes: int = 2,
    *,
    pace: Pace = "uniform",
    cyclic: bool = False,
    curve: Callable[[float], float] | None = None,
) -> Alphas:
    """Alphas of `frames` frames from the first key picture to the last (cyclic: up to, not including, the first again).

    pace: uniform; smoothstep over the whole morph (`ease at the ends`) or between each two key pictures
        (`ease at each picture`); or `curve`, a function from time to progress, both in [0, 1] and clamped to it.
    One frame alone is the first key picture.
    """
    if frames < 1:
        raise ValueError("A morph needs at least one frame: raise `frames`.")
    if pace not in PACES:
        raise ValueError(f"The pace '{pace}' is unknown: choose one of {', '.join(PACES)}.")
    if pace == "curve" and curve is None:
        raise ValueError("The pace `curve` needs a CURVE: connect the Curve Editor, or choose another pace.")
    top = keyframes if cyclic else keyframes - 1
    # Fractions: a frame that is a key picture must be so to the bit, and 29 * (15 / 29) is less than 15.
    times = [Fraction(row, frames if cyclic else max(frames - 1, 1)) for row in range(frames)]
    return Alphas(tuple(float(_progress(time, pace, top, curve)) for time in times), keyframes, cyclic)


def as_alphas(value: Alphas | Sequence[float]) -> Alphas:
    """ALPHAS as they come over a wire: our own value, or plain numbers, one a frame, of another node."""
    if isinstance(value, Alphas):
        return value
    values = tuple(_whole(float(number)) for number in value)
    largest = max((number for number in values if math.isfinite(number)), default=0.0)
    return Alphas(values, max(2, math.ceil(largest) + 1))


def smoothstep(time: Fraction) -> Fraction:
    """3 t^2 - 2 t^3: from 0 to 1, standing still at both ends."""
    return time * time * (3 - 2 * time)


def _progress(time: Fraction, pace: Pace, top: int, curve: Callable[[float], float] | None) -> Fraction | float:
    """The alpha at a time in [0, 1]."""
    if pace == "ease at the ends":
        return top * smoothstep(time)
    if pace == "ease at each picture":
        low = math.floor(top * time)
        return low + smoothstep(top * time - low)
    if pace == "curve" and curve is not None:
        return _whole(top * min(max(float(curve(float(time))), 0.0), 1.0))
    return top * time


def _whole(value: float) -> float:
    """A float that misses a whole number by rounding alone, as that number."""
    near = round(value) if math.isfinite(value) else value
    return float(near) if abs(value - near) < _ROUNDING else value
