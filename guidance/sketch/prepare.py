"""A drawing of any kind (scanned, photographed, coloured, white on black) -> clean strokes.

Ink is what differs from the paper. The paper is estimated by a wide median: shadows and creases of a photograph belong
to it, and light ink on dark paper is found like dark ink on light paper. Otsu's threshold (Otsu 1979) separates ink
from paper. The removal of specks (../morphology.py) and thinning (strokes.py) follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from kornia.filters import median_blur
from torch import Tensor

from ..morphology import grey_dilate, otsu, without_specks
from .strokes import thickness, thin

Fit = Literal["pad", "crop", "stretch"]
FITS: tuple[Fit, ...] = get_args(Fit)
Check = Callable[[], None] | None
PAPER_SIDE = 96
PAPER_WINDOW = 15
LEAST_CONTRAST = 0.06
"""A pixel whose difference from the paper (0..1) is smaller never counts as ink."""
COLOUR = 0.2
"""From this difference between its channels on, ink counts as coloured."""
CLEAN_FRACTION = 0.15
"""In a clean drawing, the fraction of the strongest stroke above which a pixel is a stroke."""
BINS = 256
"""Bins of the histogram for Otsu's threshold."""
THICK = 3.0
"""Strokes thicker than this many pixels are replaced by their centre lines."""


@dataclass(frozen=True, eq=False)
class Strokes:
    """A drawing that guidance can read. lines: (B, H, W) bool, one pixel wide; weight: (B, H, W) in 0..1, how much
    each stroke counts (its grey level), 0 off the lines. notes: what was found and done, as sentences."""

    lines: Tensor
    weight: Tensor
    notes: tuple[str, ...] = ()

    @property
    def blank(self) -> bool:
        """Whether any picture of the batch has no stroke at all."""
        return not bool(self.lines.flatten(1).any(1).all())


def ink(image: Tensor, *, even: bool = True) -> tuple[Tensor, Tensor]:
    """image: (B, H, W, C) in 0..1, C 1, 3 or 4 (with alpha: what is transparent is no ink).

    even: the paper is taken from the surroundings of each pixel (photographs); otherwise it has one colour.
    Returns (B, H, W) the difference from the paper in 0..1, and (B, C) the paper's mean colour.
    """
    picture = rearrange(image.float().clamp(0, 1), "b h w c -> b c h w")
    alpha = picture[:, 3:4] if picture.shape[1] == 4 else None
    picture = picture[:, :3]
    if alpha is not None:
        layer = ((alpha > 0.5).flatten(1).float().mean(1) <= 0.5)[:, None, None]
    paper = _local_paper(picture) if even else picture.flatten(2).median(2).values[:, :, None, None]
    difference, seen = (picture - paper).abs().amax(1), paper.expand_as(picture).mean((2, 3))
    if alpha is None:
        return difference, seen
    # On a transparent layer there is no paper to see: what is painted is ink, as strongly as it covers.
    return torch.where(layer, alpha[:, 0], difference * alpha[:, 0]), torch.where(layer[:, 0], 0, seen)


