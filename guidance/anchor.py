"""Anchoring to a source: the masked decode of DiffEdit (arXiv 2210.11427, section 3.2, step 3) and the exact source
branch of direct inversion (arXiv 2310.01506).

At a model call on noise level sigma the kept part of x is replaced by the trajectory at the *same* sigma, and the kept
part of the prediction by the clean source:

    x      <- M x  + (1 - M) x_sigma          x_sigma: the trajectory's latent at sigma
    x0_hat <- M x0_hat + (1 - M) x_0          x_0:     the trajectory's clean end

Differs from the paper: the paper blends once a step, after it; here every call blends, so that samplers which call the
model several times a step, or at levels of their own, see the source too. With DDIM and a mask of zeros and ones the
two are the same. Values between 0 and 1 mean what they mean in the host's own latent noise masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from ..inversion.trajectory import Trajectory

TOP_TOLERANCE = 0.02
"""How far above the trajectory's noisiest level a sampler may start, as a fraction of it."""


@dataclass(frozen=True)
class Anchor:
    """What is kept of a sampling run, and what it is kept at.

    trajectory: levels (N+1,) and latents (N+1, T, C, h, w); T is 1, the batch size, or the number of `rows`.
    mask: (M, H, W) in [0, 1] at any size, 1 = edit, 0 = keep; M is 1 or the batch size. None keeps whole rows.
    rows: rows of the batch that are kept whole. None: all rows, as far as `mask` says.
    strength: 1 keeps, 0 lets everything go.
    """

    trajectory: Trajectory
    mask: Tensor | None = None
    rows: tuple[int, ...] | None = None
    strength: float = 1.0

    def weight(self, like: Tensor) -> Tensor:
        """The sampler's own weight (B, 1, h, w) in [0, 1] of a batch `like` (B, C, h, w): 0 = kept, 1 = free.

        Raises ValueError where mask, rows and batch do not go together.
        """
        batch, _, height, width = like.shape
        if self.mask is None:
            free = like.new_full((batch, 1, height, width), 0.0 if self.rows is None else 1.0)
        else:
            if self.mask.shape[0] not in (1, batch):
                raise ValueError(
                    f"The anchor's mask is a batch of {self.mask.shape[0]}, but {batch} pictures are sampled: "
                    "connect one mask, or one for each picture."
                )
            free = shrink_mask(self.mask.to(like), height, width)[:, None].expand(batch, 1, height, width)
        if self.rows is not None:
            free = free.clone()
            free[list(self._checked_rows(batch))] = 0.0
        return 1.0 - self.strength * (1.0 - free)

    def check(self, like: Tensor, top: float) -> None:
        """Refuse a run that the trajectory does not fit, before anything is computed.

        like: (B, C, h, w) what will be sampled; top: its first noise level. Raises ValueError.
        """
        self.check_reach(like, top)
        self._owners(like.shape[0])
        self.weight(like)

    def check_reach(self, like: Tensor, top: float) -> None:
        """The part of `check` that does not ask to which picture a row is anchored."""
        shape = self.trajectory.latents.shape
        if tuple(shape[2:]) != tuple(like.shape[1:]):
            raise ValueError(
                f"The trajectory was made from a latent of {_size(shape[2:])}, but {_size(like.shape[1:])} is sampled: "
                "use the latent that was inverted, or invert a picture of this size."
            )
        highest = float(self.trajectory.sigmas[-1])
        if top > highest * (1 + TOP_TOLERANCE):
            raise ValueError(
                f"The sampler starts at noise level {top:.3f}, above the trajectory's noisiest level {highest:.3f}: "
                "invert with the same scheduler and to the same depth, or lower the sampler's denoise."
            )

    def source(self, like: Tensor) -> Tensor:
        """The clean source (B, C, h, w) for a batch `like`."""
        return self._rows_of(self.trajectory.latents[0], like)

    def at(self, sigma: Tensor | float, like: Tensor) -> Tensor:
        """The trajectory (B, C, h, w) at the noise level(s) `sigma`, a number or (B,)."""
        levels = sigma.detach().flatten().tolist() if isinstance(sigma, Tensor) else [float(sigma)]
        if len(set(levels)) == 1:
            return self._rows_of(self.level(levels[0]), like)
        rows = [self._rows_of(self.level(level), like)[i] for i, level in enumerate(levels)]
        return torch.stack(rows)

    def enter(self, x: Tensor, sigma: Tensor | float, weight: Tensor | None = None) -> Tensor:
        """What the model is to see in place of `x` (B, C, h, w) at `sigma`; a new tensor. weight: as `weight(x)`."""
        return mix_by_weight(self.at(sigma, x), x, self.weight(x) if weight is None else weight)

    def leave(self, denoised: Tensor, weight: Tensor | None = None) -> Tensor:
        """What the sampler is to see in place of the prediction `denoised` (B, C, h, w); a new tensor."""
        return mix_by_weight(self.source(denoised), denoised, self.weight(denoised) if weight is None else weight)

    def level(self, sigma: float) -> Tensor:
        """(T, C, h, w) at `sigma`; past either end along the straight line through the clean end and that end."""
        sigmas, latents = self.trajectory.sigmas, self.trajectory.latents
        low, high = float(sigmas[0]), float(sigmas[-1])
        if sigma <= low:
            return latents[0]
        if sigma <= high:
            return self.trajectory.at(sigma)
        # Every parametrisation is linear in sigma between a picture and its noise.
        return torch.lerp(latents[0], latents[-1], (sigma - low) / (high - low))

    def _rows_of(self, latents: Tensor, like: Tensor) -> Tensor:
        return latents.to(like)[self._owners(like.shape[0])]

    def _owners(self, batch: int) -> list[int]:
        """Which of the trajectory's pictures each of the batch's rows is anchored to."""
        pictures = self.trajectory.latents.shape[1]
        if pictures == 1:
            return [0] * batch
        if pictures == batch:
            return list(range(batch))
        if self.rows is not None and self.mask is None and pictures == len(self.rows):
            owners = [0] * batch
            for picture, row in enumerate(self._checked_rows(batch)):
                owners[row] = picture
            return owners
        raise ValueError(
            f"The trajectory holds {pictures} pictures, but {batch} are sampled: "
            "invert one picture, or as many as are sampled."
        )

    def _checked_rows(self, batch: int) -> tuple[int, ...]:
        beyond = [row for row in self.rows or () if not 0 <= row < batch]
        if beyond:
            raise ValueError(
                f"Row {beyond[0]} is to be kept, but the batch has rows 0 to {batch - 1}: "
                "correct 'rows' or sample a larger batch."
            )
        return self.rows or ()


