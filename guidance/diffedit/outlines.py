"""Outlines in heat maps that have gaps: where a map shows little but the rim of what was found, its convex hull.

An object that changes its shape lights up along its outline. Where that is faint or cut off in several places, nothing
is enclosed, and a mask of a broken line would hold the inside on the old object. The hull needs no closed line. That it
is an outline at all, and not a moon or a star that changes its colour, shows in the map within the hull: it is faint
there, and else as bright as along the rim or brighter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..morphology import count, dilate, erode, hull

FAINT, CLOSED, HOLLOW = 0.6, 2 / 3, 0.5
"""A hull counts as outlined where the map within is below this fraction of the map along its rim (on Papercut large
shapes that change lie at 0.1 to 0.5, new colours and patterns above 0.7). It counts as closed where at least so much of
its rim was found, and as hollow where less than this fraction of it was found."""

BROKEN, THIN, RAISED = 0.3, 0.1, 0.06
"""Pieces of an outline cover less than this fraction of their hull. Less than this fraction of them is three cells
wide, and the rest of the hull is raised by at least so much of what they are. Objects that stand apart are not thin."""

LEAST = 4
"""Within fewer cells there is no telling an outline from the whole."""


def fill_outlines(heat: Tensor, mask: Tensor) -> Tensor:
    """mask (B, h, w) bool, or its convex hull where heat (B, h, w) shows little but an outline with gaps."""
    whole = hull(mask)
    inner, line, rest = erode(whole, 2, "square"), whole & ~erode(whole, 1, "square"), whole & ~mask
    outside, within, along, between, found = (_mean(heat, m) for m in (~whole, inner, whole & ~inner, rest, mask))
    faint = within - outside < FAINT * (along - outside)
    closed = count(dilate(mask, 1, "square") & line) >= CLOSED * count(line)
    thin = count(erode(mask, 1, "square")) < THIN * count(mask)
    pieces = thin & (count(mask) < BROKEN * count(whole)) & (between - outside > RAISED * (found - outside))
    large = count(inner) >= LEAST
    hollow = count(mask) < HOLLOW * count(whole)
    filled = large & (pieces | (faint & closed & hollow))
    return torch.where(filled[:, None, None], whole, mask)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """(B,) the mean of values (B, h, w) over the cells of `where` (B, h, w) bool; 0 where there are none."""
    return (values * where).sum((1, 2)) / where.sum((1, 2)).clamp_min(1)
