"""DiffEdit, "Diffusion-based semantic image editing with mask guidance" (arXiv 2210.11427), section 3.2, step 1.

The picture is noised to about half; where the noise predicted for the wanted text (query Q) differs from that for the
present one (reference R), the picture has to change:

    heat = mean over n noises of  mean over channels | eps(x_sigma, Q) - eps(x_sigma, R) |

The other steps of the paper are not here: the encoding is an inversion, the masked decode is `anchor.py`.

The map is the paper's; how it becomes a mask is in `masks.py`. With one negative for both texts, classifier-free
guidance only scales every difference, so it is left out: 2 n samples of the network, not 4 n.

Differs from the paper: the signed difference of the predictions is kept. It is the direction in which the picture has
to change, and the masked decode may start some way along it (`change`, `off_ground`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange, reduce
from torch import Tensor

from ...inversion.diffusion import append_dims
from ..morphology import dilate

ShapeChanges = Literal["detect", "yes", "no"]

BETA_START, BETA_END = 0.00085, 0.012
"""Stable Diffusion's schedule, in which the paper's noise strength is meant."""

SAME = 1e-4
"""Below this mean difference, in units of the predicted noise, two predictions differ by rounding only."""

SLIGHT = 0.05
"""Two texts whose strongest difference is below this mean nearly the same to the model. The unit is that of the
predicted noise, whose std is 1. Papercut's edits lie above; a full stop or an article more lies below."""

STEADY = 0.5
"""A map is chance where the maps of two halves of the noises correlate by less: other noises would give another map."""

SHAPED = 0.05
"""A change whose evenness is below this counts as that of a shape: a moved part leaves at one side and arrives at
another, so that the mean of the change is near 0. On Papercut nine of ten new shapes lie below, most below 0.02, and
nearly all new patterns and colours above 0.06."""

HEAD_START = 4.0
"""The multiple of `change` that is added to the noise of an edit. On Papercut 3 to 5 are equally good at every depth:
colours and patterns change that stayed otherwise, and small objects keep their place. At 10 colours overshoot."""

DRAFTS = 1
"""How often a new shape is drafted before an edit starts. On Papercut a second draft adds nothing to the first."""

EVEN = (0.35, 0.6)
"""Between these two values of evenness a change counts more and more as that of a colour. On Papercut nearly all new
colours lie above the first and most above the second; nearly all new shapes and patterns lie below the first."""


