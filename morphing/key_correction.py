"""The key pictures of a morph kept exact, and the frames between corrected with them.

Few steps do not bring every picture back from its noise. Correcting the key pictures alone would leave a jump to
their neighbours, which no pace of the frames can spread. So each frame is moved by the errors of its key pictures, by
their weights in it,

    x_i <- x_i + sum_k W_ik (z_k - x_k),

with x_k where the sampler has taken key picture k by itself and z_k where its inversion was at this noise level. For a
key picture that is the exact source branch of direct inversion (arXiv 2310.01506); between two the correction goes
evenly from one's to the other's, so that a morph without jumps has none after it. In a deterministic sampler that is
linear in x and its predictions (euler, ddim, the multistep ones) it does not matter that its own x is never changed:
the errors of its steps add up in x_k, and are taken back as a whole at each call.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def hold(x: Tensor, keys: Tensor, weights: Tensor, key_rows: Sequence[int], fraction: Tensor) -> Tensor:
    """Frames moved by the errors of their key pictures; a new tensor.

    x: (N, C, h, w) the frames as the sampler has them; keys: (K, C, h, w) where the key pictures are to be;
    weights: (N, K) how much of each is in each frame; key_rows: which frame each of them is;
    fraction: (N, 1, h, w) in [0, 1], how firmly. Where it is 1 the key pictures come out to the bit.
    """
    rows = list(key_rows)
    keys = keys.to(x)
    moved = x + fraction * torch.einsum("nk,kchw->nchw", weights.to(x), keys - x[rows])
    moved[rows] = torch.where(fraction[rows] >= 1, keys, moved[rows])
    return moved
