"""Torn frames: those that show a thing at two places, where it should be on its way from the one to the other.

Where a thing moves far, a morph can tear. The thing fades or shrinks at its old place while it comes at its new one.
Such frames lie evenly between the key pictures, so that an even pace (DiffMorpher, arXiv 2312.07409, section 4.3) would
choose more of them. They are recognised by how wide what moves is spread. With e(p) the squared difference of a frame
from the ground at place p, V is the variance of the places, weighted by e. A thing half way is as wide as in both key
pictures, and so is one that changes its shape, colour or ground; a thing at two places d apart adds d^2 / 4 to V.

The ground is what the two key pictures have in common, filled from around where they differ. Only places near to where
the frame and the two differ count.

Beyond the paper.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..guidance.morphology import dilate
from .schedule import Alphas

LARGEST = 64  # cells of a side: larger frames are shrunk
AROUND = 0.25  # of the longer side: how far the ground is filled from
EMPTY = 0.1  # of what a key picture shows: a frame with less shows nothing, at no place
PLAIN = 0.25  # of the mean squared difference of the key pictures: more is a change
NEAR = 0.125  # of the longer side: so near to a change places count
TEXTURE = 2.0  # so many times the ground's mean squared difference from its smooth self is no thing
FAINT = 1e-2  # of the mean squared difference of the key pictures: less is no difference
SLIGHT = 0.05  # of a spread: less is chance
TINY = 1e-12
# So much more quickly a schedule passes over a wholly torn part, one more than a part that is not torn.
PASSED_OVER = 8.0


def torn(frames: Tensor, alphas: Alphas) -> Tensor:
    """How torn each frame is, (N, C, h, w) -> (N,) float64 in 0..1 on the CPU: the fraction of its spread that the key
    pictures on both sides do not have; 0 for these.

    alphas: of the frames, rising. A key picture that is no frame is replaced by the frame nearest to it.
    """
    frames = _small(frames)
    values = torch.tensor(alphas.values, dtype=torch.float64)
    tears = torch.zeros(len(frames), dtype=torch.float64)
    for key in range(int(alphas.top)):
        rows = torch.nonzero((values >= key) & (values <= key + 1)).flatten()
        ends = [int((values - place).abs().argmin()) for place in (key, key + 1)]
        if alphas.cyclic and key + 1 == int(alphas.top):
            ends[1] = 0
        spread, seen = _spreads(frames[[*ends, *rows.tolist()]])
        wide, least = spread[:2].max(), EMPTY * seen[:2].min()
        torn_part = ((1 - wide / spread[2:].clamp_min(TINY) - SLIGHT) / (1 - SLIGHT)).clamp_min(0)
        tears[rows] = torch.where(seen[2:] > least, torn_part, 0.0)
    return tears


def shortened(distances: Tensor, tears: Tensor, weight: float = PASSED_OVER) -> Tensor:
    """The distances of neighbours with those at torn frames shortened, so that a pace that is even in them passes over
    tears more quickly. distances: (N-1,), or (N,) around a cycle; tears: (N,) as `torn` gives them."""
    after = tears.roll(-1)[: len(distances)]
    return distances.double() / (1 + weight * (tears[: len(distances)] + after) / 2)


def _small(frames: Tensor) -> Tensor:
    """(N, C, h, w) float64 with sides of at most LARGEST; of a video's frames, the mean over time."""
    frames = frames.detach().cpu().float()
    frames = frames.mean(2) if frames.ndim == 5 else frames
    shrink = max(1.0, max(frames.shape[-2:]) / LARGEST)
    height, width = (max(1, round(side / shrink)) for side in frames.shape[-2:])
    return F.adaptive_avg_pool2d(frames, (height, width)).double()


def _spreads(frames: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) the variance V of each frame in squared cells, and (N,) how much of it differs from the ground. The first
    two frames are the key pictures."""
    before, after = frames[:2]
    apart = (after - before).square().sum(0)
    mean = apart.mean().clamp_min(TINY)
    ground = _filled((before + after) / 2, 1 / (apart / mean + FAINT))
    changed = torch.stack([(frames - key).square().sum(1) for key in (before, after)]).amax(0).maximum(apart)
    # Of a thing that moves by less than its size only the rims differ; what lies between them is the thing as well.
    counted = dilate(changed > PLAIN * mean, NEAR * max(apart.shape))
    shown = (frames - ground).square().sum(1)
    # The texture of the ground elsewhere is no thing.
    elsewhere = shown[:2][~counted[:2]]
    texture = elsewhere.mean() if len(elsewhere) else 0.0
    shown = (shown - TEXTURE * texture).clamp_min(0) * counted
    total = shown.sum((1, 2))
    variance = torch.zeros_like(total)
    for axis in (1, 2):
        places = torch.arange(shown.shape[axis], dtype=shown.dtype)
        weights = shown.sum(3 - axis) / total.clamp_min(TINY)[:, None]
        centre = weights @ places
        variance += (weights * (places - centre[:, None]).square()).sum(1)
    return variance, total


def _filled(values: Tensor, trust: Tensor) -> Tensor:
    """(C, h, w) filled from around where `trust` (h, w) is small: a weighted mean under a Gaussian."""
    sides = values.shape[-2:]
    blurs = [_gaussian(side, AROUND * max(sides)) for side in sides]
    blur = lambda one: blurs[0] @ one @ blurs[1].T
    return blur(values * trust) / blur(trust)


def _gaussian(side: int, sigma: float) -> Tensor:
    """(side, side): row i is a Gaussian round i."""
    places = torch.arange(side, dtype=torch.float64)
    return torch.exp(-(places[:, None] - places).square() / (2 * sigma**2))
