"""PIE-Bench's measures of an edit: the field's conventions, on what Edit Report measures.

The field measures the background on both pictures times (1 - mask), over all of their pixels, so that PSNR rises with
the mask's area; beside it stands the PSNR of the background's own pixels, as Edit Report and our benchmarks have it.
"""

from __future__ import annotations

from torch import Tensor

from ...guidance.edit_measures import OUTSIDE, measure
from ...inversion.quality import SSIM_WINDOW, decibels, ssim_of_pixels, weighted_mean


def covered(picture: Tensor, mask: Tensor) -> Tensor:
    """(H, W, 3) with nothing but black where the mask (H, W) is 0."""
    return picture * mask[..., None]


def of_pixels(source: Tensor, edit: Tensor, mask: Tensor | None) -> dict[str, float]:
    """PSNR, MSE and SSIM of pictures (H, W, 3) in 0..1: of the background, or of all where there is no mask.

    Nothing for a mask that covers all: there is no background to measure.
    """
    keep = source.new_ones(source.shape[:2]) if mask is None else 1 - mask
    if not bool(keep.any()):
        return {}
    one, two = covered(source, keep)[None], covered(edit, keep)[None]
    mse = weighted_mean((one - two).square().mean(-1))
    found = {"psnr": float(decibels(mse)), "mse": float(mse), "ssim": float(weighted_mean(inner_ssim(one, two)))}
    if mask is not None:
        found["psnr_own"] = measure(source[None], edit[None], mask[None])[0].region(OUTSIDE).psnr
    return found


def inner_ssim(one: Tensor, two: Tensor) -> Tensor:
    """(B, H, W, 3) twice -> (B, h, w), of the pixels whose window lies inside the picture, as torchmetrics had it
    when the published numbers were made."""
    reach = SSIM_WINDOW // 2
    return ssim_of_pixels(one, two)[:, reach:-reach, reach:-reach]
