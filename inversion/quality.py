"""How like two pictures are: PSNR and SSIM (Wang et al. 2004), a value a row."""

from __future__ import annotations

import torch
from einops import rearrange
from kornia.metrics import ssim as ssim_map
from torch import Tensor

# Equal pictures have no error to take the logarithm of; this stands for "the same".
PSNR_EQUAL = 100.0
SSIM_WINDOW = 11
# Pixels that are compared at once: large pictures go in bands of rows, between which a run can be stopped.
BAND = 2**21


def psnr(a: Tensor, b: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Pictures (B, H, W, C) in 0..1 -> (B,) decibels, at most PSNR_EQUAL.

    mask: (B, H, W) in 0..1, the weight of each pixel; an empty mask gives PSNR_EQUAL.
    """
    return decibels(weighted_mean((a.float() - b.float()).square().mean(-1), mask))


def ssim(a: Tensor, b: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Pictures (B, H, W, C) in 0..1 -> (B,) structural similarity, 1 for equal ones; mask as for psnr."""
    return weighted_mean(ssim_of_pixels(a, b), mask)


def decibels(mse: Tensor) -> Tensor:
    """The PSNR of a mean squared error of values in 0..1."""
    return (-10.0 * torch.log10(mse.clamp_min(10.0 ** (-PSNR_EQUAL / 10)))).clamp_max(PSNR_EQUAL)


def ssim_of_pixels(a: Tensor, b: Tensor) -> Tensor:
    """Pictures (B, H, W, C) in 0..1 -> (B, H, W) structural similarity of the surroundings of each pixel.

    The window (11 pixels, sigma 1.5) needs sides of six pixels; smaller pictures get a smaller window.
    """
    batch, height, width = a.shape[:3]
    reach = min(SSIM_WINDOW // 2, (min(height, width) - 1) // 2)
    rows, bands = max(1, BAND // (batch * width)), []
    for top in range(0, height, rows):
        first, last = max(0, top - reach), min(height, top + rows + reach)
        one, two = (rearrange(x[:, first:last].float(), "b h w c -> b c h w") for x in (a, b))
        band = ssim_map(one, two, 2 * reach + 1).mean(1)
        bands.append(band[:, top - first : top - first + rows])
    return torch.cat(bands, 1)


def weighted_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B, H, W) -> (B,) mean of each row; mask: (B, H, W) in 0..1, the weight of each pixel; an empty one gives 0."""
    weight = torch.ones_like(values) if mask is None else mask.to(values)
    return (values * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1e-12)
