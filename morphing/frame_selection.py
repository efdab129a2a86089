"""The evenest morph out of frames that are there already.

A frame depends on its own alpha alone, so frames of several runs of one morph can be combined, and none need be made
again. A path goes from the first frame to the last in n steps over the P measured frames, with distances d_i between
neighbours. The path with the least sum of (d_i - c)^2 is found by dynamic programming in O(n P^2). That sum is
n (variance + (mean - c)^2). So with c at the mean of the evenest path the result is that path, or one as even. The mean
of a path lies between 1 / n of the direct distance and 1 / n of the length through all frames.

Frames that show a thing at two places (`torn_frames`) are as even as any, so they cost beside: the sum is then of
(d_i / c - 1)^2 + TORN * torn_i.

Beyond the paper, which makes all frames anew.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .reschedule import variation
from .schedule import Alphas

# How many means are tried.
_MEANS = 24
# What a wholly torn frame costs, beside the 1 of a step of no length or of twice the mean's.
TORN = 6.0


def choose(
    alphas: Alphas, distances: Tensor, frames: int, *, hold_keys: bool = True, torn: Tensor | None = None
) -> list[int]:
    """Rows of the chosen frames, rising; all of them where there are no more than `frames`.

    alphas: of the P frames seen, rising, from the first key picture to the last (cyclic: around).
    distances: (P, P), of any two of them. hold_keys: as in `reschedule`; key pictures that were seen stay frames.
    torn: (P,) in 0..1, how torn each frame is, as `torn_frames.torn` gives them; None: none of them.
    """
    seen = len(alphas)
    if seen <= frames or frames < 2:
        return list(range(seen))[:frames]
    distances, values = distances.double(), list(alphas.values)
    cost = torch.zeros(seen, dtype=torch.float64) if torn is None else TORN * torn.double()
    if alphas.cyclic:  # the path ends at the first frame again
        cost = torch.cat([cost, cost[:1]])
        distances = torch.cat([distances, distances[:1]])
        distances = torch.cat([distances, distances[:, :1]], dim=1)
        values.append(alphas.top)
    steps = frames if alphas.cyclic else frames - 1
    allowed = _allowed(values, int(alphas.top) if hold_keys and steps >= alphas.top else 0)
    shortest, longest = float(distances[0, -1]) / steps, float(distances.diagonal(1).sum()) / steps
    means = torch.linspace(shortest, longest, _MEANS, dtype=torch.float64).clamp_min(1e-12)
    paths = [_evenest(torch.where(allowed, (distances / mean - 1) ** 2 + cost, math.inf), steps) for mean in means]
    best = min(paths, key=lambda rows: variation(distances[rows[:-1], rows[1:]]) ** 2 + float(cost[rows[1:]].mean()))
    return best[:-1] if alphas.cyclic else best


def _allowed(values: list[float], keys: int) -> Tensor:
    """(P, P), the steps that go forward and over none of the key pictures 1, ..., keys - 1."""
    allowed = torch.ones(len(values), len(values), dtype=torch.bool).triu(1)
    for key in range(1, keys):
        if float(key) in values:
            row = values.index(float(key))
            allowed[:row, row + 1 :] = False
    return allowed


def _evenest(cost: Tensor, steps: int) -> list[int]:
    """The cheapest path of so many steps from the first row to the last; cost: (P, P) of each step."""
    total = torch.full(cost.shape[:1], math.inf, dtype=cost.dtype)
    total[0] = 0.0
    before = []
    for _ in range(steps):
        total, come_from = (total[:, None] + cost).min(0)
        before.append(come_from)
    rows = [len(cost) - 1]
    for come_from in reversed(before):
        rows.append(int(come_from[rows[-1]]))
    return rows[::-1]
