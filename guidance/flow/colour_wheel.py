"""Pictures of flows: the standard colour wheel (Baker et al., 2011), and where arrows stand."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torchvision.utils import flow_to_image

from .fields import moving


def colour_wheel(flow: Tensor, *, largest: float | None = None) -> Tensor:
    """The flow (B, H, W, 2) as colours (B, H, W, 3) in 0..1: hue is the direction, saturation the length.

    largest: the length in pixels that is fully saturated; by default the longest vector of each flow.
    """
    pictures = []
    for item in flow.float().cpu():
        item = rearrange(item, "h w c -> c h w")
        length = item.norm(dim=0, keepdim=True).max()
        if largest:
            # The library saturates the longest vector of all, so one corner pixel is set to that length.
            item = item * (largest / item.norm(dim=0, keepdim=True).clamp_min(largest))
            item = torch.cat((item, torch.zeros_like(item[:, :1])), dim=1)
            item[0, -1, 0] = largest
        picture = flow_to_image(item).float() / 255 if length > 0 or largest else torch.ones(3, *item.shape[1:])
        pictures.append(rearrange(picture[:, : flow.shape[1]], "c h w -> h w c"))
    return torch.stack(pictures)


def arrow_points(flow: Tensor, every: int) -> Tensor:
    """(N, 4, 2): tail, head and the two barbs of each arrow of a flow (H, W, 2).

    One stands every `every` pixels where the flow moves anything; a small region keeps one.
    """
    seen = moving(flow[None])[0]
    lattice = torch.zeros_like(seen)
    lattice[every // 2 :: every, every // 2 :: every] = True
    chosen = torch.nonzero(seen & lattice)
    if not len(chosen) and bool(seen.any()):
        points = torch.nonzero(seen).float()
        chosen = points[(points - points.mean(dim=0)).norm(dim=-1).argmin()][None].long()
    tail = chosen.flip(-1).float()
    vector = flow[chosen[:, 0], chosen[:, 1]]
    length = vector.norm(dim=-1, keepdim=True)
    barb = vector / length.clamp_min(1e-6) * (0.35 * length).clamp(3.0, every / 2.5)
    side = torch.stack((-barb[:, 1], barb[:, 0]), dim=-1) * 0.5
    head = tail + vector
    return torch.stack((tail, head, head - barb + side, head - barb - side), dim=1)
