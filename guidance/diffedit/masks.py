"""From a heat map to a mask: outliers, thresholds that follow the size of the object, and the shape of the mask.

Thresholds: the paper's fixed one (arXiv 2210.11427, section 3.2), the "1.5 x mean" of diffusers, and Otsu's ("A
threshold selection method from gray-level histograms", IEEE SMC 9(1), 1979, equation 12), which is the default. 1.5 x
mean never marks more than two thirds of a picture (Markov's inequality). A fixed threshold depends on the brightest
pixel alone. Otsu's separates the two levels of which the map consists.

Where a thing is small and faint, Otsu's finds the middle of the noise. The split then separates no better than one of a
single normal population, and marks much of the picture (`one_level`). Where it separates even less, a small part stands
out of the noise, and it is looked for among what was marked.

The map of an object that changes its shape is bright along the outline alone, and unevenly. The adaptive rule marks
what such an outline encloses, by a second and lower threshold (hysteresis as in Canny's edge detector, IEEE PAMI 8(6),
1986). The height of an enclosure is that of the lowest path out of it. Outlines with open gaps are left to
`outlines.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from scipy.sparse import csgraph, csr_array
from torch import Tensor

from ..morphology import close_gaps, fill_holes, grow, keep_largest, otsu, soften, touching, widen
from .outlines import fill_outlines

Outliers = Literal["drop the extreme noises", "none", "clip at 3 x mean", "clip beyond the quartiles"]
Threshold = Literal["adaptive", "fixed", "1.5 x mean"]


ONE_LEVEL = 2 / math.pi
"""The separability of a single normal population that is cut at its middle."""
STANDS_OUT = 0.6
"""Below this separability a small part stands out of one population. Of maps of one thing of 3 or 10 % of the area, as
bright as twice the noise's mean, all lie below; of 30 and 60 % and half as bright, all lie above."""
MUCH = 0.3
"""The fraction of a picture that a split of one population marks at least; skewed ones are cut in two unequal parts."""


@dataclass(frozen=True)
class MaskRecipe:
    """How a heat map becomes a mask.

    level: of the "fixed" threshold, in the map rescaled to 0..1. gap: cells of the latent that an outline may lack
    and still be closed. parts: how many connected parts to keep, the largest first; 0 = all. complement: edit what was
    *not* found. grow: pixels by which the edited part is widened (below 0: narrowed). soft_edge: width in pixels of
    the ramp round the mask. room: where another shape is to come, the fraction of its own side by which the mask is
    widened; see `roomy`.
    """

    outliers: Outliers = "drop the extreme noises"
    threshold: Threshold = "adaptive"
    level: float = 0.5
    gap: int = 1
    fill_holes: bool = True
    parts: int = 0
    complement: bool = False
    grow: int = 0
    soft_edge: int = 8
    room: float = 0.0

    @property
    def trims(self) -> bool:
        """Whether the extreme noises are to be left out of the mean."""
        return self.outliers == "drop the extreme noises"


@dataclass(frozen=True)
class Frame:
    """Sizes in pixels: what the latent covers, and the whole picture, of which it is the middle (0: no more)."""

    height: int
    width: int
    whole_height: int = 0
    whole_width: int = 0

    @property
    def margins(self) -> tuple[int, int, int, int]:
        """What the whole picture has more: left, right, top, bottom."""
        high, wide = max(self.whole_height - self.height, 0), max(self.whole_width - self.width, 0)
        return wide // 2, wide - wide // 2, high // 2, high - high // 2


def clip_outliers(heat: Tensor, rule: Outliers) -> Tensor:
    """heat: (B, h, w), each picture by its own values. The extreme noises have been dropped before the mean, if at all.

    Beyond the quartiles: above Q3 + 1.5 (Q3 - Q1), as box plots do.
    """
    flat = rearrange(heat, "b h w -> b (h w)")
    if rule == "clip at 3 x mean":
        limit = 3 * flat.mean(1)
    elif rule == "clip beyond the quartiles":
        low, high = torch.quantile(flat, torch.tensor([0.25, 0.75], dtype=flat.dtype, device=flat.device), dim=1)
        limit = high + 1.5 * (high - low)
    else:
        return heat
    return torch.minimum(heat, limit[:, None, None])


