"""What artists do today, re-implemented from its description: a threshold on the difference, and colour matches."""

from __future__ import annotations

import kornia
import torch
from torch import Tensor

from ...guidance.finish.alignment import resized, size_of

THRESHOLD = 0.1
"""Of full scale: what packs that paste the difference back have as their default, or near it."""


def difference_mask(source: Tensor, edited: Tensor) -> Tensor:
    """(3, H, W), (3, h, w) -> (H, W) bool: the edited picture is stretched to the source, what differs is changed."""
    return (resized(edited, size_of(source)) - source).abs().mean(0) > THRESHOLD


def reinhard(picture: Tensor, reference: Tensor) -> Tensor:
    """Mean and standard deviation of each channel in Lab (Reinhard et al., IEEE CG&A 2001)."""
    mine, wished = (kornia.color.rgb_to_lab(one) for one in (picture, reference))
    mean, std = mine.mean((1, 2), keepdim=True), mine.std((1, 2), keepdim=True).clamp_min(1e-4)
    matched = (mine - mean) / std * wished.std((1, 2), keepdim=True) + wished.mean((1, 2), keepdim=True)
    return kornia.color.lab_to_rgb(matched).clamp(0, 1)


def monge_kantorovich(picture: Tensor, reference: Tensor) -> Tensor:
    """Means and covariances in RGB by the linear map of least transport (Pitie and Kokaram, CVMP 2007)."""
    mine, wished = picture.flatten(1).double(), reference.flatten(1).double()
    eye = 1e-8 * torch.eye(3, dtype=torch.float64)
    own, other = torch.cov(mine) + eye, torch.cov(wished) + eye
    root = _root(own)
    back = torch.linalg.inv(root)
    matrix = back @ _root(root @ other @ root) @ back
    matched = matrix @ (mine - mine.mean(1, keepdim=True)) + wished.mean(1, keepdim=True)
    return matched.to(picture).reshape(picture.shape).clamp(0, 1)


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp_min(0).sqrt() @ vectors.T


def histogram(picture: Tensor, reference: Tensor) -> Tensor:
    """Each channel's 256 levels by their ranks."""
    bins = torch.arange(257) / 256
    matched = []
    for mine, wished in zip(picture.flatten(1), reference.flatten(1)):
        own, other = (torch.histc(one, 256, 0, 1).cumsum(0) / one.numel() for one in (mine, wished))
        levels = bins[torch.searchsorted(other, own).clamp(max=255)]
        matched.append(levels[(mine * 255.999).long().clamp(0, 255)])
    return torch.stack(matched).reshape(picture.shape)


MATCHES = {"Reinhard in Lab": reinhard, "Monge-Kantorovich": monge_kantorovich, "histogram": histogram}
