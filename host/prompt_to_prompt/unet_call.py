"""A model call of Prompt-to-Prompt in a UNet, whose self- and cross-attention have layers of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod

import torch
from torch import Tensor

from ...guidance.prompt_to_prompt.attention_control import cross_attention, source_shapes, word_maps
from ..attention.patching import Attend, AttentionPatch, cells, plain_attention, with_attention
from .run import TECHNIQUE, Call, cut_apart


class UNetCall(Call):
    @contextmanager
    def edited(
        self, network: torch.nn.Module, options: Mapping, context: Tensor | None, extra: Mapping
    ) -> Iterator[dict]:
        yield with_attention(options, self.patches(), TECHNIQUE)

    def patches(self) -> list[AttentionPatch]:
        run = self.run
        coarse = [block for block, factor in run.blocks.items() if self._keeps_shapes(factor)]
        read = [block for block, factor in run.blocks.items() if factor == run.maps.factor]
        cross = AttentionPatch("attn2", list(run.blocks) if run.cross else read, around=self.around_cross_attention)
        return [AttentionPatch("attn1", coarse, before=self.as_the_source), cross] if run.self_ else [cross]

    def _keeps_shapes(self, factor: int) -> bool:
        """Whether self-attention is the source's in blocks whose maps are so many times smaller than the latent."""
        plan = self.run.plan
        cells = prod(-(-side // factor) for side in self.shape[-2:])
        return factor >= plan.self_reduction and (plan.self_cells is None or cells <= plan.self_cells)

    def as_the_source(self, n: Tensor, k: Tensor, v: Tensor, options: dict) -> tuple[Tensor, Tensor, Tensor]:
        """Before self-attention: every edit asks, and is asked, as its source."""
        self._check(n, options)
        return (*source_shapes(n, k, self.roles), v)

    def around_cross_attention(self, attend: Attend, q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        """Around cross-attention: its maps are read, and every edit attends to its words as its source does."""
        self._check(q, options)
        run = self.run
        if run.blocks.get(tuple(options["block"])) == run.maps.factor:
            self._look(q, k, options)
        if not run.cross:
            return attend(q, k, v)
        return cross_attention(q, k, v, self.roles, run.alignments, attend, plain_attention(options))

    def _check(self, rows: Tensor, options: Mapping) -> None:
        """Nothing between the call and its attention has cut it again."""
        shape = tuple(options.get("original_shape", self.shape))
        if rows.shape[0] != self.shape[0] or shape[0] != self.shape[0] or shape[-2:] != self.shape[-2:]:
            raise cut_apart(self.run.rows, (rows.shape[0], *shape[1:]))

    def _look(self, q: Tensor, k: Tensor, options: dict) -> None:
        """Adds this layer's maps to the run's."""
        height, width = cells(options)
        if height * width != q.shape[1]:
            return
        run = self.run
        for part in self.parts:
            maps = []
            for row, place in enumerate(part.rows):
                words = len(run.plan.prompts[row % run.plan.rows])
                found = word_maps(q[place : place + 1], k[place : place + 1], options["n_heads"], words)
                maps.append(found[0].unflatten(-1, (height, width)))
            self.keep(part, maps)