def rescale(heat: Tensor) -> Tensor:
    """Each picture of heat (B, h, w) from its least to its greatest value onto 0..1; a flat one becomes 0."""
    low, high = heat.amin((1, 2), keepdim=True), heat.amax((1, 2), keepdim=True)
    return torch.where(high > low, (heat - low) / (high - low).clamp_min(torch.finfo(heat.dtype).tiny), 0.0)


def thresholds(heat: Tensor, rule: Threshold, level: float = 0.5) -> Tensor:
    """(B,) the value above which a pixel of heat (B, h, w) counts; every picture has its own.

    level: of "fixed", as a fraction of the way from the picture's least to its greatest value.
    """
    flat = rearrange(heat, "b h w -> b (h w)")
    if rule == "1.5 x mean":
        return 1.5 * flat.mean(1)
    if rule == "fixed":
        low, high = flat.amin(1), flat.amax(1)
        return low + level * (high - low)
    split = otsu(flat)
    outstanding = _marks_much(flat, split) & (separability(flat, split) < STANDS_OUT)
    rows = [otsu(row[row > one][None])[0] if again else one for row, one, again in zip(flat, split, outstanding)]
    return torch.stack(rows)


def separability(values: Tensor, threshold: Tensor) -> Tensor:
    """Otsu's measure of a split (equation 14), (B,): the fraction of the variance of values (B, N) that lies between
    both sides of the threshold (B,). 1 = two levels, 2 / pi = a single normal population cut at its middle."""
    above = values > threshold[:, None]
    fraction = above.double().mean(1)
    means = [(values.double() * side).sum(1) / side.sum(1).clamp_min(1) for side in (~above, above)]
    spread = values.double().var(1, correction=0)
    return (
        fraction * (1 - fraction) * (means[1] - means[0]) ** 2 / spread.clamp_min(torch.finfo(spread.dtype).tiny)
    ).to(values.dtype)


def one_level(heat: Tensor) -> Tensor:
    """(B,) bool: Otsu's split of heat (B, h, w) separates no two levels, so that an adaptive mask may be chance."""
    flat = rearrange(heat, "b h w -> b (h w)")
    level = otsu(flat)
    return _marks_much(flat, level) & (separability(flat, level) < ONE_LEVEL)


def _marks_much(flat: Tensor, level: Tensor) -> Tensor:
    return (flat > level[:, None]).float().mean(1) > MUCH


def find(heat: Tensor, recipe: MaskRecipe) -> tuple[Tensor, Tensor]:
    """heat: (B, h, w) >= 0, the mean difference. Returns the mask (B, h, w) bool and the map rescaled to 0..1.

    Where nothing is found, in a flat map for instance, the mask is empty, with `complement` too: it would be the whole
    picture.
    """
    heat = heat.float()
    clipped = clip_outliers(heat, recipe.outliers)
    # The mean rule applies to the map before clipping.
    measured = heat if recipe.threshold == "1.5 x mean" else clipped
    mask = heat > thresholds(measured, recipe.threshold, recipe.level)[:, None, None]
    if recipe.threshold == "adaptive" and recipe.fill_holes:
        mask = enclose(clipped, mask)
    if recipe.gap > 0:
        mask = close_gaps(mask, recipe.gap)
    if recipe.fill_holes:
        mask = fill_holes(mask)
    if recipe.threshold == "adaptive" and recipe.fill_holes:
        mask = fill_outlines(clipped, mask)
    if recipe.parts > 0:
        mask = keep_largest(mask, recipe.parts)
    if recipe.complement:
        mask = ~mask & mask.flatten(1).any(1)[:, None, None]
    return mask, rescale(clipped)


