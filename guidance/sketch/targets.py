"""Edge pictures -> what an edge predictor is asked for: soft closeness to the nearest edge, in cells of the latent.

    closeness(p) = max over edge pixels q of  E(q) exp(-|p - q|^2 / (2 spread^2))

For edges of zeros and ones this is a Gaussian of the exact Euclidean distance. The exponential of a sum of squares is a
product, so that the maximum is taken along the columns first and along the rows then: exact, and no distance transform.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 3.0
"""Beyond this many std closeness counts as zero (it is below 0.012)."""


def closeness(edges: Tensor, spread: float) -> Tensor:
    """edges: (B, H, W) in 0..1; spread: pixels. Returns (B, H, W) in 0..1: 1 on a full edge, less farther off."""
    reach = max(1, math.ceil(REACH * spread))
    along = _spread_along(edges, spread, reach, dim=-2)
    return _spread_along(along, spread, reach, dim=-1)


def _spread_along(x: Tensor, spread: float, reach: int, dim: int) -> Tensor:
    """max over k of x shifted by k along `dim`, times exp(-k^2 / (2 spread^2))."""
    count = x.shape[dim]
    padded = F.pad(x, (reach, reach) if dim == -1 else (0, 0, reach, reach))
    best = x
    for k in range(-reach, reach + 1):
        if k:
            weight = math.exp(-(k * k) / (2 * spread * spread))
            best = torch.maximum(best, padded.narrow(dim, reach + k, count) * weight)
    return best


def to_cells(map_: Tensor, size: tuple[int, int], detail: int) -> Tensor:
    """(B, H, W) of the picture -> (B, 1, detail h, detail w): the mean of each cell. size: (h, w) of the latent."""
    cells = (size[0] * detail, size[1] * detail)
    if (map_.shape[-2] < cells[0]) or (map_.shape[-1] < cells[1]):
        return F.interpolate(map_[:, None], size=cells, mode="bilinear", align_corners=False)
    return F.interpolate(map_[:, None], size=cells, mode="area")


def edge_target(edges: Tensor, size: tuple[int, int], *, detail: int, spread: float) -> Tensor:
    """edges: (B, H, W) in 0..1, thin lines; size: (h, w) of the latent; spread: pixels of the latent.

    Returns (B, 1, detail h, detail w) in 0..1.
    """
    scale = (edges.shape[-2] / size[0] + edges.shape[-1] / size[1]) / 2
    return to_cells(closeness(edges.float(), spread * scale), size, detail)


def blur(map_: Tensor, std: float) -> Tensor:
    """(B, K, h, w) smoothed by a Gaussian (std in its own pixels), the border reflected; 0 changes nothing."""
    reach = min(math.ceil(3 * std), min(map_.shape[-2:]) - 1)
    if std <= 0 or reach < 1:
        return map_
    down, across = (_smoothing(size, reach, std).to(map_) for size in map_.shape[-2:])
    return down @ map_ @ across.T


def _smoothing(size: int, reach: int, std: float) -> Tensor:
    """(size, size): the Gaussian along one side, as a matrix. The backward pass of a convolution with one long kernel
    would cost more than the rest of the loss."""
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-(offsets * offsets) / (2 * std * std))
    taken = (torch.arange(size)[:, None] + offsets).abs()
    taken = torch.where(taken > size - 1, 2 * (size - 1) - taken, taken)
    return torch.zeros(size, size).scatter_add_(1, taken, (weights / weights.sum()).expand(size, -1))
