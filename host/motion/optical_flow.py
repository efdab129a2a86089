"""The host's OPTICAL_FLOW (torchvision's RAFT-large, arXiv 2003.12039) as a differentiable flow from one fixed source.

A guided run compares one source with hundreds of pictures, so the source's features and context are computed once. The
shared network keeps no trace: its correlation block, which stores its pyramid, is copied.
"""

from __future__ import annotations

import copy
from math import ceil

import comfy.model_management
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..gradients import plain
from ..memory import chunked_cat

STRIDE, SMALLEST = 8, 128
LARGEST = 768  # of the longer side where whole pictures are compared: correlations grow with the area's square
PARTS = ("feature_encoder", "context_encoder", "corr_block", "update_block", "mask_predictor")


def require_optical_flow(optical_flow, name: str = "optical_flow"):
    """The network of a loaded OPTICAL_FLOW, or a ValueError of one sentence."""
    network = getattr(optical_flow, "model", None)
    if not isinstance(network, torch.nn.Module) or not all(hasattr(network, part) for part in PARTS):
        kind = type(network if network is not None else optical_flow).__name__
        raise ValueError(f"The input '{name}' is not torchvision's RAFT-large but {kind}: use Load Optical Flow Model.")
    return network


def working_size(height: int, width: int, largest: int = 0) -> tuple[int, int]:
    """The size the network sees: sides multiples of 8, at least 128, the longer at most `largest` (0 = no limit)."""
    shrink = min(1.0, largest / max(height, width)) if largest else 1.0
    grow = max(1.0, SMALLEST / (min(height, width) * shrink))
    return tuple(max(STRIDE * ceil(side * shrink * grow / STRIDE - 1e-9), SMALLEST) for side in (height, width))


def memory_of(height: int, width: int) -> float:
    """Bytes, about, that one estimate between float32 pictures of a working size takes without gradients: the pyramid
    of correlations (4/3 of a number for each pair of cells), as much while it is made, and the encoders' layers."""
    cells = height * width / STRIDE**2
    return 2 * 4 * cells**2 * 4 / 3 + 1024.0 * height * width


class SourceFlow:
    """Flow from `source` (B, 3, H, W) in 0..1 to any picture of its size -> (B, H, W, 2) pixels, differentiable.

    The network must be on the source's device. updates: how often the estimate is refined (the release uses 5).
    """

    def __init__(self, network: torch.nn.Module, source: Tensor, *, updates: int = 5, largest: int = 0):
        self.network, self.updates, self.size = network, updates, tuple(source.shape[-2:])
        self.working = working_size(*self.size, largest)
        self._features = self._context = self._source = None
        self._picture = source

    def __call__(self, picture: Tensor) -> Tensor:
        if self._features is None:
            self._prepare()
        features = self.network.feature_encoder(self._fit(picture))
        batch = len(features)
        correlation = copy.copy(self.network.corr_block)
        correlation.build_pyramid(_batched(self._features, batch), features)
        hidden, context = (_batched(value, batch) for value in self._context)
        grid = _grid(features)
        points = grid
        for _ in range(self.updates):
            # As in the paper, gradients pass through the features and the hidden state, not through the coordinates.
            points = points.detach()
            looked_up = correlation.index_pyramid(centroids_coords=points)
            hidden, change = self.network.update_block(hidden, context, looked_up, points - grid)
            points = points + change
        weights = self.network.mask_predictor(hidden) if self.network.mask_predictor is not None else None
        return self._back(_upsampled(points - grid, weights))

    @torch.no_grad()
    def _prepare(self) -> None:
        source = self._fit(self._picture)
        # Not inference tensors: what is kept here meets autograd later.
        self._features = plain(self.network.feature_encoder(source))
        size = self.network.update_block.hidden_state_size
        hidden, context = self.network.context_encoder(source).tensor_split([size], dim=1)
        self._context = plain(torch.tanh(hidden)), plain(F.relu(context))

    def _fit(self, picture: Tensor) -> Tensor:
        """0..1 at any size -> -1..1 at the working size."""
        picture = plain(picture) * 2 - 1
        if tuple(picture.shape[-2:]) == self.working:
            return picture
        return F.interpolate(picture, self.working, mode="bilinear", align_corners=False)

    def _back(self, flow: Tensor) -> Tensor:
        """(B, 2, h, w) at the working size -> (B, H, W, 2) in pixels of the picture."""
        scale = torch.tensor([b / a for a, b in zip(self.working, self.size)][::-1], device=flow.device)
        if self.working != self.size:
            flow = F.interpolate(flow, self.size, mode="bilinear", align_corners=False)
        return rearrange(flow, "b c h w -> b h w c") * scale


def estimate_flow(
    network: torch.nn.Module, first: Tensor, second: Tensor, *, updates: int = 12, largest: int = 0
) -> Tensor:
    """The flow from `first` to `second` (B, 3, H, W) in 0..1 -> (B, H, W, 2), without gradients."""
    with torch.no_grad():
        return SourceFlow(network, first, updates=updates, largest=largest)(second)


def estimate_each(optical_flow, first: Tensor, second: Tensor, *, updates: int = 12, largest: int = LARGEST) -> Tensor:
    """The same with the host's OPTICAL_FLOW, which is loaded for it: pair after pair, interruptible -> on the CPU."""
    network, device = require_optical_flow(optical_flow), optical_flow.load_device
    need = memory_of(*working_size(*first.shape[-2:], largest))
    comfy.model_management.load_models_gpu([optical_flow], memory_required=need)

    def one(rows: slice) -> Tensor:
        pair = (pictures[rows].to(device) for pictures in (first, second))
        return estimate_flow(network, *pair, updates=updates, largest=largest).cpu()

    return chunked_cat(one, len(first), size=1, what="The estimate of the flow between two pictures")


def _batched(values: Tensor, batch: int) -> Tensor:
    return values if len(values) == batch else values.expand(batch, *values.shape[1:])


def _grid(features: Tensor) -> Tensor:
    """(B, 2, h, w): the point (x, y) of every cell."""
    batch, _, height, width = features.shape
    y = torch.arange(height, dtype=features.dtype, device=features.device)
    x = torch.arange(width, dtype=features.dtype, device=features.device)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))[None].repeat(batch, 1, 1, 1)


def _upsampled(flow: Tensor, weights: Tensor | None) -> Tensor:
    """(B, 2, h, w) in cells -> (B, 2, 8h, 8w) in pixels: each pixel a convex mix of its cell's nine neighbours."""
    if weights is None:
        return STRIDE * F.interpolate(flow, scale_factor=STRIDE, mode="bilinear", align_corners=True)
    height = flow.shape[2]
    mix = rearrange(weights, "b (k i j) h w -> b 1 k i j h w", k=9, i=STRIDE).softmax(dim=2)
    around = rearrange(F.unfold(STRIDE * flow, 3, padding=1), "b (c k) (h w) -> b c k 1 1 h w", c=2, h=height)
    return rearrange((mix * around).sum(dim=2), "b c i j h w -> b c (h i) (w j)")
