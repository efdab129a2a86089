"""Warping by a flow: where things land, what they hide, what they lay bare (Motion Guidance, arXiv 2401.18085).

Differs from the paper: it takes its occlusion mask from the derivative of a self-warped flow. Here the same regions
come from one forward splat with a depth order, which also shows what becomes bare and what leaves the picture. Where
parts of one layer land on each other the longer motion wins, as in softmax splatting (Niklaus & Liu, arXiv 2003.05534).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import ceil

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..morphology import dilate
from .fields import default_layers, moving, pixel_grid

FOLD = 2.0  # pixels of motion by which two parts of a layer differ before one counts as in front of the other


@dataclass(frozen=True)
class Landing:
    """Where a flow takes a picture; all (B, H, W), on the grid named.

    source: (B, H, W, 2) on the target: the source point seen there (meaningless where uncovered).
    arrived: bool on the target: something that moved is seen there. uncovered: bool on the target: nothing of the
    source is seen there. occluded: bool on the source: not seen in the target, hidden or outside.
    vacated: bool on the source: what moves away, whether or not something else comes.
    """

    source: Tensor
    arrived: Tensor
    uncovered: Tensor
    occluded: Tensor
    vacated: Tensor

    def edit_mask(self, grow: int = 0) -> Tensor:
        """(B, H, W) bool: every place that something moves from or to, grown by `grow` pixels."""
        return dilate(self.vacated | self.arrived, grow)

    def to_fill(self, grow: int = 0) -> Tensor:
        """(B, H, W) bool on the target: bare places, and `grow` pixels (soft edges, shadows) round what has left."""
        return self.uncovered | (dilate(self.vacated, grow) & ~self.arrived)


def land(flow: Tensor, layers: Tensor | None = None) -> Landing:
    """Splat a flow (B, H, W, 2) forward, back to front by `layers` (B, H, W; by default what moves is in front).

    Exact for affine motions up to rounding, for whole-pixel moves to the bit; stretched regions keep no holes.
    """
    layers = (default_layers(flow) if layers is None else layers).to(flow)
    parts = [_land_one(f, l) for f, l in zip(flow, layers, strict=True)]
    return Landing(*(torch.stack([getattr(part, field.name) for part in parts]) for field in fields(Landing)))


def _land_one(flow: Tensor, layers: Tensor) -> Landing:
    moves, grid = moving(flow), pixel_grid(*flow.shape[:2], dtype=flow.dtype, device=flow.device)
    # Of one depth, what moves lies over what stays.
    depth = (layers * 255).round() * 2 + moves
    source, top, slack = grid.clone(), torch.full_like(layers, -1.0), torch.zeros_like(layers)
    for level in depth.unique(sorted=True):
        region = depth == level
        if int(level) % 2 == 0:
            seen, points = region, grid
        else:
            seen, points, slack[region] = _splat(flow, region, grid)
        source = torch.where(seen[..., None], points, source)
        top = torch.where(seen, level, top)
    goal = (grid + flow).round()
    size = (flow.shape[0], flow.shape[1])
    inside = _inside(goal, size)
    at = _flat(goal, size)
    folded = (source.flatten(0, 1)[at] - grid).norm(dim=-1) > slack
    hidden = (top.flatten()[at] > depth) | (folded & (top.flatten()[at] == depth) & moves)
    return Landing(source, (top > 0) & (top % 2 == 1), top < 0, ~inside | hidden, moves)


def _splat(flow: Tensor, region: Tensor, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One layer's landing, by bilinear votes of finer samples: seen (H, W) bool, the source points (H, W, 2), and for
    the N pixels of the layer how far apart (N,) sources may be that meet on one place without a fold."""
    height, width = region.shape
    jacobian = _jacobian(flow, region)[region]
    start, end, length = grid[region], (grid + flow)[region], flow[region].norm(dim=-1)
    area, stretch, inverse = _of_pairs(jacobian)
    count = min(max(ceil(float(stretch.max()) - 1e-3), 1), 6)
    nearest = torch.full((height * width,), -1.0, dtype=flow.dtype, device=flow.device)
    for step in (_corners(start, end, jacobian, s, (height, width)) for s in _offsets(count, flow)):
        for _, at, fraction, _ in step:
            nearest.scatter_reduce_(0, at, torch.where(fraction > 0, length, -1.0), "amax")
    cover, weights, votes = (torch.zeros(height * width, n, dtype=flow.dtype, device=flow.device) for n in (1, 1, 2))
    for offset in _offsets(count, flow):
        for corner, at, fraction, (begin, goal) in _corners(start, end, jacobian, offset, (height, width)):
            weight = fraction * torch.exp(-4 * F.relu(nearest[at] - length - FOLD))
            vote = begin + (inverse * (corner - goal)[:, None]).sum(-1)
            cover.index_add_(0, at, (fraction * area)[:, None] / count**2)
            weights.index_add_(0, at, weight[:, None])
            votes.index_add_(0, at, weight[:, None] * vote)
    seen = rearrange(cover >= 0.5 - 1e-4, "(h w) 1 -> h w", h=height)
    points = rearrange(votes / weights.clamp_min(1e-9), "(h w) c -> h w c", h=height)
    return seen, points, 1.5 + FOLD + inverse.square().sum((1, 2)).sqrt()


