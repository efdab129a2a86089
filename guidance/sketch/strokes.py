"""Strokes as sets of pixels: thinning, and how thick a drawing is.

Thinning: Zhang and Suen, "A fast parallel algorithm for thinning digital patterns", Communications of the ACM 27(3),
1984. Whether a pixel goes depends on its eight neighbours alone, so that a table of 256 entries holds the rule.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

AROUND = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
"""The eight neighbours, clockwise from the one above: (dy, dx), P2 ... P9 of the paper."""

INNER = 255
"""The neighbourhood of a pixel inside a stroke."""


def thin(strokes: Tensor, check: Callable[[], None] | None = None) -> Tensor:
    """(B, H, W) bool -> the same strokes one pixel wide, as connected as before. Lines of one pixel stay.

    check: called often, so that a long thinning can be interrupted.
    """
    return torch.stack([_thin_one(picture, check) for picture in strokes])


def _thin_one(strokes: Tensor, check: Callable[[], None] | None) -> Tensor:
    """The same for (H, W). Each pixel's neighbourhood is kept as a number and renewed where a neighbour goes, and only
    pixels at an edge (`rim`) are looked at."""
    # A border of background, so that each pixel has eight neighbours in the flat picture.
    padded = F.pad(strokes.cpu(), (1, 1, 1, 1))
    steps = [dy * padded.shape[1] + dx for dy, dx in AROUND]
    lines, code = padded.flatten(), _codes(padded).flatten()
    rim = torch.from_numpy((lines & (code != INNER)).numpy().nonzero()[0])
    tables = [torch.tensor(_removable(half)) for half in (0, 1)]
    # These methods are twenty times as fast as brackets.
    still, half = 0, 0
    while still < 2:
        goes = tables[half].take(code.index_select(0, rim).long())
        gone, next_rim = _where(rim, goes), [_where(rim, ~goes)]
        lines.scatter_(0, gone, False)
        for bit, step in enumerate(steps):
            # Seen from the neighbour, what has gone lies the other way.
            beside, other = gone + step, 1 << (bit + 4) % 8
            known = code.index_select(0, beside)
            code.scatter_(0, beside, known & ~other)
            fresh = _where(beside, known == INNER)
            next_rim.append(_where(fresh, lines.index_select(0, fresh)))
            if check is not None:
                check()
        rim = torch.cat(next_rim)
        still = 0 if len(gone) else still + 1
        half = 1 - half
    return lines.view(padded.shape)[1:-1, 1:-1].to(strokes.device, copy=True)


def _where(pixels: Tensor, chosen: Tensor) -> Tensor:
    """pixels[chosen], by the arrays behind the tensors."""
    return torch.from_numpy(pixels.numpy().compress(chosen.numpy()))


def _codes(padded: Tensor) -> Tensor:
    """(H + 2, W + 2) bool, the border not set -> uint8, bit i says whether neighbour i of AROUND is set."""
    height, width = padded.shape[0] - 2, padded.shape[1] - 2
    seen = padded.to(torch.uint8)
    code = torch.zeros_like(seen)
    for bit, (dy, dx) in enumerate(AROUND):
        code[1:-1, 1:-1].add_(seen[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width], alpha=1 << bit)
    return code


@cache
def _removable(half: int) -> tuple[bool, ...]:
    """For each of the 256 neighbourhoods, bit i being P(i + 2): whether sub-iteration `half` removes its middle.

    Half 0 takes pixels from the south-east, 1 from the north-west; the paper's conditions (a) to (d).
    """
    removed = []
    for code in range(256):
        p = [bool(code >> bit & 1) for bit in range(8)]
        turns = sum(not a and b for a, b in zip(p, [*p[1:], p[0]]))
        north, east, south, west = p[0], p[2], p[4], p[6]
        if half == 0:
            side = not (north and east and south) and not (east and south and west)
        else:
            side = not (north and east and west) and not (north and south and west)
        removed.append(2 <= sum(p) <= 6 and turns == 1 and side)
    return tuple(removed)


def thickness(strokes: Tensor, lines: Tensor) -> float:
    """Mean width of the strokes (B, H, W) bool in pixels: their area over the length of their thinned lines."""
    length = int(lines.sum())
    return float(strokes.sum()) / length if length else 0.0