def mix_by_weight(kept: Tensor, free: Tensor, weight: Tensor) -> Tensor:
    """weight * free + (1 - weight) * kept, to the last bit `kept` where weight is 0 and `free` where it is 1.

    kept, free: (B, C, h, w); weight: (B, 1, h, w).
    """
    mixed = torch.lerp(kept, free, weight)
    return torch.where(weight <= 0, kept, torch.where(weight >= 1, free, mixed))


def shrink_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """A mask (M, H, W) at the size of the latent, (M, h, w): the mean over each cell, so that a cell is kept exactly
    only if all of it is to be kept."""
    if mask.shape[-2:] == (height, width):
        return mask
    larger = mask.shape[-2] >= height and mask.shape[-1] >= width
    options = {"mode": "area"} if larger else {"mode": "bilinear", "align_corners": False}
    return F.interpolate(mask[:, None], size=(height, width), **options)[:, 0].clamp(0, 1)


def parse_rows(text: str) -> tuple[int, ...] | None:
    """Rows of a batch as artists write them, "0, 2-4" -> (0, 2, 3, 4); nothing written -> None.

    Raises ValueError.
    """
    rows: list[int] = []
    for part in text.replace(";", ",").split(","):
        first, dash, last = (piece.strip() for piece in part.strip().partition("-"))
        if not first and not dash:
            continue
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"'rows' has {part.strip()!r}, which is no row: write numbers and ranges, as in '0, 2-4'.")
        rows.extend(range(int(first), int(last or first) + 1))
    return tuple(dict.fromkeys(rows)) or None


def _size(shape) -> str:
    return " x ".join(str(int(n)) for n in shape)
