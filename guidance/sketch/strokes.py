"""Strokes as sets of pixels: thinning (Zhang and Suen 1984), connected pieces, and how thick a drawing is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..morphology import label

# The eight neighbours, clockwise from the one above: (dy, dx), P2 ... P9 of the paper.
AROUND = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))


def thin(strokes: Tensor) -> Tensor:
    """(B, H, W) bool -> the same strokes one pixel wide, as connected as before. Lines of one pixel stay."""
    lines = strokes.clone()
    while True:
        before = lines
        for half in (0, 1):
            lines = lines & ~_removable(lines, half)
        if torch.equal(before, lines):
            return lines


def _removable(lines: Tensor, half: int) -> Tensor:
    """The pixels that sub-iteration `half` (0: from the south-east, 1: from the north-west) takes away."""
    p = _neighbours(lines)
    count = sum(n.to(torch.uint8) for n in p)
    turns = sum((~a & b).to(torch.uint8) for a, b in zip(p, [*p[1:], p[0]]))
    north, east, south, west = p[0], p[2], p[4], p[6]
    if half == 0:
        side = ~(north & east & south) & ~(east & south & west)
    else:
        side = ~(north & east & west) & ~(north & south & west)
    return lines & (count >= 2) & (count <= 6) & (turns == 1) & side


def _neighbours(lines: Tensor) -> list[Tensor]:
    height, width = lines.shape[-2:]
    padded = F.pad(lines, (1, 1, 1, 1))
    return [padded[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] for dy, dx in AROUND]


def without_specks(strokes: Tensor, smallest: int) -> Tensor:
    """(B, H, W) bool -> the same without connected pieces of fewer than `smallest` pixels."""
    if smallest <= 1:
        return strokes
    kept = []
    for picture in strokes:
        numbers, _ = label(picture)
        kept.append(picture & (torch.bincount(numbers.flatten())[numbers] >= smallest))
    return torch.stack(kept)


def thickness(strokes: Tensor) -> float:
    """Mean width of the strokes (B, H, W) bool in pixels: their area over the length of their thinned lines."""
    length = int(thin(strokes).sum())
    return float(strokes.sum()) / length if length else 0.0