def _of_pairs(jacobian: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, 2, 2) -> the area of a unit square (N,), the largest stretch (N,) and the inverse (N, 2, 2), in closed form:
    a large picture has millions. Near-singular motions (a region squeezed to a line) vote for their own pixel, without
    extrapolation: their inverse is 0."""
    (a, b), (c, d) = (row.unbind(-1) for row in jacobian.unbind(-2))
    det, squares = a * d - b * c, jacobian.square().sum((1, 2))
    stretch = ((squares + (squares**2 - 4 * det**2).clamp_min(0).sqrt()) / 2).sqrt()
    adjugate = torch.stack((d, -b, -c, a), -1).unflatten(-1, (2, 2))
    regular = (det.abs() > 0.05)[:, None, None]
    return det.abs(), stretch, torch.where(regular, adjugate / det[:, None, None], 0.0)


def _offsets(count: int, like: Tensor) -> list[Tensor]:
    """The centres of a pixel's count x count cells, from its own centre."""
    steps = [(i + 0.5) / count - 0.5 for i in range(count)]
    return [torch.tensor([x, y], dtype=like.dtype, device=like.device) for y in steps for x in steps]


def _corners(start: Tensor, end: Tensor, jacobian: Tensor, offset: Tensor, size: tuple[int, int]):
    """Four pixels round each sample's goal: (corner (N, 2), flat index (N,), fraction (N,), (begin, goal) (N, 2))."""
    begin, goal = start + offset, end + jacobian @ offset
    base = goal.floor()
    part = goal - base
    for dx in (0, 1):
        for dy in (0, 1):
            corner = base + torch.tensor([dx, dy], dtype=base.dtype, device=base.device)
            fraction = (part[:, 0] if dx else 1 - part[:, 0]) * (part[:, 1] if dy else 1 - part[:, 1])
            yield corner, _flat(corner, size), fraction * _inside(corner, size), (begin, goal)


def _inside(points: Tensor, size: tuple[int, int]) -> Tensor:
    limit = torch.tensor([size[1] - 0.5, size[0] - 0.5], dtype=points.dtype, device=points.device)
    return ((points >= -0.5) & (points <= limit)).all(dim=-1)


