"""Sets of pixels: thresholds, dilation, connected parts, holes, hulls and soft edges; one place for all techniques.

Masks are (B, H, W) bool unless a docstring says otherwise. Most of the work is done by `scipy.ndimage` on the CPU;
results come back to the mask's device.

Threshold: Otsu, "A threshold selection method from gray-level histograms", IEEE SMC 9(1), 1979, equation 12.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, isqrt
from typing import Literal

import torch
import torch.nn.functional as F
from kornia.filters import get_gaussian_kernel1d
from scipy import ndimage
from torch import Tensor

Shape = Literal["disc", "square", "diamond", "octagon"]

STRIP = 2**20
"""Large pictures are worked on in strips of about so many pixels, between which an interruption can take hold."""
SHORT = 8
"""Up to this radius a mask is moved about, beyond it distances are measured."""
CORNERS = 2**0.5 - 1
"""A regular octagon is a square of this fraction of its radius, dilated by a diamond of the rest."""
EIGHT = [[1, 1, 1]] * 3
"""The neighbourhood in which corners connect."""
DIRECTIONS = 32
"""In so many directions a hull is tight."""
NEARLY_EQUAL = 1e-4
"""Splits of a histogram whose variances differ by less than this fraction are equally good."""


def otsu(values: Tensor, bins: int = 0) -> Tensor:
    """Otsu's threshold of each row of values (B, N) -> (B,): the split with the greatest variance between both sides.

    bins: 0 tries every split and takes the middle between the two values that it separates. Otherwise the values, in
    0..1, are first counted in so many bins, which is faster for large pictures; of splits that are equally good the
    middle one is taken. A row of equal values gives that value.
    """
    if bins:
        return torch.stack([_histogram_otsu(row, bins) for row in values])
    ordered = values.double().sort(1).values
    between = _between(ordered, torch.ones_like(ordered))
    split = between.argmax(1, keepdim=True)
    return ((ordered.gather(1, split) + ordered.gather(1, split + 1)) / 2)[:, 0].to(values.dtype)


def _histogram_otsu(values: Tensor, bins: int) -> Tensor:
    """The threshold () of values (N,) in 0..1 from their histogram."""
    counts = torch.histc(values, bins, 0, 1).double()
    centres = (torch.arange(bins, device=values.device, dtype=torch.float64) + 0.5) / bins
    between = _between(centres[None], counts[None])[0]
    best = (between >= between.max() * (1 - NEARLY_EQUAL)).nonzero().double().mean()
    return ((best + 1) / bins).to(values.dtype)


def _between(levels: Tensor, counts: Tensor) -> Tensor:
    """The variance between the two sides of each split, (B, N - 1), of rising levels (B, N) that occur so often."""
    below, sums = counts.cumsum(1), (counts * levels).cumsum(1)
    count, total = below[:, -1:], sums[:, -1:]
    below, sums = below[:, :-1], sums[:, :-1]
    means = sums / below.clamp_min(1), (total - sums) / (count - below).clamp_min(1)
    return below * (count - below) * (means[1] - means[0]) ** 2


def dilate(mask: Tensor, radius: float, shape: Shape = "disc") -> Tensor:
    """Every pixel that is at most `radius` pixels away from a marked one.

    Distances are Euclidean ("disc"), along rows and columns ("diamond"), or the longer of the two ("square"); an
    "octagon" comes as far on the diagonals as on the sides, in whole pixels. A radius of 0 or less changes nothing.
    """
    if radius <= 0:
        return mask
    if shape == "octagon":
        corners = int(radius * CORNERS)
        return dilate(dilate(mask, radius - corners, "diamond"), corners, "square")
    near = _spread if radius <= SHORT else _near
    return _by_strips(mask, ceil(radius), lambda strip: near(strip, radius, shape))


def _spread(mask: Tensor, radius: float, shape: Shape) -> Tensor:
    """`dilate` by a short radius: row by row of the shape, the mask is moved there and widened by half of the row."""
    height, whole = mask.shape[1], int(radius)
    halves = {
        "disc": lambda row: isqrt(int(radius * radius) - row * row),
        "square": lambda row: whole,
        "diamond": lambda row: whole - row,
    }
    wide = {half: largest_near(mask, half, 2) for half in {halves[shape](row) for row in range(whole + 1)}}
    found = wide[halves[shape](0)].clone()
    for row in range(1, min(whole, height - 1) + 1):
        moved = wide[halves[shape](row)]
        found[:, row:] |= moved[:, :-row]
        found[:, :-row] |= moved[:, row:]
    return found


def _near(mask: Tensor, radius: float, shape: Shape) -> Tensor:
    """The same by distances, which take the same time for any radius."""

    def within(picture):
        if not picture.any():
            return picture
        if shape == "disc":
            # Squares of distances are whole numbers: rounding must not decide what lies on the rim.
            return (ndimage.distance_transform_edt(~picture) ** 2).round() <= radius * radius
        metric = "taxicab" if shape == "diamond" else "chessboard"
        return ndimage.distance_transform_cdt(~picture, metric=metric) <= radius

    return _by_picture(mask, within)


def grey_dilate(values: Tensor, radius: int) -> Tensor:
    """Each value of the maps (B, H, W) or (B, C, H, W) becomes the largest that is at most `radius` rows and columns
    away: the dilation of a grey map by a square, on the maps' device. A radius of 0 or less changes nothing."""
    return largest_near(largest_near(values, radius, -2), radius, -1)


