"""What an edit has done to a picture, in numbers: PSNR, SSIM and MSE inside and outside a mask, the changed area, and
the structure distance of Splicing ViT Features (arXiv 2201.00424, eq. 2): the measures of PIE-Bench (2310.01506)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..inversion.quality import decibels, ssim_of_pixels, weighted_mean

# A pixel counts as changed where a channel differs by more than this: ten of 255 steps, above what a VAE does.
CHANGED = 10 / 255
WHOLE, OUTSIDE, INSIDE = "whole picture", "outside the mask", "inside the mask"


@dataclass(frozen=True)
class Region:
    """A part of the picture. fraction: of its area; psnr in decibels, ssim up to 1, mse of values in 0..1."""

    name: str
    fraction: float
    psnr: float
    ssim: float
    mse: float

    @property
    def text(self) -> str:
        numbers = f"PSNR {self.psnr:.2f} dB, SSIM {self.ssim:.4f}, MSE {self.mse:.2e}"
        return f"{self.name} ({100 * self.fraction:.0f} % of the picture): {numbers}"


@dataclass(frozen=True)
class EditMeasures:
    """One picture's numbers. regions: with a mask also inside and outside of it, where there is anything; changed:
    fraction of pixels; masked: whether there was a mask; touched: pixels outside the mask that differ at all;
    structure: distance of the structures, 0 the same; clip: how well source and edit fit the text (cosine times 100);
    None where nothing is connected to measure with.
    """

    regions: tuple[Region, ...]
    changed: float
    masked: bool = False
    structure: float | None = None
    clip: tuple[float, float] | None = None
    touched: int = 0

    def region(self, name: str) -> Region | None:
        """None where nothing of the picture lies there."""
        return next((one for one in self.regions if one.name == name), None)

    def lines(self) -> list[str]:
        known = {name: self.region(name) for name in ((WHOLE, OUTSIDE, INSIDE) if self.masked else (WHOLE,))}
        text = [f"{name}: nothing" if one is None else one.text for name, one in known.items()]
        text.append(f"changed: {100 * self.changed:.1f} % of the pixels")
        text += [f"pixels changed outside the mask: {self.touched}"] if self.masked else []
        text += [] if self.structure is None else [f"structure distance: {self.structure:.4f}"]
        text += [] if self.clip is None else [f"CLIP score: source {self.clip[0]:.2f}, edit {self.clip[1]:.2f}"]
        return text


def measure(source: Tensor, edit: Tensor, mask: Tensor | None = None) -> list[EditMeasures]:
    """source, edit: (B, H, W, 3) in 0..1; mask: (B, H, W), 1 = where the edit is meant to be. One value a row."""
    masks: dict[str, Tensor | None] = {WHOLE: None}
    if mask is not None:
        inside = (mask > 0.5).to(source)
        masks |= {OUTSIDE: 1 - inside, INSIDE: inside}
    error, alike = (source - edit).square().mean(-1), ssim_of_pixels(source, edit)
    columns = {name: _region(error, alike, one) for name, one in masks.items()}
    outside = torch.zeros_like(source[..., 0]) if mask is None else (mask <= 0).to(source)
    touched = ((source != edit).any(-1) * outside).flatten(1).sum(1).int().tolist()
    changed = ((source - edit).abs().amax(-1) > CHANGED).flatten(1).float().mean(1).tolist()
    rows = []
    for i in range(len(source)):
        regions = [Region(name, *values[i]) for name, values in columns.items() if values[i][0] > 0]
        rows.append(EditMeasures(tuple(regions), changed[i], masked=mask is not None, touched=touched[i]))
    return rows


def _region(error: Tensor, alike: Tensor, mask: Tensor | None) -> list[tuple[float, float, float, float]]:
    """error, alike: (B, H, W) squared error and structural similarity -> (fraction, psnr, ssim, mse) a row."""
    fraction = torch.ones_like(error[:, 0, 0]) if mask is None else mask.flatten(1).mean(1)
    mse = weighted_mean(error, mask)
    parts = (fraction, decibels(mse), weighted_mean(alike, mask), mse)
    return list(zip(*(part.tolist() for part in parts)))


def structure_distance(source: Tensor, edit: Tensor) -> Tensor:
    """How differently the parts of two pictures relate to each other.

    source, edit: (B, N, D) features of N patches -> (B,), the mean squared difference of their self-similarities.
    """
    one, two = (F.normalize(x.float(), dim=-1) for x in (source, edit))
    return (one @ one.transpose(1, 2) - two @ two.transpose(1, 2)).square().flatten(1).mean(1)


def cosine_score(pictures: Tensor, texts: Tensor) -> Tensor:
    """CLIP score (arXiv 2104.08718) without its rescaling: (B, D) twice -> (B,) cosine times 100."""
    return 100 * F.cosine_similarity(pictures.float(), texts.float(), dim=-1)


def fit_mask(mask: Tensor, size: tuple[int, int], rows: int) -> Tensor:
    """mask: (M, h, w) -> (rows, H, W) in 0..1, whatever size it came in."""
    if mask.shape[-2:] != size:
        mask = F.interpolate(mask[:, None].float(), size=size, mode="bilinear", align_corners=False)[:, 0]
    return mask.expand(rows, -1, -1) if mask.shape[0] == 1 else mask
