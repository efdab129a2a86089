"""How far neighbouring frames lie apart, in features of any kind."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize


def pairs(frames: Tensor, cyclic: bool) -> tuple[Tensor, Tensor]:
    """(N, ...) -> each frame but the last, and the one after it; around a cycle also the last and the first."""
    if cyclic:
        return frames, frames.roll(-1, dims=0)
    return frames[:-1], frames[1:]


def plain_between(before: Tensor, after: Tensor) -> Tensor:
    """Root mean square difference, (N, C, h, w) twice (or one of them of one row) -> (N,)."""
    return (after.float() - before.float()).flatten(1).square().mean(1).sqrt()


def token_between(before: Tensor, after: Tensor) -> Tensor:
    """Mean distance of the directions of corresponding tokens, (N, T, D) twice (or one of them of one row) -> (N,).

    Between unit vectors, so that it is the content of each place of the picture that counts and not its loudness.
    """
    before, after = (normalize(tokens.float(), dim=-1) for tokens in (before, after))
    return torch.linalg.vector_norm(after - before, dim=-1).mean(1)


def table(frames: Tensor, between: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Distances of all frames from one another, (N, ...) -> (N, N) on the CPU, symmetric."""
    found = torch.zeros(len(frames), len(frames))
    for row in range(len(frames) - 1):
        found[row, row + 1 :] = between(frames[row : row + 1], frames[row + 1 :])
    return found + found.T
