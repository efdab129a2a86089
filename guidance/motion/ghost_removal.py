"""What has left does not come back: the vacated place of a motion, kept empty in the clean estimate.

Where something moves away the losses of Motion Guidance (arXiv 2401.18085) ask for nothing, and a model whose prompt
names the thing likes to paint it there again, or to grow the moved one over its old place. So the part of the clean
estimate that lies along what has left is cut there, in the latent: with z* the source, z_w the moved source (its bare
places filled from around them) and a = mean(z* - z_w) over what has left nearby, an estimate z shows the fraction
s = <z - z_w, a> / <a, a> of it, and becomes z - max(s - CAP, 0) a. A ground that differs from its smooth filling, a
pattern say, hardly points along a, and stays the model's own. No network is asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..flow.warp import Landing

CAP = 0.2  # fraction of what has left that a ground may show by chance
NEARBY, SURROUNDINGS = 5, 3  # cells on a side over which `a` is averaged, and over which the fraction is read
FAINT = 0.05  # squared length of `a` (unit-variance latents) under which it is no direction


@dataclass(frozen=True)
class GhostRemoval:
    """away: (B, C, h, w) the direction a. bare: (B, 1, h, w) fraction of each cell that is to be filled. moved: z_w."""

    away: Tensor
    bare: Tensor
    moved: Tensor

    def cut(self, clean: Tensor, firmness: float = 1.0) -> Tensor:
        """A clean estimate (B, C, h, w) without what has left; firmness 0..1, 0 leaves it as it is."""
        shown, whole = ((values * self.away).sum(1, keepdim=True) for values in (clean - self.moved, self.away))
        # The less of the cell's own fraction and its surroundings': things are larger than cells.
        along = torch.minimum(shown / whole.clamp_min(FAINT), _around(shown) / _around(whole).clamp_min(FAINT))
        return clean - firmness * (along - CAP).clamp_min(0) * self.away * self.bare


def ghost_removal(source: Tensor, moved: Tensor, landing: Landing, grow: int) -> GhostRemoval:
    """From the latents of the source and of the moved source (B, C, h, w), and `grow` as in `Landing.to_fill`."""
    size = (source.shape[-2], source.shape[-1])
    cells = lambda mask: F.adaptive_avg_pool2d(mask[:, None].to(source.dtype), size)
    left = cells(landing.vacated & ~landing.arrived)
    mean = lambda values: F.avg_pool2d(values, NEARBY, stride=1, padding=NEARBY // 2)
    return GhostRemoval(mean((source - moved) * left) / mean(left).clamp_min(1e-2), cells(landing.to_fill(grow)), moved)


def _around(values: Tensor) -> Tensor:
    """(B, 1, h, w): the mean over each cell and those beside it."""
    return F.avg_pool2d(values, SURROUNDINGS, stride=1, padding=SURROUNDINGS // 2, count_include_pad=False)
