"""Outlines with gaps: where a heat map shows little but the rim of an object, the mask becomes its convex hull.

The map of an object that changes its shape is bright along the outline. An outline that is faint or interrupted
encloses nothing, and a mask of it would keep the inside of the old object. The convex hull needs no closed line. A moon
or star that changes its colour also fills little of its hull, but the map within is then as bright as along the rim;
within an outline it is faint.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..morphology import count, dilate, erode, hull

FAINT, CLOSED, HOLLOW = 0.6, 2 / 3, 0.5
"""FAINT: a hull is outlined where the map within is below this fraction of the map along its rim (on Papercut large
shapes that change lie at 0.1 to 0.5, new colours and patterns above 0.7). CLOSED: the fraction of the rim that has to
be found. HOLLOW: less than this fraction of the hull has to be found."""

BROKEN, THIN, RAISED = 0.3, 0.1, 0.06
"""Pieces of an outline cover less than BROKEN of their hull, and less than THIN of them is three cells wide. The map in
the rest of the hull is above the outside by at least RAISED of what the pieces are. Separate objects are not thin."""

LEAST = 4
"""With fewer cells within, an outline cannot be distinguished from the whole object."""


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
