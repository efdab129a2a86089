"""How Gaussian inverted noise is: the measure of editability in Null-text Inversion (arXiv 2211.09794, appendix).

A model edits well what looks like the noise it was trained on; noise that still carries the picture resists edits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .diffusion import append_dims

IDEAL_LOG_LIKELIHOOD = -0.5 * (1.0 + math.log(2 * math.pi))


@dataclass(frozen=True, eq=False)
class Gaussianity:
    """One value a row, (B,) float32. White Gaussian noise gives 0, 1, 0 and IDEAL_LOG_LIKELIHOOD (-1.419)."""

    mean: Tensor
    std: Tensor
    correlation: Tensor
    log_likelihood: Tensor


def unit_noise(latent: Tensor, sigma: float, *, flow: bool) -> Tensor:
    """A latent at a noise level, (B, C, ..., h, w), scaled to unit std if picture and noise had it.

    Variance-exploding: x / sqrt(1 + sigma^2), the network's own view. Flow: x / sqrt((1 - sigma)^2 + sigma^2).
    """
    signal = 1.0 - sigma if flow else 1.0
    return latent / math.sqrt(signal**2 + sigma**2)


def gaussianity(noise: Tensor) -> Gaussianity:
    """Measures unit noise (B, C, ..., h, w): each row by itself, over all its elements.

    correlation: between neighbours, the mean over across and down; 0 where a side has no neighbours or no variance.
    log_likelihood: mean log density under N(0, 1), nats an element.
    """
    x = noise.float()
    rows = x.flatten(1)
    centred = x - append_dims(rows.mean(1), x.ndim)
    return Gaussianity(
        mean=rows.mean(1),
        std=rows.std(1, unbiased=False),
        correlation=(_neighbours(centred, -1) + _neighbours(centred, -2)) / 2,
        log_likelihood=-0.5 * (rows.square().mean(1) + math.log(2 * math.pi)),
    )


def _neighbours(centred: Tensor, dim: int) -> Tensor:
    """(B,) Pearson's correlation of each element with the next one along dim."""
    size = centred.shape[dim]
    if size < 2:
        return centred.new_zeros(centred.shape[0])
    a, b = (centred.narrow(dim, start, size - 1).flatten(1) for start in (0, 1))
    power = (a.square().mean(1) * b.square().mean(1)).sqrt()
    # Below this a flat latent's rounding would be correlated.
    return torch.where(power > 1e-12, (a * b).mean(1) / power.clamp_min(1e-12), 0.0)
