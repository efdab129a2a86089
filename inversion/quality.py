"""How like two pictures are: PSNR and SSIM (Wang et al. 2004), a value a row."""

from __future__ import annotations

import torch
from einops import rearrange
from kornia.metrics import ssim as ssim_map
from torch import Tensor

# Equal pictures have no error to take the logarithm of; this stands for "the same".
PSNR_EQUAL = 100.0
SSIM_WINDOW = 11


def psnr(a: Tensor, b: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Pictures (B, H, W, C) in 0..1 -> (B,) decibels, at most PSNR_EQUAL.

    mask: (B, H, W) in 0..1, the weight of each pixel; an empty mask gives PSNR_EQUAL.
    """
    error = (a.float() - b.float()).square().mean(-1)
    weight = torch.ones_like(error) if mask is None else mask.to(error)
    mse = (error * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1e-12)
    return (-10.0 * torch.log10(mse.clamp_min(10.0 ** (-PSNR_EQUAL / 10)))).clamp_max(PSNR_EQUAL)


def ssim(a: Tensor, b: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Pictures (B, H, W, C) in 0..1 -> (B,) structural similarity, 1 for equal ones; mask as for psnr.

    The window (11 pixels, sigma 1.5) needs sides of six pixels; smaller pictures get a smaller window.
    """
    side = min(a.shape[1], a.shape[2])
    window = min(SSIM_WINDOW, 2 * ((side - 1) // 2) + 1)
    one, two = (rearrange(x.float(), "b h w c -> b c h w") for x in (a, b))
    values = ssim_map(one, two, window).mean(1)
    weight = torch.ones_like(values) if mask is None else mask.to(values)
    return (values * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1e-12)
