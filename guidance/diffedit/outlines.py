"""Outlines in heat maps that have gaps: where a map shows little but the rim of what was found, its convex hull.

An object that changes its shape lights up along its outline. Where that is faint or cut off in several places, nothing
is enclosed, and a mask of a broken line would hold the inside on the old object. The hull needs no closed line. That it
is an outline at all, and not a moon or a star that changes its colour, shows in the map within the hull: it is faint
there, and else as bright as along the rim or brighter.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

DIRECTIONS = 32

FAINT, CLOSED, HOLLOW = 0.6, 2 / 3, 0.5
"""A hull counts as outlined where the map within is below this share of the map along its rim (on Papercut large shapes
that change lie at 0.1 to 0.5, new colours and patterns above 0.7); as closed where at least so much of its rim was
found; as hollow where less than this share of it was found."""

BROKEN, THIN, RAISED = 0.3, 0.1, 0.06
"""Pieces of an outline cover less than this share of their hull, less than this share of them is three cells wide, and
the rest of the hull is raised by at least so much of what they are. Objects apart from each other are not thin."""

LEAST = 4
"""Within fewer cells there is no telling an outline from the whole."""


def fill_outlines(heat: Tensor, mask: Tensor) -> Tensor:
    """mask (B, h, w) bool, or its convex hull where heat (B, h, w) shows little but an outline with gaps."""
    whole = hull(mask)
    inner, line, rest = _shrunk(whole, 2), whole & ~_shrunk(whole, 1), whole & ~mask
    outside, within, along, between, found = (_mean(heat, m) for m in (~whole, inner, whole & ~inner, rest, mask))
    faint = within - outside < FAINT * (along - outside)
    closed = _count(_widened(mask) & line) >= CLOSED * _count(line)
    thin = _count(_shrunk(mask, 1)) < THIN * _count(mask)
    pieces = thin & (_count(mask) < BROKEN * _count(whole)) & (between - outside > RAISED * (found - outside))
    large = _count(inner) >= LEAST
    hollow = _count(mask) < HOLLOW * _count(whole)
    filled = large & (pieces | (faint & closed & hollow))
    return torch.where(filled[:, None, None], whole, mask)


def widen(mask: Tensor, fraction: float) -> Tensor:
    """Each picture of mask (B, h, w) bool wider by this share of its side, the root of its area, in whole cells; a
    small one as if its side were half the picture's: what takes its place may well be larger."""
    least = (mask.shape[1] * mask.shape[2]) ** 0.5 / 2
    wider = []
    for one, side in zip(mask, _count(mask).sqrt().tolist(), strict=True):
        for i in range(round(fraction * max(side, least)) if side else 0):
            # Every other step with corners comes near to a disc.
            one = _widened(one[None])[0] if i % 2 else _crossed(one[None])[0]
        wider.append(one)
    return torch.stack(wider)


def hull(mask: Tensor) -> Tensor:
    """The convex hull of each picture of mask (B, h, w) bool: the cells that lie beyond it in no direction."""
    height, width = mask.shape[1:]
    down, right = (torch.arange(size, device=mask.device, dtype=torch.float32) for size in (height, width))
    angle = torch.arange(DIRECTIONS, device=mask.device) * (2 * torch.pi / DIRECTIONS)
    reach = torch.outer(angle.sin(), down)[:, :, None] + torch.outer(angle.cos(), right)[:, None]  # (directions, h, w)
    found = torch.zeros_like(mask)
    for picture, one in enumerate(mask):
        if one.any():
            found[picture] = (reach <= reach[:, one].amax(1)[:, None, None] + 1e-3).all(0)
    return found


def _widened(mask: Tensor, cells: int = 1) -> Tensor:
    """mask (B, h, w) bool and all cells so near to it, corners included."""
    return F.max_pool2d(mask[:, None].float(), 2 * cells + 1, 1, cells)[:, 0].bool()


def _crossed(mask: Tensor) -> Tensor:
    """mask (B, h, w) bool and the cells above, below and beside it."""
    upright = F.max_pool2d(mask[:, None].float(), (3, 1), 1, (1, 0))
    return torch.maximum(upright, F.max_pool2d(mask[:, None].float(), (1, 3), 1, (0, 1)))[:, 0].bool()


def _shrunk(mask: Tensor, cells: int) -> Tensor:
    """mask (B, h, w) bool without its outermost cells; the picture's border is no edge of what it cuts off."""
    return ~_widened(~mask, cells)


def _count(mask: Tensor) -> Tensor:
    """(B,) float, how many cells of each picture are marked."""
    return mask.sum((1, 2)).float()


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """(B,) the mean of values (B, h, w) over the cells of `where` (B, h, w) bool; 0 where there are none."""
    return (values * where).sum((1, 2)) / where.sum((1, 2)).clamp_min(1)