def item_noises(shape: Sequence[int], count: int, seed: int, items: Sequence[int]) -> Tensor:
    """(count, B, *shape) float32 on the CPU: standard normal noises, the same for an item in whatever batch it comes.

    shape: (C, h, w); items: the B pictures' numbers. More noises begin with the same ones.
    """
    rows = []
    for item in items:
        digest = hashlib.sha256(f"diffedit {seed} {item}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        rows.append(torch.stack([torch.randn(*shape, generator=generator) for _ in range(count)]))
    return torch.stack(rows, 1)


def flow_level(strength: float) -> float:
    """The level of a flow model (0 to 1) at which noise : picture is as in Stable Diffusion at `strength` (0 to 1)."""
    betas = torch.linspace(math.sqrt(BETA_START), math.sqrt(BETA_END), 1000, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - betas, 0)[round(strength * 999)].item()
    ratio = math.sqrt((1 - alpha_bar) / alpha_bar)
    return ratio / (1 + ratio)


def differences(query: Tensor, reference: Tensor, sigma: float) -> Tensor:
    """The spatial differences of single noises, in units of the predicted noise.

    query, reference: (n, B, C, h, w) predictions x0 at the same noisy latents. Returns (n, B, h, w) float32.
    """
    # x0 = x - sigma * eps (flow models: v in place of eps), so that x cancels.
    return reduce((query.float() - reference.float()).abs(), "n b c h w -> n b h w", "mean") / sigma


def change(query: Tensor, reference: Tensor, ratio: float) -> Tensor:
    """The direction from the old text to the new, as noise: the mean over the noises of eps(x, R) - eps(x, Q).

    query, reference: (n, B, C, h, w) predictions x0; ratio: of noise to picture where they were made. Returns
    (B, C, h, w) float32. Adding k times this to the noise of a run moves its first picture by k times the noise-to-
    picture ratio of the first level: the more noise hides the old picture, the further it is moved.
    """
    return reduce(query.float() - reference.float(), "n b c h w -> b c h w", "mean") / ratio


def off_ground(changes: Tensor, mask: Tensor, latent: Tensor, shape: ShapeChanges = "detect") -> Tensor:
    """The changes (B, C, h, w) within the mask (B, h, w) bool, without what leads a new colour to the ground.

    latent: (B, C, h, w) the picture in the model's own scale. Asked for a thing of another colour, the model also
    predicts a little that nothing is there, so that the change leads towards the ground. Several times of that would
    make dark things that become light go to pieces. So the component towards the ground is removed where the change is
    even, as that of a colour is. It stays where the change is uneven: a new shape has to leave cells to the ground.
    Between both values of EVEN a part of it is removed. Where the shape is known to change ("yes") it all stays.

    The ground is the mean of the cells two to four away from the mask (all others where there are none). The direction
    to it starts at the mean of the marked cells.
    """
    marked = rearrange(mask.to(changes), "b h w -> b 1 h w")
    if shape == "yes":
        return marked * changes
    ring = (dilate(mask, 4, "square") & ~dilate(mask, 1, "square"))[:, None].to(changes)
    around = torch.where(append_dims(ring.flatten(1).any(1), 4), ring, 1 - marked)
    seen = append_dims(around.flatten(1).any(1) & mask.flatten(1).any(1), 4)
    way = (_mean_over(latent.to(changes), around) - _mean_over(latent.to(changes), marked)) * seen
    way = way / way.norm(dim=1, keepdim=True).clamp_min(torch.finfo(changes.dtype).tiny)
    towards = (changes * way).sum(1, keepdim=True).clamp_min(0)
    low, high = EVEN
    return marked * (changes - ((evenness(changes, marked) - low) / (high - low)).clamp(0, 1) * towards * way)


def evenness(changes: Tensor, where: Tensor) -> Tensor:
    """(B, 1, 1, 1) from 0 to 1: how much of the changes (B, C, h, w) over the cells of `where` (B, 1, h, w), zeros and
    ones, is their mean, by energy."""
    energy = _mean_over(changes**2, where).sum(1, keepdim=True)
    return (_mean_over(changes, where) ** 2).sum(1, keepdim=True) / energy.clamp_min(torch.finfo(changes.dtype).tiny)


def _mean_over(values: Tensor, where: Tensor) -> Tensor:
    """The mean (B, C, 1, 1) of values (B, C, h, w) over the cells of `where` (B, 1, h, w), zeros and ones."""
    return (values * where).sum((2, 3), keepdim=True) / where.sum((2, 3), keepdim=True).clamp_min(1)


def new_shape(changes: Tensor, shape: ShapeChanges = "detect") -> Tensor:
    """(B,) bool: whether the changes (B, C, h, w), zeros where there are none, are those of a shape; shape: what the
    artist knows of it. What is detected was found on Papercut."""
    where = (changes != 0).any(1, keepdim=True).to(changes)
    there = where.flatten(1).any(1)
    if shape != "detect":
        return there & (shape == "yes")
    return (evenness(changes, where).flatten() < SHAPED) & there


def heat_map(maps: Tensor, *, trim: bool = False) -> Tensor:
    """The mean over the noises (n, B, h, w) -> (B, h, w); `trim` leaves out each pixel's largest and smallest value."""
    if trim and maps.shape[0] > 2:
        ordered = maps.sort(0).values
        return ordered[1:-1].mean(0)
    return maps.mean(0)


def is_noise(heat: Tensor) -> Tensor:
    """(B,) bool: the two texts make no difference for this picture; what is left in heat (B, h, w) is rounding."""
    return reduce(heat, "b h w -> b", "mean") < SAME


def strongest(heat: Tensor) -> Tensor:
    """(B,) the mean of the strongest hundredth of heat (B, h, w), in units of the predicted noise."""
    ordered = rearrange(heat, "b h w -> b (h w)").sort(1, descending=True).values
    return ordered[:, : max(1, ordered.shape[1] // 100)].mean(1)


def steadiness(maps: Tensor) -> Tensor:
    """(B,) the correlation of the mean maps of two halves of the noises (n, B, h, w); 1 below four, too few."""
    half = maps.shape[0] // 2
    if half < 2:
        return maps.new_ones(maps.shape[1])
    parts = [rearrange(part.mean(0), "b h w -> b (h w)") for part in (maps[:half], maps[half:])]
    one, other = (part - part.mean(1, keepdim=True) for part in parts)
    return (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1)).clamp_min(torch.finfo(maps.dtype).tiny)
