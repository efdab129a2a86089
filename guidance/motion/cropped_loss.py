"""Looking closely: the colour loss of a motion through a window of the latent that holds all pixels that count.

Decoding is most of what fast guidance costs, and only the pixels where something arrives, and those beside them, count
(`motion_loss.py`), so only they are decoded, with a margin. Exact up to the decoder's reach beyond the margin; for
decoders that compute a pixel from its surroundings (the TAESD kind), not for those that normalise over the whole
picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .loss import Decode, Objective, arrival_error

MARGIN = 2  # cells round what counts
WORTHWHILE = 0.75  # fraction of the picture above which the whole is decoded


@dataclass(frozen=True)
class CroppedLoss:
    """corners: (top, left) in cells, a pair a row; size: (h, w) in cells, one for the batch; factor: pixels a cell.

    warped: (B, 3, h f, w f), counted: (B, h f, w f), cut to the windows. fraction: of the picture's area.
    """

    corners: tuple[tuple[int, int], ...]
    size: tuple[int, int]
    factor: int
    warped: Tensor
    counted: Tensor
    fraction: float

    def colour(self, latent: Tensor, decode: Decode) -> Tensor:
        """(B,) the colour loss of a latent (B, C, h, w), as a mean over the whole picture."""
        seen = decode(cut(latent, self.corners, self.size))
        return arrival_error(seen, self.warped, self.counted) * self.fraction


def cropped_loss(
    goal: Objective, factor: int, margin: int = MARGIN, *, beside: Tensor | None = None
) -> CroppedLoss | None:
    """The windows of a goal whose latent cells are `factor` pixels wide; None where they would save little.

    beside: (N, H, W) bool, the counted pixels of other motions: their windows and these are of one size, so that a part
    of a batch is seen as in the whole.
    """
    counted = goal.counted
    cells = [s // factor for s in counted.shape[1:]]
    boxes = [_box(row, factor, margin) for row in counted]
    every = boxes + [_box(row, factor, margin) for row in (() if beside is None else beside)]
    size = tuple(min(max(high - low for low, high in axis), most) for axis, most in zip(zip(*every), cells))
    fraction = size[0] * size[1] / (cells[0] * cells[1])
    if fraction > WORTHWHILE or 0 in size:
        return None
    corners = tuple(
        tuple(max(min(low, most - side), 0) for (low, _), most, side in zip(box, cells, size)) for box in boxes
    )
    pixels = tuple(tuple(v * factor for v in corner) for corner in corners), tuple(v * factor for v in size)
    return CroppedLoss(corners, size, factor, cut(goal.warped, *pixels), cut(counted[:, None], *pixels)[:, 0], fraction)


def cut(values: Tensor, corners: tuple[tuple[int, int], ...], size: tuple[int, int]) -> Tensor:
    """Windows of (B, C, H, W), one a row, stacked."""
    rows = zip(values, corners, strict=True)
    return torch.stack([row[:, top : top + size[0], left : left + size[1]] for row, (top, left) in rows])


def _box(counted: Tensor, factor: int, margin: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)) in cells, the end not included; ((0, 0), (0, 0)) where nothing counts."""
    spans = []
    for axis in (1, 0):
        places = torch.nonzero(counted.any(dim=axis))[:, 0]
        if not len(places):
            return (0, 0), (0, 0)
        low, high = int(places[0]) // factor - margin, int(places[-1]) // factor + 1 + margin
        spans.append((max(low, 0), min(high, counted.shape[1 - axis] // factor)))
    return spans[0], spans[1]
