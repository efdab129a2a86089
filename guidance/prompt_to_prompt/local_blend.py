"""Local blend: an edit keeps to the place of its words (Prompt-to-Prompt, arXiv 2208.01626, "local editing").

The attention maps of chosen words, summed over the run so far, are thresholded to a mask; outside of it the edit is the
source:  x_edit <- x_source + mask (x_edit - x_source), with mask = mask of the source's words or of the edit's. The
place of words that are to be kept is cut out of it.

Differs from the official code, which knows five layers of 16x16 alone: the layers are chosen by their fraction of the
picture's size, so that any size and aspect will do; maps are enlarged smoothly; the threshold is 0.4 and not 0.3;
emphasis is left out of the maps. And it is not the sampler's own latent that is blended, which only some samplers would
let one do, but what the model sees and what it answers: outside of the mask the result is the source all the same, and
inside it is the same as far as a cell has been inside since the blend began. One that comes in later brings along what
its noise became in the steps before the blend, and not the source's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..morphology import grey_dilate

# Below this many cells across, a map is too coarse to outline anything.
LEAST_CELLS = 12
COARSEST = 4


def map_factor(factors: Iterable[int], height: int, width: int) -> int:
    """Which reduction of the latent (1, 2, 4, ...) to read the maps at.

    A quarter, as in the official code (16 of 64), or finer where that leaves fewer than 12 cells across.
    """
    known = sorted(set(factors))
    if not known:
        raise ValueError("This model has no cross-attention to read: load a text-to-image model.")
    fit = [f for f in known if f <= COARSEST and min(height, width) / f >= LEAST_CELLS]
    return max(fit) if fit else known[0]


def heat(maps: Tensor, columns: Sequence[int]) -> Tensor:
    """maps: (K, h, w) -> (h, w), how strongly the chosen columns are attended to, the strongest place 1; zeros without
    columns."""
    if not columns:
        return torch.zeros_like(maps[0])
    summed = maps[list(columns)].sum(0)
    return summed / summed.amax().clamp_min(1e-12)


def outline(heat_map: Tensor, size: tuple[int, int], threshold: float, *, grow: bool = True) -> Tensor:
    """heat_map: (h, w), the strongest place 1 -> (H, W) mask of zeros and ones, 1 = the words' place.

    grow: as in the official code a neighbourhood of 3x3 counts, so that the outline lies a little outside the thing.
    """
    maps = grey_dilate(heat_map[None], 1 if grow else 0)
    large = F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0, 0]
    peak = large.amax()
    return (large > threshold * peak).to(heat_map) if float(peak) > 0 else torch.zeros_like(large)


def keep_source_outside(x: Tensor, mask: Tensor, rows: Sequence[int], sources: Sequence[int]) -> Tensor:
    """x: (B, C, h, w) or (B, C, frames, h, w); mask: (len(rows), h, w).

    A new tensor whose `rows` are their sources where the mask is 0."""
    if not rows:
        return x
    out, base = x.clone(), x[list(sources)]
    weight = mask.to(x).unflatten(0, (-1, *[1] * (x.ndim - 3)))
    out[list(rows)] = torch.where(weight >= 1, x[list(rows)], torch.lerp(base, x[list(rows)], weight))
    return out