def roomy(mask: Tensor, shapes: Tensor, recipe: MaskRecipe) -> Tensor:
    """The mask (B, h, w) bool, wider by the recipe's room for the pictures that are to get another shape (B,) bool."""
    if recipe.room == 0 or recipe.complement:
        return mask
    return torch.where(shapes[:, None, None], widen(mask, recipe.room), mask)


def finish(mask: Tensor, frame: Frame, recipe: MaskRecipe) -> tuple[Tensor, Tensor]:
    """A mask (B, h, w) bool at the size of the picture: hard and with soft edges, both (B, H, W) float32 in 0..1."""
    hard = (to_size(mask.float(), frame) > 0.5).float()  # the cells' steps become ramps
    if recipe.grow:
        hard = grow(hard, recipe.grow)
    return hard, soften(hard, recipe.soft_edge)


def enclose(heat: Tensor, core: Tensor) -> Tensor:
    """core (B, h, w) bool and what it encloses: cells from which every path out crosses heat (B, h, w) above a second
    threshold.

    That threshold is Otsu's of the square roots of the paths' heights: roots, because an outline is bright in few
    places. Enclosures that do not touch the core are chance and stay out.
    """
    height = fences(heat)
    level = otsu(rearrange(height, "b h w -> b (h w)").sqrt())[:, None, None] ** 2
    raised = (height > level) | core
    return core | (touching(raised, core) & (heat < height))


def fences(heat: Tensor) -> Tensor:
    """The least height of heat (B, h, w) that a path from each cell to the picture's border must cross (minimax path).

    The border may cut an object off, so each of its four sides in turn counts as closed too; the highest of the five
    results counts.
    """
    return torch.stack([_fences_of(one) for one in heat])


def _fences_of(heat: Tensor) -> Tensor:
    """The same for (h, w). Minimax paths follow a minimum spanning tree, whose edges are as high as the higher of their
    two cells."""
    levels, rank = heat.cpu().unique(return_inverse=True)
    rank = rank + 1  # zero would be no edge
    cells = torch.arange(rank.numel()).view(rank.shape)
    inside = [(cells[1:], cells[:-1]), (cells[:, 1:], cells[:, :-1])]
    sides = (cells[0], cells[-1], cells[:, 0], cells[:, -1])
    found = []
    for closed in (None, *range(4)):
        exits = torch.cat([side for i, side in enumerate(sides) if i != closed])
        found.append(_least_heights(rank.flatten(), inside, exits.unique()))
    return levels[torch.stack(found).amax(0) - 1].view(heat.shape).to(heat.device)


def _least_heights(rank: Tensor, inside: list[tuple[Tensor, Tensor]], exits: Tensor) -> Tensor:
    """(N,) the least height at which each of N cells (their heights are `rank`) is connected to the outside.

    inside: pairs of neighbours; exits: the cells that lie next to the outside.
    """
    outside = len(rank)
    rank = torch.cat((rank, rank.new_zeros(1)))
    pairs = [*inside, (exits, torch.full_like(exits, outside))]
    here, there = (torch.cat([side.flatten() for side in sides]) for sides in zip(*pairs))
    height = torch.maximum(rank[here], rank[there])
    graph = csr_array((height.numpy(), (here.numpy(), there.numpy())), shape=(len(rank), len(rank)))
    tree = csgraph.minimum_spanning_tree(graph)
    towards = torch.from_numpy(csgraph.breadth_first_order(tree, outside, directed=False)[1]).long()
    towards[outside] = outside
    while bool((towards != outside).any()):
        # Each cell has the greatest height of a part of its path out, and where that part ends; parts double in length.
        rank, towards = torch.maximum(rank, rank[towards]), towards[towards]
    return rank[:outside]


def to_size(values: Tensor, frame: Frame) -> Tensor:
    """Values (B, h, w) of a latent at the size of its picture, (B, H, W); beyond the latent the border goes on."""
    size = (frame.height, frame.width)
    large = F.interpolate(values[:, None], size=size, mode="bilinear", align_corners=False)
    return F.pad(large, frame.margins, mode="replicate")[:, 0]
