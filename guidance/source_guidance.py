"""Source guidance, from the source prompt to the target prompt: Uni-Edit (UniEdit-Flow, arXiv 2504.13109, section 3.3).

The paper adds, at one latent, the velocities of both prompts, with d = v_T - v_S and a weight m in 0..1 for each place:

    v = m v_T + (1 - m) v_S + w (1 + m) d,      m: mean over the channels of |d|, from its least to its greatest value

That is classifier-free guidance with the source prompt as the negative and a scale for each place, for predictions of
x0, noise and velocity alike, since all three are affine in each other:

    D = D_S + W (D_T - D_S),      W = m + w (1 + m)

Where both prompts agree, nothing is edited. The run starts at the inverted picture, some way up the schedule.

Differs from the paper: a mask of one's own takes the place of m where it is 1, and where it is 0 nothing is guided, so
that what it keeps is what the source prompt paints. Strength scales W as a whole. Differs from the official code: that
takes the mean of the signed d, by which the places that change most in one direction would be edited least.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..inversion.diffusion import append_dims


@dataclass(frozen=True)
class SourceGuidance:
    """strength: 1 as published, 0 the source prompt alone. correction: the paper's omega."""

    strength: float = 1.0
    correction: float = 5.0

    def weight(self, target: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """W (B, 1, h, w) of predictions (B, C, h, w). mask: (B, 1, h, w) or (1, 1, h, w) in 0..1, in place of the found
        one."""
        if mask is not None:
            return self.strength * (1 + 2 * self.correction) * mask
        found = difference(target, source)
        return self.strength * (found + self.correction * (1 + found))


def difference(target: Tensor, source: Tensor) -> Tensor:
    """m (B, 1, h, w) in 0..1: where two predictions (B, C, h, w) differ, from the least to the greatest difference of
    each picture; 0 where they differ everywhere alike."""
    found = (target - source).abs().mean(1, keepdim=True)
    low, high = (append_dims(one, found.ndim) for one in torch.aminmax(found.flatten(1), dim=1))
    return torch.where(high > low, (found - low) / (high - low).clamp_min(torch.finfo(found.dtype).tiny), 0.0)


def guided_from_source(target: Tensor, source: Tensor, weight: Tensor) -> Tensor:
    """D (B, C, h, w); weight: (B, 1, h, w). To the last bit `source` where the weight is 0."""
    return source + weight * (target - source)
