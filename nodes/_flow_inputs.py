"""Inputs of the FLOW nodes, checked and brought to one size and batch."""

from __future__ import annotations

import torch

from ..guidance.flow.fields import check_flow, expand_batch, region_of, resize_flow, resize_layers
from ..host.notify import notify
from ..host.validation import require_finite


def require_mask(mask: torch.Tensor, name: str = "mask") -> torch.Tensor:
    """MASK (B, H, W), finite and not empty. Raises ValueError otherwise."""
    if not isinstance(mask, torch.Tensor) or mask.ndim != 3 or not torch.isfinite(mask).all():
        raise ValueError(f"The input '{name}' is not a mask: connect a MASK, such as that of Load Image's Mask Editor.")
    if not region_of(mask).flatten(1).any(dim=1).all():
        raise ValueError(f"The input '{name}' is empty, so nothing can move: paint or select the region to be moved.")
    return mask


def fitted_flow(flow, layers, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The flow and its layers at the picture's size; a resize is said on the node."""
    flow, (height, width) = check_flow(flow), image.shape[1:3]
    if flow.shape[1:3] != (height, width):
        notify(
            f"The flow was made for {flow.shape[2]} x {flow.shape[1]}; it is resized to {width} x {height} with its "
            "vectors."
        )
    if layers is not None:
        layers = require_finite(layers, "The input 'layers'", "make them again with Flow Compose or Flow Canvas")
        layers = resize_layers(layers.float(), height, width)
    return resize_flow(flow, height, width), layers


def matched(flow, layers, image):
    """Flow, layers and picture as batches of one length."""
    batch = max(flow.shape[0], image.shape[0])
    layers = None if layers is None else expand_batch(layers, batch)
    return expand_batch(flow, batch), layers, expand_batch(image, batch)