def largest_near(values: Tensor, radius: int, dim: int) -> Tensor:
    """The largest of the values up to `radius` places away along `dim`. Windows are put together from two of half the
    width each, so a wide one takes few steps. A radius of 0 or less changes nothing."""
    if radius <= 0:
        return values
    length, width = values.shape[dim], 2 * radius + 1
    border = list(values.shape)
    border[dim] = radius
    least = False if values.dtype == torch.bool else -torch.inf
    beyond = values.new_full(border, least)
    found, reach = torch.cat((beyond, values, beyond), dim), 1
    while reach < width:
        more = min(reach, width - reach)
        kept = found.shape[dim] - more
        found = torch.maximum(found.narrow(dim, 0, kept), found.narrow(dim, more, kept))
        reach += more
    return found.narrow(dim, 0, length)


def erode(mask: Tensor, radius: float, shape: Shape = "disc") -> Tensor:
    """Every pixel that lies further than `radius` inside; the picture's border is no edge of what it cuts off."""
    return ~dilate(~mask, radius, shape)


def grow(mask: Tensor, pixels: int) -> Tensor:
    """mask (B, H, W) of zeros and ones, any type, widened (pixels > 0) or narrowed (< 0) by regular octagons."""
    inside = mask > 0.5
    inside = erode(inside, -pixels, "octagon") if pixels < 0 else dilate(inside, pixels, "octagon")
    return inside.to(mask.dtype)


