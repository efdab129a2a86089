"""Editing attention: Prompt-to-Prompt Image Editing with Cross Attention Control (arXiv 2208.01626, algorithm 1).

An edit's row of the batch gets the attention of the source's row, made over by the alignment of the two prompts:

    cross: M' = (M_source take + M_edit new) scale     self: M' = M_source

The maps themselves are never built. A map is only ever multiplied by the values, and

    M_source (take scale V) + M_edit (new scale V)  =  M' V,

which is ordinary attention with the source's queries and keys and other values, and, where there are new words, a
second one with the edit's own. So any attention kernel serves, at any size of the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor

from ...inversion.diffusion import append_dims
from .token_alignment import Alignment

# (B, tokens, heads * width) queries, keys and values -> (B, tokens, heads * width).
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Roles:
    """Who is who in a batch of one or more groups of `size` rows, of which the first is the source.

    rows: indices of the edits in the batch; sources: for each of them, the row of its source; which: for each, the
    number of the edit, from 0.
    """

    rows: tuple[int, ...]
    sources: tuple[int, ...]
    which: tuple[int, ...]

    @staticmethod
    def of(batch: int, size: int) -> "Roles":
        """batch: rows, a multiple of size."""
        edits = [row for row in range(batch) if row % size]
        return Roles(tuple(edits), tuple(row - row % size for row in edits), tuple(row % size - 1 for row in edits))

    def at(self, places: Sequence[int]) -> "Roles":
        """The same rows where they stand in a larger batch: row i at places[i]."""
        return Roles(tuple(places[row] for row in self.rows), tuple(places[row] for row in self.sources), self.which)

    def join(self, other: "Roles") -> "Roles":
        return Roles(self.rows + other.rows, self.sources + other.sources, self.which + other.which)


def source_shapes(n: Tensor, k: Tensor, roles: Roles) -> tuple[Tensor, Tensor]:
    """What queries and keys of self-attention are projected from, with every edit's replaced by its source's.

    n, k: (B, tokens, C). The values stay: M' = M_source.
    """
    rows, sources = list(roles.rows), list(roles.sources)
    asking = n.clone()
    asking[rows] = n[sources]
    if k is n:
        return asking, asking
    asked = k.clone()
    asked[rows] = k[sources]
    return asking, asked


def cross_attention(
    q: Tensor, k: Tensor, v: Tensor, roles: Roles, alignments: Sequence[Alignment], attend: Attend, plain: Attend
) -> Tensor:
    """Cross-attention in which every edit attends to its words as its source attends to theirs.

    q: (B, tokens, C); k, v: (B, K, C), K a multiple of each prompt's own length (repeated prompts change nothing); or
    all of them by heads, (B, heads, tokens, width).
    attend: the layer's attention with all that others have attached to it; plain: the bare one.
    """
    rows, sources = list(roles.rows), list(roles.sources)
    taken, own = [], []
    for row, which in zip(rows, roles.which):
        first, second = edited_values(v[row], alignments[which])
        taken.append(first)
        own.append(second)
    mixed_q, mixed_k, mixed_v = q.clone(), k.clone(), v.clone()
    mixed_q[rows], mixed_k[rows], mixed_v[rows] = q[sources], k[sources], torch.stack(taken)
    out = attend(mixed_q, mixed_k, mixed_v)
    added = [i for i, which in enumerate(roles.which) if bool(alignments[which].new.any())]
    if added:
        out = out.clone()
        chosen = [rows[i] for i in added]
        out[chosen] += plain(q[chosen], k[chosen], torch.stack([own[i] for i in added]))
    return out


def edited_values(v: Tensor, alignment: Alignment) -> tuple[Tensor, Tensor]:
    """v: (..., K, C), an edit's values -> the values for the source's map (..., K, C), and those for its own map.

    The host pads a prompt by repetition: K is a multiple of the source's and of the edit's length.
    """
    count = v.shape[-2]
    for length in alignment.take.shape:
        if count % length:
            raise ValueError(
                f"The prompt has {length} tokens and the model is shown {count}: connect the conditioning of "
                "Prompt-to-Prompt itself, without a node in between that changes its length."
            )
    own = v[..., : alignment.take.shape[1], :] * alignment.scale.to(v)[:, None]
    return _tile(alignment.take.to(v) @ own, count), _tile(own * alignment.new.to(v)[:, None], count)


def _tile(values: Tensor, count: int) -> Tensor:
    """(..., L, C) -> (..., count, C)."""
    return repeat(values, "... l c -> ... (n l) c", n=count // values.shape[-2])


def word_maps(q: Tensor, k: Tensor, heads: int, length: int) -> Tensor:
    """Where each word is attended to: q (B, tokens, C), k (B, K, C) -> (B, length, tokens) in 0..1, mean over heads.

    length: tokens of the prompt itself; K may be a repetition of it.
    """
    q, k = (rearrange(x, "b n (h d) -> b h n d", h=heads).float() for x in (q, k[:, :length]))
    maps = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    return rearrange(maps.mean(1), "b n k -> b k n")


def edited_maps(maps: Sequence[Tensor], roles: Roles, alignments: Sequence[Alignment]) -> list[Tensor]:
    """The maps (K_row, ...) of every row, with those of the edits made over; emphasis is left out."""
    maps = list(maps)
    for row, source, which in zip(roles.rows, roles.sources, roles.which):
        alignment, base = alignments[which], maps[source]
        own = maps[row] * append_dims(alignment.new.to(base), base.ndim)
        maps[row] = torch.tensordot(alignment.take.to(base), base, dims=([0], [0])) + own
    return maps


def early(sigma: float, schedule: Sequence[float], fraction: float) -> bool:
    """Whether a model call at `sigma` lies in the first `fraction` of a run's steps.

    schedule: the run's noise levels, falling, with the last one after the last step. Calls between two levels belong
    to the step that they are part of; see `step_of`.
    """
    steps = len(schedule) - 1
    return step_of(sigma, schedule) < int(steps * fraction + 1e-6)


def step_of(sigma: float, schedule: Sequence[float]) -> int:
    """The step (from 0) that a model call at `sigma` is part of.

    A call exactly at a level belongs to the step that begins there. So does the second call of Heun's method, which
    completes the step before: its level alone does not distinguish it from the next step's first call.
    """
    above = sum(level > sigma * (1 + 1e-5) for level in schedule[:-1])
    at = any(abs(level - sigma) <= 1e-5 * max(level, sigma) for level in schedule[:-1])
    return above if at else max(above - 1, 0)
