"""Negative-prompt Inversion: Fast Image Inversion for Editing with Text-guided Diffusion Models (arXiv 2305.16807):
the source prompt in the place of the unconditional one.

Guidance between a prompt and itself is none, so sampling with the source prompt returns the source at any CFG, as far
as the inversion goes; an edited prompt is then pushed away from the source prompt and not from the empty one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def between(empty: Tensor, source: Tensor, balance: float) -> Tensor:
    """The embedding at `balance` from the empty prompt's (0) to the source's (1), along the arc between the tokens.

    Both (B, T, D); the shorter prompt is repeated to the length of the longer one, which changes nothing for the model.
    """
    empty, source = same_length(empty, source)
    if balance <= 0:
        return empty
    return source if balance >= 1 else slerp(empty, source, balance)


def same_length(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both (B, T, D), repeated to their least common length."""
    length = math.lcm(a.shape[1], b.shape[1])
    a, b = (x.repeat(1, length // x.shape[1], 1) for x in (a, b))
    rows = max(a.shape[0], b.shape[0])
    return a.expand(rows, -1, -1), b.expand(rows, -1, -1)


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Between vectors (..., D): directions along the great circle, lengths in a straight line."""
    length_a, length_b = (x.norm(dim=-1, keepdim=True).clamp_min(1e-12) for x in (a, b))
    one, two = a / length_a, b / length_b
    angle = (one * two).sum(-1, keepdim=True).clamp(-1, 1).acos()
    small = angle.sin() < 1e-4
    sine = torch.where(small, torch.ones_like(angle), angle.sin())
    around = (((1 - t) * angle).sin() * one + (t * angle).sin() * two) / sine
    direction = torch.where(small, torch.lerp(one, two, t), around)
    return direction * torch.lerp(length_a, length_b, t)
