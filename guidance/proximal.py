"""Proximal guidance: ProxEdit, Improving Tuning-Free Real Image Editing with Proximal Guidance (arXiv 2306.05414,
section 3.2). Guidance pushes everywhere, also where source and edit agree; small differences are noise and are cut:

    D = D_u + w prox(D_c - D_u)

with prox the hard threshold (l0: keep or drop) or the soft one (l1: shrink), at a quantile of the difference. As
D_c - D_u and the paper's epsilon_c - epsilon_u differ by a factor alone, both cut the same places.

Ours takes these formulas row by row. The published code differs, and is here as `published`: one quantile
of the whole batch, the source's row among it; an l0 that shrinks; an l1 that shrinks twice.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..inversion.diffusion import append_dims
from .morphology import grey_dilate

Threshold = Literal["hard", "soft"]
Form = Literal["palimpsest", "published l0", "published l1", "published none"]
# torch.quantile refuses larger inputs.
MOST_VALUES = 2**23


def proximal(conditional: Tensor, unconditional: Tensor, quantile: float, kind: Threshold = "hard") -> Tensor:
    """The conditional prediction with small differences from the unconditional one removed.

    Both (B, C, h, w). quantile: fraction (0..1) of the values of each row that are cut; 0 gives `conditional` itself.
    """
    if quantile <= 0:
        return conditional
    difference = conditional - unconditional
    size = difference.abs()
    limit = row_quantile(size, quantile)
    if kind == "hard":
        return torch.where(size > limit, conditional, unconditional)
    return unconditional + difference.sign() * (size - limit).clamp_min(0)


def row_quantile(values: Tensor, quantile: float) -> Tensor:
    """values: (B, C, h, w) -> (B, 1, 1, 1), below which the fraction `quantile` of each row lies."""
    flat = values.flatten(1).float()
    if flat.shape[1] > MOST_VALUES:
        flat = flat[:, :: -(-flat.shape[1] // MOST_VALUES)]
    return append_dims(torch.quantile(flat, min(quantile, 1.0), dim=1).to(values), values.ndim)


def changed(conditional: Tensor, unconditional: Tensor, quantile: float, grow: int = 1) -> Tensor:
    """(B, 1, h, w), 1 where the difference in any channel passes the threshold, grown by `grow` cells."""
    size = (conditional - unconditional).abs()
    mask = (size > row_quantile(size, quantile)).to(size).amax(1, keepdim=True)
    return grey_dilate(mask, grow)


def published(difference: Tensor, quantile: float, form: Form) -> tuple[Tensor, Tensor]:
    """The difference D_c - D_u (B, C, h, w) as the published code leaves it, and the limit it was cut at, a number.

    l1 as that code has it: what is left of the noise's difference below zero is moved up by the limit, small or large.
    The noise's difference has the other sign than this one.
    """
    limit = row_quantile(difference.abs().flatten()[None, None, None], quantile).reshape(())
    left = difference - difference.clamp(-limit, limit)
    if form == "published l1":
        left = torch.where(left > 0, left - limit, torch.where(left > -limit, left, left + limit))
    return left, limit


def published_mask(left: Tensor, limit: Tensor, grow: int) -> Tensor:
    """(B, C, h, w), 1 where the published code takes a value for edited: what is left still passes the limit, near
    it in its own channel."""
    return grey_dilate((left.abs() > limit).to(left), grow)