def _flat(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Whole points (..., 2) -> indices into a flattened (H, W), clamped to the picture."""
    return points[..., 1].long().clamp(0, size[0] - 1) * size[1] + points[..., 0].long().clamp(0, size[1] - 1)


def _jacobian(flow: Tensor, region: Tensor) -> Tensor:
    """(H, W, 2, 2) derivative of (x, y) + flow within a region, from the smoother of both neighbours' differences."""
    columns = []
    for axis in (1, 0):
        ahead = torch.diff(flow, dim=axis, append=flow.narrow(axis, -1, 1))
        valid = region & region.roll(-1, axis)
        valid.select(axis, -1).fill_(False)
        ahead = torch.where(valid[..., None], ahead, torch.inf)
        behind = ahead.roll(1, axis)
        behind.select(axis, 0).fill_(torch.inf)
        # Equal for affine flows; at a break in the motion the smaller one lies on this side of it.
        smooth = torch.where(behind.norm(dim=-1, keepdim=True) < ahead.norm(dim=-1, keepdim=True), behind, ahead)
        columns.append(torch.where(torch.isfinite(smooth), smooth, 0.0))
    return torch.stack(columns, dim=-1) + torch.eye(2, dtype=flow.dtype, device=flow.device)


def sample(picture: Tensor, points: Tensor, *, padding: str = "border") -> Tensor:
    """The picture (B, C, H, W) at points (B, H', W', 2) in pixels, bilinear -> (B, C, H', W').

    Whole points give the pixel to the last bit. padding: 'border' or 'reflection' about the outer pixels' centres.
    """
    height, width = picture.shape[-2:]
    x, y = points.unbind(dim=-1)
    fold = _reflect if padding == "reflection" else lambda v, n: v.clamp(0, n - 1)
    x, y = fold(x, width), fold(y, height)
    # NaN may come from a network; it stays in the weights but is no index.
    left, top = (v.detach().nan_to_num(0).floor().clamp(0, max(n - 2, 0)) for v, n in ((x, width), (y, height)))
    flat, total = rearrange(picture, "b c h w -> b c (h w)"), picture.new_zeros(())
    for dx, wx in ((0, 1 - (x - left)), (1, x - left)):
        for dy, wy in ((0, 1 - (y - top)), (1, y - top)):
            at = (top.long() + dy).clamp(max=height - 1) * width + (left.long() + dx).clamp(max=width - 1)
            index = rearrange(at, "b h w -> b 1 (h w)").expand(-1, flat.shape[1], -1)
            total = total + flat.gather(2, index).unflatten(2, points.shape[1:3]) * (wx * wy)[:, None]
    return total


def _reflect(values: Tensor, count: int) -> Tensor:
    span = max(count - 1, 1)
    return span - (values.remainder(2 * span) - span).abs()


def backward_warp(picture: Tensor, flow: Tensor, *, padding: str = "reflection") -> Tensor:
    """What lies where each pixel goes: picture(p + flow(p)); (B, C, H, W) by (B, H, W, 2). Differentiable in both."""
    grid = pixel_grid(*flow.shape[1:3], dtype=flow.dtype, device=flow.device)
    return sample(picture, grid + flow, padding=padding)


def forward_warp(picture: Tensor, landing: Landing, *, grow: int = 0) -> Tensor:
    """The picture (B, C, H, W) with its parts moved; bare places, grown by `grow` pixels, are filled from around them.

    What stayed fills them, not what moved: a thing's colours must not run into the place that it left. Where nothing
    moved the picture is the same to the last bit.
    """
    moved = torch.where(landing.arrived[:, None], sample(picture, landing.source), picture)
    bare = landing.to_fill(grow)
    if not bool(bare.any()):
        return moved
    unknown = bare | landing.arrived
    unknown = torch.where(unknown.flatten(1).all(dim=1)[:, None, None], bare, unknown)
    return torch.where(bare[:, None], fill_smoothly(moved, unknown), moved)


def fill_smoothly(picture: Tensor, holes: Tensor) -> Tensor:
    """Fill `holes` (B, H, W) bool smoothly from their surroundings, coarse to fine (push and pull)."""
    known = (~holes)[:, None].to(picture.dtype)
    if not bool(known.any()):
        return torch.full_like(picture, 0.5)
    levels = [(picture * known, known)]
    while min(levels[-1][0].shape[-2:]) > 1:
        colours, fraction = (F.avg_pool2d(F.pad(v, _even(v)), 2) for v in levels[-1])
        levels.append((colours, fraction))
    filled = levels[-1][0] / levels[-1][1].clamp_min(1e-6)
    for colours, fraction in reversed(levels):
        coarse = F.interpolate(filled, colours.shape[-2:], mode="bilinear", align_corners=False)
        # A cell counts as known once a quarter of it is; below that the coarser level has its say.
        trust = (4 * fraction).clamp(max=1)
        filled = trust * colours / fraction.clamp_min(1e-6) + (1 - trust) * coarse
    return torch.where(holes[:, None], filled, picture)


def _even(picture: Tensor) -> tuple[int, int, int, int]:
    return 0, picture.shape[-1] % 2, 0, picture.shape[-2] % 2
