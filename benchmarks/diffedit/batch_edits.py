"""Hundreds of edits by the methods of `methods.py`: in batches, inverted once for all that start alike.

They are sampled in bfloat16 where that is quicker, by the pack, by diffusers and by SDEdit alike, as GPUs do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...papercut.data import autocast
from .cases import KINDS
from .fixtures import BATCH, Fixtures
from .methods import DEPTH, Edited, anchored_edit, baseline_edit, inverted, sdedit

if TYPE_CHECKING:
    from ...inversion.trajectory import Trajectory

SIZES = {"below 8 %": (0.0, 0.08), "8 to 25 %": (0.08, 0.25), "above 25 %": (0.25, 1.0)}


def inversions(fixtures: Fixtures, depth: float = DEPTH, *, named: bool = False) -> Trajectory:
    """One trajectory that holds all pictures of the fixtures."""
    with autocast():
        paths = [inverted(part, depth, named=named) for _, part in fixtures.batches()]
    return replace(paths[0], latents=torch.cat([path.latents for path in paths], 1))


def our_edits(
    fixtures: Fixtures, masks: Tensor, changes: Tensor | None, path: Trajectory, depth: float = DEPTH, **method
) -> Edited:
    """`anchored_edit` for each edit. Where a mask is empty nothing is sampled, as all would be kept."""
    made = Edited(fixtures.pictures.clone(), torch.zeros(masks.shape))
    chosen = masks.flatten(1).any(1).nonzero()[:, 0]
    with autocast():
        for rows in (some.tolist() for some in chosen.split(BATCH)):
            kept_path = path.part(rows)
            moved = None if changes is None else changes[rows]
            one = anchored_edit(fixtures.part(rows), masks[rows], moved, kept_path, depth, **method)
            made.pictures[rows], made.soft[rows] = one.pictures, one.soft
    return made


def sdedits(fixtures: Fixtures, depth: float = DEPTH) -> Tensor:
    """(B, 256, 256, 3); each batch has a seed of its own."""
    return _in_batches(fixtures, lambda part, rows: sdedit(part, depth, seed=rows.start))


def baseline_edits(fixtures: Fixtures, masks: Tensor) -> Tensor:
    """(B, 256, 256, 3) by diffusers with its own masks (B, 32, 32)."""
    return _in_batches(fixtures, lambda part, rows: baseline_edit(part, masks[rows]))


def _in_batches(fixtures: Fixtures, method: Callable[[Fixtures, slice], Tensor]) -> Tensor:
    with autocast():
        return torch.cat([method(part, rows) for rows, part in fixtures.batches()])


# How good they are


class Judged(NamedTuple):
    """(B,) each. right, whole: 1 where the classifier reads the changed word, every word of the new caption; else 0.
    kept: PSNR in dB outside the true mask, at most 60."""

    right: Tensor
    whole: Tensor
    kept: Tensor


def judged(pictures: Tensor, fixtures: Fixtures) -> Judged:
    """pictures: (B, 256, 256, 3)."""
    from ...papercut.classifier import load_classifier

    readings = load_classifier().read(pictures.movedim(-1, 1).float())
    pairs = list(zip(readings, fixtures.edits, strict=True))
    right = torch.tensor([float(reading.agrees(edit.after, edit.kind)) for reading, edit in pairs])
    whole = torch.tensor([float(reading.agrees(edit.after)) for reading, edit in pairs])
    outside = ~torch.stack([edit.mask for edit in fixtures.edits])
    error = ((pictures - fixtures.pictures) ** 2).mean(-1)
    mean = (error * outside).sum((1, 2)) / outside.sum((1, 2)).clamp_min(1)
    return Judged(right, whole, -10 * mean.clamp_min(1e-6).log10())


def groups(fixtures: Fixtures) -> dict[str, Tensor]:
    """(B,) bool by name: objects and grounds, objects by size, and what is changed of them."""
    fraction, objects = torch.tensor([edit.fraction for edit in fixtures.edits]), ~fixtures.grounds
    found = {"objects": objects, "grounds": fixtures.grounds}
    found |= {f"objects of {name}": (a <= fraction) & (fraction < b) & objects for name, (a, b) in SIZES.items()}
    return found | {f"new {kind}": torch.tensor([edit.kind == kind for edit in fixtures.edits]) for kind in KINDS[:-1]}