def widen(mask: Tensor, fraction: float) -> Tensor:
    """Each picture of the mask wider by this fraction of its side, the root of its area, in whole cells; a small one as
    if its side were half the picture's: what takes its place may well be larger."""
    least = (mask.shape[1] * mask.shape[2]) ** 0.5 / 2
    wider = []
    for one, side in zip(mask, count(mask).sqrt().tolist(), strict=True):
        cells = round(fraction * max(side, least)) if side else 0
        # Half the steps with corners come near to a disc.
        wider.append(dilate(dilate(one[None], (cells + 1) // 2, "diamond"), cells // 2, "square")[0])
    return torch.stack(wider)


def close_gaps(mask: Tensor, radius: int) -> Tensor:
    """Closes gaps of up to 2 * radius cells; what was marked stays marked."""
    # The border is repeated, so that a shape cut off by it is not torn from it.
    padded = F.pad(mask[:, None].float(), (radius,) * 4, mode="replicate")[:, 0].bool()
    closed = erode(dilate(padded, radius, "square"), radius, "square")
    return closed[:, radius : padded.shape[1] - radius, radius : padded.shape[2] - radius] | mask


def fill_holes(mask: Tensor) -> Tensor:
    """Marks all that cannot be reached from the border through unmarked cells, of which corners do not connect."""
    return torch.stack([_filled(picture) for picture in mask])


def _filled(mask: Tensor) -> Tensor:
    """The same for one picture (H, W). scipy's own grows the outside step by step, which takes many times as long."""
    numbers, parts = ndimage.label(_as_array(~mask))
    numbers = _as_tensor(numbers, mask).long()
    outside = mask.new_zeros(parts + 1)
    for border in (numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]):
        outside[border] = True
    outside[0] = False
    return ~outside[numbers]


def touching(mask: Tensor, core: Tensor) -> Tensor:
    """Those connected parts of the mask that hold a cell of `core` (B, H, W) bool; corners connect."""
    found = []
    for one, part in zip(core, mask, strict=True):
        numbers, parts = label(part)
        touched = torch.bincount(numbers[one & part], minlength=parts + 1) > 0
        found.append(touched[numbers])
    return torch.stack(found)


def label(mask: Tensor) -> tuple[Tensor, int]:
    """mask (H, W) bool -> the number of each pixel's connected part (H, W) int64, from 1, 0 outside, and how many there
    are; corners connect."""
    found, parts = ndimage.label(_as_array(mask), EIGHT)
    return _as_tensor(found, mask).long(), parts


def without_specks(mask: Tensor, smallest: int) -> Tensor:
    """The mask without connected parts of fewer than `smallest` pixels; corners connect."""
    if smallest <= 1:
        return mask
    kept = []
    for picture in mask:
        numbers, _ = label(picture)
        kept.append(picture & (torch.bincount(numbers.flatten())[numbers] >= smallest))
    return torch.stack(kept)


def keep_largest(mask: Tensor, parts: int) -> Tensor:
    """The `parts` largest connected parts of each picture; corners connect. Of equal ones those that end first."""
    kept = []
    for picture in mask:
        numbers, found = label(picture)
        sizes = torch.bincount(numbers.flatten(), minlength=found + 1)[1:]
        last = numbers.new_zeros(found + 1).scatter_reduce(
            0, numbers.flatten(), torch.arange(numbers.numel(), device=mask.device), "amax"
        )[1:]
        order = last.argsort()
        order = order[sizes[order].argsort(descending=True, stable=True)]
        kept.append(torch.isin(numbers, order[:parts] + 1))
    return torch.stack(kept)


def hull(mask: Tensor) -> Tensor:
    """The convex hull of each picture: the cells that lie beyond it in no direction."""
    height, width = mask.shape[1:]
    down, right = (torch.arange(size, device=mask.device, dtype=torch.float32) for size in (height, width))
    angle = torch.arange(DIRECTIONS, device=mask.device) * (2 * torch.pi / DIRECTIONS)
    reach = torch.outer(angle.sin(), down)[:, :, None] + torch.outer(angle.cos(), right)[:, None]  # (directions, h, w)
    found = torch.zeros_like(mask)
    for picture, one in enumerate(mask):
        if one.any():
            found[picture] = (reach <= reach[:, one].amax(1)[:, None, None] + 1e-3).all(0)
    return found


def soften(mask: Tensor, pixels: int) -> Tensor:
    """mask (B, H, W) of zeros and ones with a ramp of this width outside: it stays 1 where it was, 0 further away."""
    radius = (pixels + 1) // 2
    if radius == 0:
        return mask
    wide = F.pad(grow(mask, radius)[:, None], (radius,) * 4, mode="replicate")[:, 0]
    size, std = 2 * radius + 1, max(radius / 2, 0.5)
    kernel = get_gaussian_kernel1d(size, std, device=mask.device, dtype=mask.dtype)
    along = lambda strip: F.conv2d(strip[:, None], kernel[:, None, None])[:, 0]
    for _ in range(2):  # along the rows, then along the columns
        wide = _by_strips(wide, 0, along).transpose(1, 2).contiguous()
    return torch.maximum(mask, wide.clamp(0, 1))


def count(mask: Tensor) -> Tensor:
    """(B,) float, how many cells of each picture are marked."""
    return mask.sum((1, 2)).float()


def covered(mask: Tensor) -> str:
    """The mean of a mask (..., H, W) in 0..1, or of a bool one, in words: "17 % of the picture"."""
    percent = 100 * float(mask.float().mean())
    return f"{percent:.0f} % of the picture" if percent >= 1 else f"{percent:.1g} % of the picture"


def _by_strips(values: Tensor, reach: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    """What `change` makes of values (B, H, W), of which each place depends on those up to `reach` away: strips of rows
    one after the other, so that a large picture is no single long operation. The same to the last bit, or to rounding
    where `change` sums."""
    height, rows = values.shape[1], max(STRIP // max(values.shape[2], 1), 2 * reach, 1)
    made = []
    for top in range(0, height, rows):
        above = min(reach, top)
        strip = change(values[:, top - above : top + rows + reach])
        made.append(strip[:, above : above + rows])
    return torch.cat(made, 1)


def _by_picture(mask: Tensor, change: Callable) -> Tensor:
    """Each picture of the mask as `change` makes it of an array (H, W) of bools."""
    return torch.stack([_as_tensor(change(_as_array(picture)), mask) for picture in mask])


def _as_array(mask: Tensor):
    return mask.cpu().numpy()


def _as_tensor(array, like: Tensor) -> Tensor:
    return torch.from_numpy(array).to(like.device)
