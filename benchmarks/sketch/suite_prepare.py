"""Sketch Prepare on a large scan: thinning and connected parts, old and new in one run.

The old ones look at every pixel in each round; they are kept here as the reference, and both must find the same lines.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ...guidance.morphology import label
from ...guidance.sketch.strokes import AROUND, thin
from ..results import Row

TECHNIQUE = "Sketch Prepare"
TECHNIQUES = (TECHNIQUE,)
TEST_SPLIT = False
SIDE, WIDTH, CIRCLES, TURNS = 2048, 12, 20, 5


def drawing(side: int = SIDE, width: float = WIDTH, circles: int = CIRCLES) -> Tensor:
    """(side, side) bool: circles of a pen that is `width` pixels wide, crossing each other."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    drawn = torch.zeros(side, side, dtype=torch.bool)
    for numbers in torch.rand(circles, 3, generator=torch.Generator().manual_seed(0)).tolist():
        left, top, radius = side * numbers[0], side * numbers[1], side / 4 * numbers[2]
        drawn |= (torch.hypot(x - left, y - top) - radius).abs() < width / 2
    return drawn


def old_thin(strokes: Tensor) -> Tensor:
    """(H, W) bool -> bool, Zhang and Suen's rule written out for all pixels of the picture in each half round."""
    lines = strokes
    while True:
        before = lines
        for half in (0, 1):
            lines = lines & ~_removable(lines, half)
        if torch.equal(before, lines):
            return lines


def _removable(lines: Tensor, half: int) -> Tensor:
    p = _neighbours(lines, False)
    count = sum(n.to(torch.uint8) for n in p)
    turns = sum((~a & b).to(torch.uint8) for a, b in zip(p, [*p[1:], p[0]]))
    north, east, south, west = p[0], p[2], p[4], p[6]
    if half == 0:
        side = ~(north & east & south) & ~(east & south & west)
    else:
        side = ~(north & east & west) & ~(north & south & west)
    return lines & (count >= 2) & (count <= 6) & (turns == 1) & side


def _neighbours(values: Tensor, outside: int) -> list[Tensor]:
    """Each pixel's eight neighbours, clockwise from the one above."""
    height, width = values.shape
    padded = F.pad(values, (1, 1, 1, 1), value=outside)
    return [padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] for dy, dx in AROUND]


def old_label(strokes: Tensor) -> Tensor:
    """(H, W) bool -> int64, a number for each connected part, -1 outside: FastSV (Zhang, Azad and Hu 2020)."""
    number = torch.full(strokes.shape, -1, dtype=torch.long)
    number[strokes] = torch.arange(int(strokes.sum()))
    links = []
    for other in _neighbours(number, -1):
        both = (number >= 0) & (other >= 0)
        links.append(torch.stack((number[both], other[both])))
    here, there = torch.cat(links, 1)
    points_to, before = number[strokes].clone(), None
    while before is None or not torch.equal(before, points_to):
        before = points_to
        beyond = points_to[points_to]
        points_to = points_to.scatter_reduce(0, points_to[here], beyond[there], "amin")
        points_to = torch.minimum(points_to.scatter_reduce(0, here, beyond[there], "amin"), beyond)
    number[strokes] = points_to
    return number


def same_parts(old: Tensor, new: Tensor) -> bool:
    """Whether two numberings (H, W) mean the same parts."""
    pairs = torch.stack((old.flatten(), new.flatten())).unique(dim=1)
    return all(len(numbers.unique()) == pairs.shape[1] for numbers in pairs)


def seconds(run, *inputs) -> tuple[float, object]:
    """The least processor time of a few runs, and what the last one gave."""
    taken = []
    for _ in range(TURNS):
        start = time.process_time()
        found = run(*inputs)
        taken.append(time.process_time() - start)
    return min(taken), found


def rows(context) -> Iterator[Row]:
    strokes = drawing()
    before, old = seconds(old_thin, strokes)
    after, new = seconds(lambda drawn: thin(drawn[None])[0], strokes)
    if not torch.equal(old, new):
        raise AssertionError("The table thins otherwise than the rule that it stands for.")
    before_parts, old_parts = seconds(old_label, strokes)
    after_parts, (new_parts, _) = seconds(label, strokes)
    if not same_parts(old_parts, new_parts):
        raise AssertionError("The two labellings do not mean the same parts.")
    size = f"{SIDE} x {SIDE}, strokes {WIDTH} pixels wide"
    yield context.row(TECHNIQUE, f"thinning, {size}: old time beside new", "fast", before / after, "times", ">= 15")
    ratio = before_parts / after_parts
    yield context.row(TECHNIQUE, f"connected parts, {size}: old time beside new", "fast", ratio, "times", ">= 15")
    ratio = (before + before_parts) / (after + after_parts)
    yield context.row(TECHNIQUE, f"both, {size}: old time beside new", "fast", ratio, "times", ">= 15")
    yield context.row(TECHNIQUE, f"both, {size}", "fast", after + after_parts, "s")
