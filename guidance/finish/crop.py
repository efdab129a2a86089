"""The part of a picture round a mask, for an edit at the model's full resolution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .alignment import Alignment, Box, Size, resample, size_of
from .composite import bounds


def around(mask: Tensor, context: float, least: float = 0.0) -> Box | None:
    """The box of all that is marked in mask (B, H, W), wider on each side by `context` times its longer side, and at
    least `least` pixels wide and high, as far as the picture reaches.

    None where nothing is marked.
    """
    box = bounds((mask >= 0.5).any(0).float())
    if box is None:
        return None
    room = math.ceil(context * max(box.bottom - box.top, box.right - box.left))
    height, width = size_of(mask)
    return Box(
        *_widened(box.top - room, box.bottom + room, least, height),
        *_widened(box.left - room, box.right + room, least, width),
    )


def _widened(first: int, last: int, least: float, side: int) -> tuple[int, int]:
    """first..last within 0..side, and at least so long, on both sides alike where there is room."""
    first, last = max(0, first), min(side, last)
    length = max(last - first, min(math.ceil(least), side))
    first = min(max(0, first - (length - (last - first)) // 2), side - length)
    return first, first + length


def fitting(box: Box, area: float, multiple: int) -> Size:
    """The size of about `area` pixels with the box's proportions, both sides multiples of `multiple`."""
    high, wide = box.bottom - box.top, box.right - box.left
    factor = math.sqrt(area / (high * wide))
    height, width = (max(1, round(side * factor / multiple)) * multiple for side in (high, wide))
    return height, width


def cut_out(pictures: Tensor, box: Box, size: Size) -> Tensor:
    """That part of pictures (C, H, W) at this size, by Lanczos."""
    factors = torch.tensor([(box.right - box.left) / size[1], (box.bottom - box.top) / size[0]], dtype=torch.float64)
    corner = torch.tensor([box.left, box.top], dtype=torch.float64)
    places = Alignment(matrix=factors.diag(), shift=corner, source=size, edited=size_of(pictures))
    return resample(pictures, places, Box(0, size[0], 0, size[1]))
