"""What a motion asks of a picture: the losses of Motion Guidance (arXiv 2401.18085, equations 3 to 5).

Pictures are (B, 3, H, W) in 0..1, not clamped. Every loss is one number a picture, (B,), so that pictures of one batch
never meet. L1 throughout, as released: mean over all pixels, the mask multiplying both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import reduce
from torch import Tensor

from ..flow.warp import Landing, backward_warp, forward_warp, sample
from ..morphology import dilate

Decode = Callable[[Tensor], Tensor]
FlowNet = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Terms:
    """The two losses of one evaluation, (B,) each: colour in 0..1, flow in pixels (zero where it was not asked)."""

    colour: Tensor
    flow: Tensor


@dataclass(frozen=True)
class Objective:
    """A motion and the weights of its two losses.

    source: (B, 3, H, W). flow: (B, H, W, 2) the target. landing: where `flow` takes the source.
    warped: (B, 3, H, W) the source with its parts moved. counted: (B, H, W) bool, where that is certain: what arrives,
    and what stays beside it. colour, motion: weights of the two losses (paper: 100, 3).
    """

    source: Tensor
    flow: Tensor
    landing: Landing
    warped: Tensor
    counted: Tensor
    colour: float = 100.0
    motion: float = 3.0

    @property
    def seen(self) -> Tensor:
        """(B, H, W) 0..1 on the source: pixels that can be found again (the paper's occlusion mask).

        Differs from the paper: what leaves the picture or is hidden by another moving thing is left out too; there
        the loss would read pixels that show something else.
        """
        return (~self.landing.occluded).to(self.source.dtype)

    def total(self, terms: Terms) -> Tensor:
        """(B,) equation 5: the weighted sum."""
        return self.colour * terms.colour + self.motion * terms.flow

    def by_estimate(self, picture: Tensor, flow_net: FlowNet | None) -> Terms:
        """Both losses as in the paper: the colour loss reads the picture along the *estimated* flow (equation 4).

        Without a flow network the target flow takes the estimate's place, and the flow loss is zero.
        """
        estimate = self.flow if flow_net is None else flow_net(picture)
        seen = self.seen[:, None]
        colour = _mean((self.source * seen - backward_warp(picture, estimate) * seen).abs())
        if flow_net is None:
            return Terms(colour, torch.zeros_like(colour))
        return Terms(colour, _mean((self.flow - estimate).abs()))

    def by_target(self, picture: Tensor, flow_net: FlowNet | None) -> Terms:
        """The colour loss along the target flow, counted on the target, so that what grows counts at every pixel of
        its new size, and what stays beside it keeps it from growing; the flow loss (where a network is given) over
        pixels that can be found again."""
        colour = self.arrival_error(picture)
        if flow_net is None:
            return Terms(colour, torch.zeros_like(colour))
        seen = self.seen[..., None]
        return Terms(colour, _mean((self.flow * seen - flow_net(picture) * seen).abs()))

    def arrival_error(self, picture: Tensor) -> Tensor:
        """(B,) mean L1 between the picture and the moved source, over all pixels, where that is certain."""
        return arrival_error(picture, self.warped, self.counted)

    def floor(self, decoded_source: Tensor, flow_net: FlowNet | None = None) -> Terms:
        """The least that both losses can be asked for: the decoder's own error on the source, moved along, and the
        network's on the moved source. Where the network cannot see the motion even there, it has no say."""
        moved = torch.where(self.landing.arrived[:, None], sample(decoded_source, self.landing.source), decoded_source)
        return Terms(self.arrival_error(moved), self.by_target(self.warped, flow_net).flow)


def arrival_error(picture: Tensor, warped: Tensor, counted: Tensor) -> Tensor:
    """(B,) mean L1 of two pictures (B, 3, H, W) over all pixels, those that are not `counted` (B, H, W) being equal."""
    counted = counted[:, None].to(picture.dtype)
    return _mean((picture * counted - warped * counted).abs())


def objective(source: Tensor, flow: Tensor, landing: Landing, *, colour: float, motion: float, grow: int) -> Objective:
    """The objective of a motion; `grow` pixels round what has left are filled anew in its warped picture, and as many
    round what arrives are compared with the source."""
    warped = forward_warp(source, landing, grow=grow)
    return Objective(source, flow, landing, warped, counted_pixels(landing, grow), colour, motion)


def counted_pixels(landing: Landing, grow: int) -> Tensor:
    """(B, H, W) bool: where a moved picture is certain, what arrives and `grow` pixels of what stays round it."""
    return landing.arrived | (dilate(landing.arrived, grow) & ~landing.to_fill(grow))


def _mean(values: Tensor) -> Tensor:
    return reduce(values, "b ... -> b", "mean")
