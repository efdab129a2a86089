"""One attention of a transformer as a technique sees it: its tokens told apart, its rows, and ways to run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import comfy.ldm.modules.attention as host_attention
import torch
from torch import Tensor

# Text and picture in one sequence; picture alone; picture that asks text.
Kind = Literal["joint", "self", "cross"]


@dataclass(frozen=True)
class Split:
    """Where the tokens of one attention stand. text: the columns of the context, in the order of the conditioning;
    picture: the tokens of the latent itself, row by row on `grid` (frames, height, width). Both are places in queries
    and keys alike; of a "cross" attention the picture is in the queries and the text in the keys. What lies in neither
    (references, registers, padding) belongs to no word and to no place."""

    kind: Kind
    text: slice
    picture: slice
    grid: tuple[int, int, int]


@dataclass(frozen=True)
class ModelCall:
    """What a model call was given. shape: of the latents; text: columns of the context; extra: its further inputs, such
    as `ref_latents`."""

    shape: tuple[int, ...]
    text: int
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.shape[0]

    def grid(self, patch: int) -> tuple[int, int, int]:
        """Frames, rows and columns of the picture's tokens; the host fills up what is no multiple of `patch`."""
        frames = self.shape[2] if len(self.shape) == 5 else 1
        return frames, -(-self.shape[-2] // patch), -(-self.shape[-1] // patch)


class Run(Protocol):
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Attention:
    """One attention in one block. q, k, v: (B, heads, tokens, width), after positions were turned in; with grouped
    queries k and v may have fewer heads. block: its number in the order of the forward pass; mask: (rows, heads,
    queries, keys), each 1 where all are alike, or None. begins: for rows whose prompt does not begin with the text (it
    is filled up on the left, and nobody reads that) the place of its first column."""

    q: Tensor
    k: Tensor
    v: Tensor
    block: int
    split: Split
    mask: Tensor | None
    chained: Run
    kernel: Run
    begins: Mapping[int, int] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        return self.split.kind

    def begin(self, row: int) -> int:
        """The place of the first column of a row's prompt."""
        return self.begins.get(row, self.split.text.start)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, keys: Sequence[int] | None = None) -> Tensor:
        """The attention of all rows, by whatever other nodes have put in its place -> (B, heads, tokens, width).

        keys: for each row, the row of the call that its keys come from; left out, its own."""
        return self.chained(q, k, v, self._mask(keys, None))

    def plain(
        self, q: Tensor, k: Tensor, v: Tensor, keys: Sequence[int], queries: slice | Tensor | None = None
    ) -> Tensor:
        """The host's kernel on some rows. keys: as in `attend`; queries: which of the tokens ask, all if left out."""
        return self.kernel(q, k, v, self._mask(keys, queries))

    def masses(self, row: int, columns: Sequence[int]) -> Tensor:
        """(columns, tokens of the picture) in 0..1: how much of each picture token's attention goes to each column of
        the row's prompt, the mean over heads.

        The same attention once more, with indicator columns in place of the values: E[j, c] = 1 where key j is column
        c, so that channel c of the output is the mass on it. By the exact kernel, since a quantised one rounds them.
        """
        q, k = self.q[row : row + 1, :, self.split.picture], self.k[row : row + 1]
        width, found = self.v.shape[-1], []
        places = torch.tensor(list(columns), dtype=torch.long, device=k.device) + self.begin(row)
        mask = self._mask([row], self.split.picture)
        extra = {"enable_gqa": True} if k.shape[1] != q.shape[1] else {}
        for part in places.split(width):
            values = k.new_zeros(1, k.shape[1], k.shape[2], width)
            values[:, :, part, torch.arange(len(part), device=k.device)] = 1
            out = host_attention.attention_pytorch(
                q, k, values, q.shape[1], mask, skip_reshape=True, skip_output_reshape=True, **extra
            )
            found.append(out[0, :, :, : len(part)].float().mean(0).T)
        return torch.cat(found) if found else q.new_zeros(0, q.shape[2], dtype=torch.float32)

    def word_maps(self, row: int, columns: Sequence[int], count: int) -> Tensor:
        """(count, height, width): the same as a map for each of `count` columns, zero for those that are not chosen."""
        height, width = self.split.grid[-2:]
        found = self.q.new_zeros(count, height * width, dtype=torch.float32)
        if columns:
            found[list(columns)] = self.masses(row, columns)
        return found.unflatten(-1, (height, width))

    def _mask(self, keys: Sequence[int] | None, queries: slice | Tensor | None) -> Tensor | None:
        """The mask (B or 1, heads or 1, queries or 1, keys) of rows that read the keys of other rows."""
        mask = self.mask
        if mask is None:
            return None
        if keys is not None and mask.ndim > 2 and mask.shape[0] > 1:
            mask = mask[list(keys)]
        if queries is not None and mask.shape[-2] > 1:
            mask = mask[..., queries, :]
        return mask
