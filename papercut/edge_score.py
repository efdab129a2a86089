"""How well drawn edges were met: precision, recall and F1 with a tolerance in pixels.

An edge pixel counts as met where the other map has one within the tolerance (Euclidean). This is the usual relaxed
matching; unlike the Berkeley benchmark (Martin et al. 2004) it does not pair pixels one to one, so that a thick line is
not punished for its thickness as long as it stays within the tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..guidance.morphology import dilate

TOLERANCE = 2.0


@dataclass(frozen=True, eq=False)
class EdgeScore:
    """(B,) each, in 0..1. precision: fraction of the found edges that were wanted; recall: of the wanted ones that
    were found; f1: their harmonic mean."""

    precision: Tensor
    recall: Tensor
    f1: Tensor


def edge_score(found: Tensor, wanted: Tensor, *, tolerance: float = TOLERANCE) -> EdgeScore:
    """found, wanted: (B, H, W) bool; tolerance: pixels.

    Nothing found where nothing is wanted scores 1; nothing found where something is, or the reverse, scores 0.
    """
    found, wanted = found.bool(), wanted.bool()
    precision = _fraction(found & dilate(wanted, tolerance), found, empty=~wanted.flatten(1).any(1))
    recall = _fraction(wanted & dilate(found, tolerance), wanted, empty=~found.flatten(1).any(1))
    total = precision + recall
    f1 = torch.where(total > 0, 2 * precision * recall / total.clamp_min(1e-12), torch.zeros_like(total))
    return EdgeScore(precision, recall, f1)


def _fraction(hit: Tensor, of: Tensor, *, empty: Tensor) -> Tensor:
    """hit / of a row; where `of` is empty, 1 if the other side is empty too, else 0."""
    count = of.flatten(1).sum(1)
    fraction = hit.flatten(1).sum(1) / count.clamp_min(1)
    return torch.where(count > 0, fraction, empty.to(fraction))
