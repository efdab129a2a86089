"""Strokes as sets of pixels: thinning (Zhang and Suen 1984), connected pieces, and how thick a drawing is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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


def pieces(strokes: Tensor) -> Tensor:
    """(H, W) bool -> (H, W) int64: the number of the connected piece (8 neighbours) of each pixel, -1 outside.

    FastSV (Zhang, Azad and Hu 2020): each pixel points to one of its piece, pointers are hooked onto the smallest that
    a neighbour points to and shortened, so that the rounds grow with the logarithm of a stroke's length.
    """
    number = torch.full(strokes.shape, -1, dtype=torch.long, device=strokes.device)
    number[strokes] = torch.arange(int(strokes.sum()), device=strokes.device)
    padded = F.pad(number, (1, 1, 1, 1), value=-1)
    height, width = strokes.shape
    links = []
    for dy, dx in AROUND:
        other = padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        both = (number >= 0) & (other >= 0)
        links.append(torch.stack((number[both], other[both])))
    here, there = torch.cat(links, 1)
    points_to = number[strokes].clone()
    before = None
    while before is None or not torch.equal(before, points_to):
        before = points_to
        beyond = points_to[points_to]
        smallest = beyond[there]
        points_to = points_to.scatter_reduce(0, points_to[here], smallest, "amin")
        points_to = points_to.scatter_reduce(0, here, smallest, "amin")
        points_to = torch.minimum(points_to, beyond)
    number[strokes] = points_to
    return number


def without_specks(strokes: Tensor, smallest: int) -> Tensor:
    """(B, H, W) bool -> the same without connected pieces of fewer than `smallest` pixels."""
    if smallest <= 1:
        return strokes
    kept = []
    for picture in strokes:
        label = pieces(picture)
        sizes = torch.bincount(label[picture], minlength=1)
        kept.append(picture & (sizes[label.clamp_min(0)] >= smallest))
    return torch.stack(kept)


def thickness(strokes: Tensor) -> float:
    """Mean width of the strokes (B, H, W) bool in pixels: their area over the length of their thinned lines."""
    length = int(thin(strokes).sum())
    return float(strokes.sum()) / length if length else 0.0
