"""The edited region in the source, at the source's size, with a narrow seam; every other pixel is the source's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from .alignment import Alignment, Box, Size, resample, size_of
from .colour import Cast
from .registration import blur, correlation

STRIP = 2**22
"""Pixels that are worked on at a time: a large photo needs little more memory than itself."""
TILES = 64, 32, 16
"""The side of the piece of the source whose grain is taken: the largest for which there is one outside the edit."""
ALIKE = 0.5, 0.8
"""Correlations at which a place begins to have the source's structure, and from which on it has."""


def opacity(mask: Tensor, grow: float, feather: float) -> Tensor:
    """mask (H, W) in 0..1 -> how much of the edit is seen, (H, W) in 0..1.

    Where the mask is at least a half, and `grow` pixels round it (inside it, below 0), it is all of the edit, falling
    to nothing over `feather` pixels further out. A soft mask that is neither grown nor feathered stays as it is.
    """
    inside, alpha = mask >= 0.5, torch.zeros_like(mask)
    box = bounds(inside)
    if (not grow and not feather) or box is None:
        return mask
    box = box.wider(ceil(max(grow, 0) + feather) + 1, size_of(mask))
    here = slice(box.top, box.bottom), slice(box.left, box.right)
    marked = inside[here].cpu().numpy()
    # Pixels outside count from 1, pixels inside from 0 down.
    far = ndimage.distance_transform_edt(~marked)
    if grow < 0:
        far = far - ndimage.distance_transform_edt(marked) + marked
    out = torch.from_numpy(far).to(mask) - grow
    alpha[here] = (1 - out.clamp_min(0) / (feather + 1)).clamp(0, 1)
    return alpha


def enlarged(alpha: Tensor, size: Size) -> Tensor:
    """(h, w) -> (H, W)."""
    if tuple(alpha.shape) == tuple(size):
        return alpha
    return F.interpolate(alpha[None, None], size, mode="bilinear", align_corners=False)[0, 0].clamp(0, 1)


def bounds(alpha: Tensor) -> Box | None:
    """The box of all that is not 0; None where nothing is."""
    rows, columns = (alpha > 0).any(1).nonzero(), (alpha > 0).any(0).nonzero()
    if not len(rows):
        return None
    return Box(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)


def strips(box: Box) -> Iterator[Box]:
    """The box from top to bottom, STRIP pixels at a time."""
    high = max(1, STRIP // (box.right - box.left))
    for top in range(box.top, box.bottom, high):
        yield Box(top, min(top + high, box.bottom), box.left, box.right)


def compose(
    source: Tensor,
    edited: Tensor,
    alpha: Tensor,
    *,
    alignment: Alignment,
    cast: Cast,
    grain: bool = False,
    detail: float = 0.0,
    step: Callable[[], None] = lambda: None,
) -> Tensor:
    """source (3 or 4, H, W), edited (3, h, w), alpha (H, W) -> (3 or 4, H, W): source where alpha is 0, to the bit.

    grain: where the edit is smoother than the source, the source's own noise is added. detail: 0..1, how much of the
    source's fine structure replaces the edit's where both have the same. step: called after each strip.
    """
    result, box = source.clone(), bounds(alpha)
    if box is None:
        return result
    height, width = source.shape[1:]
    noise = grain_of(source[:3], alpha) if grain else None
    for part in strips(box):
        here = (slice(None), slice(part.top, part.bottom), slice(part.left, part.right))
        new = resample(edited, alignment, part)
        new = cast.undone(new, (part.top / height, part.bottom / height, part.left / width, part.right / width))
        old = source[:3][here]
        if detail:
            new = with_detail(new, old, detail)
        if noise is not None:
            new = new + _lacking(noise, new, part)
        shown = alpha[here[1:]]
        mixed = torch.lerp(old, new.clamp(0, 1), shown)
        result[:3][here] = torch.where(shown > 0, mixed, old)
        step()
    return result


def with_detail(new: Tensor, old: Tensor, amount: float) -> Tensor:
    """new, old (3, h, w) -> new with the old one's fine structure where both have the same structure."""
    radius = 3
    smooth = [blur(picture, radius) for picture in (new, old)]
    fine_new, fine_old = new - smooth[0], old - smooth[1]
    # In levels of 255: in fractions of one even clear detail is below what a correlation takes for nothing.
    alike = correlation(255 * fine_new.mean(0), 255 * fine_old.mean(0), 2 * radius)
    weight = amount * ((alike - ALIKE[0]) / (ALIKE[1] - ALIKE[0])).clamp(0, 1)
    # Contrast follows the tone: what was made twice as bright has twice the contrast.
    gain = ((smooth[0] + 0.02) / (smooth[1] + 0.02)).clamp(0.25, 4)
    return new + weight * (gain * fine_old - fine_new)


def grain_of(source: Tensor, alpha: Tensor) -> Tensor:
    """source (3, H, W) -> its noise (3, side, side), from the plainest place outside the edit; 0 if there is none."""
    for side in TILES:
        plainest = _plainest(source, alpha, side)
        if plainest is not None:
            return plainest - blur(plainest, 2)
    return source.new_zeros(3, 2, 2)


def _plainest(source: Tensor, alpha: Tensor, side: int) -> Tensor | None:
    """The square of this side whose neighbourhoods vary the least."""
    height, width = source.shape[1:]
    plainest, least = None, float("inf")
    step = [max(side, (whole - side) // 16) for whole in (height, width)]
    for top in range(0, height - side + 1, step[0]):
        for left in range(0, width - side + 1, step[1]):
            tile = source[:, top : top + side, left : left + side]
            # Cut-off black and white have no noise.
            whole = 0.04 < float(tile.mean()) < 0.96 and not (alpha[top : top + side, left : left + side] > 0).any()
            busy = float(blur(tile.mean(0), 2).var()) if whole else float("inf")
            if busy < least:
                plainest, least = tile, busy
    return plainest


def _lacking(noise: Tensor, new: Tensor, part: Box) -> Tensor:
    """As much of the noise as `new` (3, h, w) lacks, laid out over it in pieces that are turned over at random."""
    own = (new - blur(new, 2)).abs().flatten(1)
    # The median: edges are no noise. A normal distribution's is 0.674 of its standard deviation.
    has, wished = own.median(1).values / 0.674, noise.flatten(1).std(1)
    amount = ((wished**2 - has**2).clamp_min(0).sqrt() / wished.clamp_min(1e-6))[:, None, None]
    height, width = new.shape[1:]
    side = noise.shape[1]
    draw = torch.Generator().manual_seed(part.top)
    across, down = -(-width // side), -(-height // side)
    turns = torch.randint(8, (down, across), generator=draw).tolist()
    rows = [torch.cat([_turned(noise, turn) for turn in row], 2) for row in turns]
    return amount * torch.cat(rows, 1)[:, :height, :width]


def _turned(tile: Tensor, turn: int) -> Tensor:
    tile = tile.transpose(1, 2) if turn & 4 else tile
    return tile.flip([dim for bit, dim in ((1, 1), (2, 2)) if turn & bit])