def _local_paper(picture: Tensor) -> Tensor:
    """(B, C, H, W) -> the same size, the paper alone: a median over a window of a sixth of the picture."""
    height, width = picture.shape[-2:]
    scale = min(1.0, PAPER_SIDE / max(height, width))
    small = (max(1, round(height * scale)), max(1, round(width * scale)))
    little = F.interpolate(picture, size=small, mode="area")
    reach = min(PAPER_WINDOW, 2 * ((min(small) + 1) // 2) - 1)
    if reach < 3:
        return picture.flatten(2).median(2).values[:, :, None, None].expand_as(picture)
    edge = reach // 2
    padded = F.pad(little, (edge,) * 4, mode="replicate")
    middle = median_blur(padded, (reach, reach))[..., edge:-edge, edge:-edge]
    return F.interpolate(middle, size=(height, width), mode="bilinear", align_corners=False)


def find_strokes(
    image: Tensor,
    *,
    even: bool = True,
    sensitivity: float = 0.5,
    smallest: int = 0,
    thinned: bool | None = None,
    grey: bool = True,
    check: Check = None,
) -> Strokes:
    """A drawing on paper (B, H, W, C) in 0..1 -> its strokes.

    even: see `ink`. sensitivity: 0..1; 0.5 is Otsu's threshold, 1 takes in the faintest ink, 0 the darkest only.
    smallest: pieces with fewer pixels of line than this are dropped. thinned: None thins strokes thicker than THICK.
    grey: the strength of the ink becomes the weight of the stroke (the strongest is 1); otherwise all weigh 1.
    check: called often, so that work on a large picture can be interrupted.
    """
    strength, paper = ink(image, even=even)
    _checked(check)
    threshold = (otsu(strength.flatten(1), BINS) * 2 * (1 - sensitivity)).clamp_min(LEAST_CONTRAST)
    return _strokes(image, strength, threshold, paper, smallest, thinned, grey, check)


def read_strokes(image: Tensor, check: Check = None) -> Strokes:
    """A clean drawing (B, H, W, C) in 0..1, as a canvas or an edge detector gives it -> its strokes.

    Otsu's threshold would take faint strokes for paper; here every stroke counts, by its own grey level or alpha.
    """
    strength, paper = ink(image, even=False)
    _checked(check)
    threshold = (CLEAN_FRACTION * strength.flatten(1).amax(1)).clamp_min(LEAST_CONTRAST)
    return _strokes(image, strength, threshold, paper, 0, None, True, check)


def _strokes(
    image: Tensor,
    strength: Tensor,
    threshold: Tensor,
    paper: Tensor,
    smallest: int,
    thinned: bool | None,
    grey: bool,
    check: Check,
) -> Strokes:
    found = strength > threshold[:, None, None]
    notes = _notes(image, found, paper)
    _checked(check)
    lines = found if thinned is False else thin(found, check)
    thick = thickness(found, lines) if thinned is None else 0.0
    if thinned or thick > THICK:
        found = lines
    if thick > THICK:
        notes.append(f"Its strokes are about {thick:.0f} pixels wide and were thinned to their centre lines.")
    found = without_specks(found, smallest)
    _checked(check)
    strongest = torch.where(found, strength, 0).flatten(1).amax(1).clamp_min(1e-6)
    weight = strength / strongest[:, None, None] if grey else torch.ones_like(strength)
    return Strokes(found, torch.where(found, weight, 0), tuple(notes))


def _checked(check: Check) -> None:
    if check is not None:
        check()


def _notes(image: Tensor, found: Tensor, paper: Tensor) -> list[str]:
    """What an artist should know of how the drawing was read."""
    notes = []
    if bool((paper.mean(1) > 0.5).any()) and bool(found.any()):
        notes.append("The sketch has dark strokes on light paper; it was inverted.")
    if image.shape[-1] >= 3 and bool(found.any()):
        colours = image[..., :3][found]
        if float((colours.amax(-1) - colours.amin(-1)).median()) > COLOUR:
            notes.append("The sketch is coloured; how much a stroke differs from the paper counts as its strength.")
    return notes


def fit(picture: Tensor, height: int, width: int, how: Fit = "pad") -> Tensor:
    """(B, H, W) with zeros for paper -> (B, height, width). pad: all of it, with paper round it; crop: fills the frame;
    stretch: as it comes. Raises ValueError for another word."""
    if how not in FITS:
        raise ValueError(f"A sketch cannot be fitted by '{how}': choose one of {', '.join(FITS)}.")
    if tuple(picture.shape[-2:]) == (height, width):
        return picture
    ratios = (height / picture.shape[-2], width / picture.shape[-1])
    if how == "stretch":
        inner = (height, width)
    else:
        ratio = min(ratios) if how == "pad" else max(ratios)
        inner = (max(1, round(picture.shape[-2] * ratio)), max(1, round(picture.shape[-1] * ratio)))
    scaled = F.interpolate(picture[:, None].float(), size=inner, mode="bilinear", antialias=True)[:, 0]
    return _centred(_centred(scaled, height, -2), width, -1).clamp(0, 1)


def _centred(x: Tensor, count: int, dim: int) -> Tensor:
    """Padded with zeros or cropped to `count` along `dim`, the middle in the middle."""
    spare = count - x.shape[dim]
    if spare < 0:
        return x.narrow(dim, -spare // 2, count)
    before, after = spare // 2, spare - spare // 2
    return F.pad(x, (before, after) if dim == -1 else (0, 0, before, after))


def fit_lines(
    lines: Tensor, weight: Tensor, height: int, width: int, how: Fit = "pad", check: Check = None
) -> tuple[Tensor, Tensor]:
    """Thin lines (B, H, W) bool and their weights, moved to another size without breaking or thickening them."""
    if tuple(lines.shape[-2:]) == (height, width):
        return lines, weight
    ratio = max(lines.shape[-2] / height, lines.shape[-1] / width, height / lines.shape[-2], width / lines.shape[-1])
    # Drawn thicker than the step of the new grid, so that nothing falls between its pixels; then thinned again.
    wide = grey_dilate(torch.where(lines, weight.clamp_min(1e-3), 0), max(1, round(ratio)))
    _checked(check)
    moved = fit(wide, height, width, how)
    cover = fit((wide > 0).float(), height, width, how) > 0.5
    thinned = thin(cover, check)
    return thinned, torch.where(thinned, moved, 0)
