"""Edits without inversion: a picture moves by the difference of two predictions under shared noise.

FlowEdit (arXiv 2412.08629, algorithm 1), FlowAlign (arXiv 2505.23145, algorithm 1), and the denoising diffusion
consistent model of InfEdit (arXiv 2312.04965, section 3). At each noise level s a fresh noise covers the source x_0,
and the noisy edit p differs from the noisy source q by the change c = x - x_0 alone:

    q = x_0 under the noise of level s,      p = q + c

D_p and D_q are predictions of the picture, for the target and for the source prompt; d = D_p - D_q. From s down to s',
with r = (s - s') / s:

    FlowEdit     c' = (1 - r) c + r d
    FlowAlign    c' = (1 - r) c + r d - zeta d
    DDCM         c' = d

The papers of flow models subtract velocities v = (x - D) / s, and x' = x + (s' - s) (v_p - v_q) is the first line. At
the last level r is 1, and it is DDCM's: that takes all of the step each time, and the next noise covers what was wrong.

With equal predictions c stays 0, and so it does where a mask is 0: there the edit is x_0 to the last bit.

Differs from the papers: a mask scales d, so that grey takes a part of the change. One noise a level, as published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from ..inversion.diffusion import noised

Mode = Literal["FlowEdit", "FlowAlign", "DDCM"]
MODES: tuple[Mode, ...] = get_args(Mode)
ZETA = 0.01
"""FlowAlign's pull of the edit towards the source."""

# (p, q, level) -> D_p and D_q, all (B, C, ...).
Predict = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]
# Called after each step with its number (from 0), the number of steps and the edit.
OnStep = Callable[[int, int, Tensor], None]


def edited(
    predict: Predict,
    source: Tensor,
    sigmas: Sequence[float],
    noises: Sequence[Tensor],
    mode: Mode,
    *,
    flow: bool,
    mask: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """The edit (B, C, ...) of a source of the same shape, in the host's scaled form.

    sigmas: (N+1) falling levels, the last one 0 or the model's lowest. noises: N standard normal tensors like the
    source. flow: whether it is a flow model's form. mask: broadcasts to the source, in 0..1, 1 = edit.
    """
    change = torch.zeros_like(source)
    for i, noise in enumerate(noises):
        sigma, below = sigmas[i], sigmas[i + 1]
        q = noised(source, noise, sigma, flow=flow)
        target, kept = predict(q + change, q, sigma)
        difference = target - kept if mask is None else mask * (target - kept)
        # The lowest level of some schedules is not 0, and nothing comes after it.
        change = next_change(change, difference, sigma, below if i + 1 < len(noises) else 0.0, mode)
        if on_step is not None:
            on_step(i, len(noises), source + change)
    return source + change


def next_change(change: Tensor, difference: Tensor, sigma: float, below: float, mode: Mode) -> Tensor:
    """c' of the change c and the difference d, all (B, C, ...)."""
    if mode == "DDCM":
        return difference
    ratio = (sigma - below) / sigma
    moved = (1 - ratio) * change + ratio * difference
    return moved if mode == "FlowEdit" else moved - ZETA * difference
