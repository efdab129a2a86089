"""Even steps to the eye: DiffMorpher (arXiv 2312.07409), section 4.3, the rescheduling of alphas.

Frames at even alphas do not change evenly. With the perceptual distances of neighbouring frames summed up along the
morph, D(alpha) rises from 0 to the whole length. The frames of an even morph lie at even fractions of that length. D is
known at the frames and interpolated by a monotone curve, so one round makes the steps as even as that allows. The
frames at the new alphas give a better D for the next round.

Differs from the official code: a monotone cubic instead of straight lines (half the rounds for the same evenness),
any number of new frames from any number of measured ones (a coarse probe feeds a fine morph), key pictures between the
ends can keep a frame of their own, cyclic morphs, several rounds, and no division by zero where frames are alike.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from .schedule import Alphas

# Where nothing changes D is flat and has no inverse; this fraction of an even gradient gives it one.
_LEAST_GRADIENT = 1e-9
# Neighbouring gradients that differ by more than this factor are a bend.
_SHARP = 10.0


def reschedule(alphas: Alphas, distances: Tensor, *, frames: int | None = None, hold_keys: bool = True) -> Alphas:
    """Alphas whose frames lie at even fractions of the measured length.

    alphas: of the measured frames, not falling, from the first key picture to the last (cyclic: around).
    distances: between neighbours, >= 0, (N-1,), or (N,) for a cyclic morph.
    frames: of the new alphas, at least two; None keeps their number.
    hold_keys: key pictures between the ends keep a frame of their own, as far as there are frames; each gap between
        two gets the number of frames that makes the steps of the whole morph the most even.
    Where nothing differs at all (or there is one frame) the alphas are spread evenly. Raises ValueError for alphas
    that fall or stop short, and for distances that are no such numbers.
    """
    frames = len(alphas) if frames is None else frames
    if frames < 2:
        return replace(alphas, values=(0.0,))
    knots, lengths = length_curve(alphas, distances)
    gaps = frames if alphas.cyclic else frames - 1
    top = int(alphas.top)
    stops = list(range(top + 1)) if hold_keys and gaps >= top else [0, top]
    marks = [_interpolate(stop, knots, lengths) for stop in stops]
    values: list[float] = []
    for stop, start, end, count in zip(stops, marks, marks[1:], _apportion(marks, gaps)):
        between = (start + (end - start) * step / count for step in range(1, count))
        values += [float(stop), *(_interpolate(length, lengths, knots) for length in between)]
    if not alphas.cyclic:
        values.append(alphas.top)
    return replace(alphas, values=tuple(values))


def predicted(alphas: Alphas, distances: Tensor, new: Alphas) -> Tensor:
    """The neighbour distances to expect at new alphas, by the measured length between them. Shape as `distances`."""
    knots, lengths = length_curve(alphas, distances)
    at = list(new.values) + ([new.top] if new.cyclic else [])
    return torch.tensor([_interpolate(value, knots, lengths) for value in at], dtype=torch.float64).diff()


def variation(distances: Tensor) -> float:
    """The std of the distances over their mean: 0 for even steps, and if all frames are alike."""
    distances = distances.double()
    mean = float(distances.mean()) if len(distances) else 0.0
    return float(distances.std(correction=0)) / mean if mean > 0 else 0.0


def length_curve(alphas: Alphas, distances: Tensor) -> tuple[list[float], list[float]]:
    """D: alphas from 0 to the top, and the length of the morph up to each, both rising. Raises as `reschedule`."""
    knots = list(alphas.values) + ([alphas.top] if alphas.cyclic else [])
    steps = distances.double().tolist()
    if len(steps) != len(knots) - 1:
        count = len(knots) - 1
        raise ValueError(f"{len(alphas)} frames have {count} distances between them, but {len(steps)} came in.")
    if any(not math.isfinite(step) or step < 0 for step in steps):
        raise ValueError("A distance between two frames is not a number: check the frames for broken pictures.")
    if knots[0] != 0.0 or knots[-1] != alphas.top or any(b < a for a, b in itertools.pairwise(knots)):
        raise ValueError(
            "Reschedule needs the frames of a whole morph, whose alphas run from the first key picture to the last "
            "without turning back: take the ALPHAS of Morph Schedule with `start` 0 and `count` 0."
        )
    lengths = [0.0]
    for step in steps:
        lengths.append(lengths[-1] + step)
    gradient = _LEAST_GRADIENT * (lengths[-1] or 1.0)
    return knots, [length + gradient * knot for length, knot in zip(lengths, knots)]


def _interpolate(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """y at x between the knots; neither xs nor ys may fall, and the answer does not either.

    Fritsch and Carlson's monotone cubic with harmonic gradients; linear around a bend so sharp that a smooth curve
    would only guess. The gradient at a knot depends on its two neighbours alone, so four knots are enough.
    """
    upper = min(max(bisect_left(xs, x), 1), len(xs) - 1)
    width, rise = xs[upper] - xs[upper - 1], ys[upper] - ys[upper - 1]
    fraction = min(max((x - xs[upper - 1]) / width, 0.0), 1.0) if width > 0 else 0.0
    near = range(max(upper - 2, 0), min(upper + 1, len(xs) - 1))
    gradients = [(ys[i + 1] - ys[i]) / (xs[i + 1] - xs[i]) if xs[i + 1] > xs[i] else 0.0 for i in near]
    if min(gradients) * _SHARP < max(gradients) or min(gradients) <= 0 or len(xs) < 3:
        return ys[upper - 1] + fraction * rise
    window = slice(near.start, near.stop + 1)
    return float(PchipInterpolator(xs[window], ys[window])(xs[upper - 1] + fraction * width))


def _apportion(marks: Sequence[float], gaps: int) -> list[int]:
    """Whole numbers, at least 1 each and `gaps` together, that cut the lengths between the marks most evenly.

    Steps of n_i equal parts of the length L_i have the least variance where sum L_i^2 / n_i is least, and one after
    another goes where that falls most.
    """
    lengths = [end - start for start, end in itertools.pairwise(marks)]
    counts = [1] * len(lengths)
    for _ in range(gaps - len(counts)):
        best = max(range(len(lengths)), key=lambda part: lengths[part] ** 2 / (counts[part] * (counts[part] + 1)))
        counts[best] += 1
    return counts
