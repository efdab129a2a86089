"""How far neighbouring frames lie apart, in features of any kind."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def pairs(frames: Tensor, cyclic: bool) -> tuple[Tensor, Tensor]:
    """(N, ...) -> each frame but the last, and the one after it; around a cycle also the last and the first."""
    if cyclic:
        return frames, frames.roll(-1, dims=0)
    return frames[:-1], frames[1:]


def plain_steps(latents: Tensor, cyclic: bool = False) -> Tensor:
    """Root mean square difference of neighbours, (N, C, h, w) -> (N-1,), or (N,) around a cycle."""
    before, after = pairs(latents.float(), cyclic)
    return (after - before).flatten(1).square().mean(1).sqrt()


def token_steps(tokens: Tensor, cyclic: bool = False) -> Tensor:
    """Mean distance of the directions of corresponding tokens, (N, T, D) -> (N-1,), or (N,) around a cycle.

    Between unit vectors, so that it is the content of each place of the picture that counts and not its loudness.
    """
    before, after = pairs(normalize(tokens.float(), dim=-1), cyclic)
    return torch.linalg.vector_norm(after - before, dim=-1).mean(1)
