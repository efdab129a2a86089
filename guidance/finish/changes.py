"""Which pixels an edit really changed, apart from what compression, resampling and an autoencoder leave.

Those leave more where the source has more texture, so differences are measured in units of what is usual at places of
the same texture. Each place is compared twice: by single pixels, which find outlines, and by means of a neighbourhood,
which find faint changes of colour. The threshold is Otsu's (guidance/morphology.py), between bounds; weak places count
where they hang together with strong ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..morphology import close_gaps, dilate, erode, fill_holes, grey_dilate, otsu, touching, without_specks
from .registration import blur

USUAL = 0.4
"""The quantile that is taken for what is usual: edits cover up to half of the picture, or of its texture."""
QUIET, FAINT = 1.5 / 255, 0.75 / 255
"""Differences are not measured in anything smaller: those of pixels, and of the means of a neighbourhood."""
LEAST, COLOUR = 0.02, 0.2
"""Fractions of the energy of a change from pixel to pixel that are lost in any case, in brightness and in colour: a
JPEG keeps half of the pixels of colour in each direction."""
SPREAD = 0.2
AVERAGED = 0.1
"""What is left of that in the mean of a neighbourhood."""
PLAUSIBLE = 0.3, 6 / 255
"""What differs by more than this fraction of the local variance, and by more than this, is no mere loss of quality."""
WEAK, STRONG, SURE = 2.75, 5.0, 9.0
"""Times what is usual: from where on a place may belong to an edit; and the bounds of the threshold for its core."""
REACH = 0.25
"""Where a difference is less than this fraction of the largest one near by, it is what an outline throws around it."""
RIM = 2
"""Pixels at the edge of what is known, which are not to be trusted."""
GAP, SMALLEST = 3, 16
"""Gaps of this radius are closed; parts of fewer pixels are grains of the compression."""
RINGS, BESIDE = (0.15, 0.4), 3
"""At an outline, what differs by less than the first fraction of the largest difference so many pixels round is what
compression and resampling throw around it; from the second on it is the edit."""
TRACE = 0.02
"""So much of it is left: it counts as changed."""
SAMPLES = 2**14


def find(source: Tensor, view: Tensor, known: Tensor) -> Tensor:
    """source with the cast that lies on the view, view (3, H, W) -> (H, W) bool; known (H, W) bool: what the view shows
    of the source."""
    sure = known if known.all() else erode(known[None], RIM)[0]
    if not sure.any():
        return torch.zeros_like(known)
    sharp, unusual = strangeness(source, view, sure)
    logs = (unusual[sure].clamp(0.5, 50).log() + 1) / 5
    threshold = (otsu(logs[None], bins=128)[0] * 5 - 1).exp().clamp(STRONG, SURE)
    mask = touching(((unusual > WEAK) & sure)[None], ((unusual > threshold) & sure)[None])
    mask = fill_holes(close_gaps(mask, GAP))
    # Means of a neighbourhood, and what a JPEG makes of an outline, reach beyond it: there single pixels decide.
    inner = erode(mask, RIM + 1, "octagon")
    outline = sharp > (REACH * grey_dilate(sharp[None], 2 * RIM)[0]).clamp_min(WEAK)
    mask = fill_holes(close_gaps(mask & (inner | outline[None]), 1))
    mask = without_specks(mask, SMALLEST)[0]
    return mask | (dilate(mask[None], RIM)[0] & known & ~sure)


def without_rings(alpha: Tensor, mask: Tensor, source: Tensor, view: Tensor) -> Tensor:
    """alpha (H, W), how much of the edit is seen, less of it where both pictures are nearly alike at the outline of the
    mask (H, W) bool that was found in source with the cast and view (3, H, W)."""
    apart = (view - source).square().sum(0).sqrt()
    beside = apart / grey_dilate(apart[None], BESIDE)[0].clamp_min(1e-6)
    fraction = ((beside - RINGS[0]) / (RINGS[1] - RINGS[0])).clamp(TRACE, 1)
    return torch.where(erode(mask[None], RIM)[0], alpha, alpha * fraction)


def strangeness(source: Tensor, view: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """(H, W) twice: by how much each place differs, 1 for what is usual where there is as much texture.

    The first is of single pixels, the second of neighbourhoods as well.
    """
    difference = view - source
    texture, coloured = _texture(source), _texture(source - source.mean(0))
    # Blocks of 8 pixels of brightness and 16 of colour share what an outline in them loses.
    coloured = coloured + SPREAD * blur(coloured, 8)
    rough = texture + SPREAD * blur(texture, 4)
    sharp = difference.square().sum(0)
    fine = blur(sharp, 1)
    faint = blur(difference, 3).square().sum(0)
    step = max(1, int((source[0].numel() / SAMPLES) ** 0.5))
    thin = (slice(None, None, step),) * 2
    usual = known[thin] & (fine[thin] < PLAUSIBLE[0] * _variance(source, step) + 3 * PLAUSIBLE[1] ** 2)
    usual = usual if usual.any() else known[thin]
    levels = []
    for energy, quiet, lost in ((fine, QUIET, 1.0), (faint, FAINT, AVERAGED)):
        even, steep = _usual(energy[thin][usual], texture[thin][usual])
        even = max(even, 3 * quiet**2)
        levels.append(even + max(steep, LEAST * lost) * rough + COLOUR * lost * coloured)
    return (sharp / levels[0]).sqrt(), torch.maximum(fine / levels[0], faint / levels[1]).sqrt()


def _texture(source: Tensor) -> Tensor:
    """(H, W): the energy of the colours' change from pixel to pixel, in a neighbourhood."""
    across = F.pad((source[:, :, 1:] - source[:, :, :-1]).square().sum(0), (0, 1))
    down = F.pad((source[:, 1:] - source[:, :-1]).square().sum(0), (0, 0, 0, 1))
    return blur(across + down, 2)


def _variance(source: Tensor, step: int) -> Tensor:
    """(H / step, W / step): of the colours in a neighbourhood, at one place in so many."""
    padded = F.pad(source[None], (3,) * 4, mode="replicate")
    mean = F.avg_pool2d(padded, 7, step)[0]
    return (F.avg_pool2d(padded.square().sum(1), 7, step)[0] - mean.square().sum(0)).clamp_min(0)


def _usual(energy: Tensor, texture: Tensor) -> tuple[float, float]:
    """energy, texture (N,) -> what is usual is `even + steep * texture`."""
    if not energy.numel():
        return 0.0, 0.0
    flat = texture <= texture.median()
    even = float(energy[flat].quantile(USUAL))
    rough = texture > texture.quantile(0.6)
    steep = ((energy - even)[rough] / texture[rough].clamp_min(1e-9)).quantile(USUAL) if rough.any() else 0.0
    return even, max(float(steep), 0.0)
