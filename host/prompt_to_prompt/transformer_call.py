"""A model call of Prompt-to-Prompt in a transformer, whose blocks attend to text and picture at once, or in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from math import ceil

import torch
from torch import Tensor

from ...guidance.prompt_to_prompt.attention_control import cross_attention
from ...guidance.prompt_to_prompt.joint_attention import fitted, joint_attention, with_source_shapes
from ...guidance.prompt_to_prompt.token_alignment import Alignment, Prompt
from ..attention.sequence import Attention, ModelCall
from ..attention.transformer import attention_of_call, middle_blocks
from .run import TECHNIQUE, Call


class TransformerCall(Call):
    @contextmanager
    def edited(
        self, network: torch.nn.Module, options: Mapping, context: Tensor | None, extra: Mapping
    ) -> Iterator[dict]:
        facts = ModelCall(self.shape, 0 if context is None else context.shape[1], extra)
        alone, rows = self.run.lengths, self.run.plan.rows
        lengths = {place: alone[row % rows] for part in self.parts for row, place in enumerate(part.rows) if alone}
        blocks = self._edited | self._read
        with attention_of_call(network, facts, options, self.around, TECHNIQUE, blocks=blocks, lengths=lengths) as own:
            yield own

    @cached_property
    def _prompts(self) -> dict[int, Prompt]:
        """The prompt of each row of the call that is the plan's."""
        plan = self.run.plan
        return {place: plan.prompts[row % plan.rows] for part in self.parts for row, place in enumerate(part.rows)}

    @cached_property
    def _edited(self) -> set[int]:
        run = self.run
        count = ceil(len(run.blocks) * run.plan.depth)
        return set(list(run.blocks)[:count]) if run.cross or run.self_ else set()

    @cached_property
    def _read(self) -> set[int]:
        return set(middle_blocks(self.run.blocks))

    @cached_property
    def _alignments(self) -> dict[int, list[Alignment]]:
        """Of rows with so many columns."""
        return {}

    def around(self, attention: Attention) -> Tensor:
        """Around an attention: its maps are read, and the edits attend as their sources do."""
        q, k, v, kind = attention.q, attention.k, attention.v, attention.kind
        if attention.block in self._read and kind != "self":
            self._look(attention)
        run, edited = self.run, attention.block in self._edited
        if kind == "cross" and edited and run.cross:
            everyone = list(range(q.shape[0]))
            plain = lambda q, k, v: attention.plain(q, k, v, everyone[: len(q)])
            return cross_attention(q, k, v, self.roles, self._fitted(attention), attention.attend, plain)
        if kind == "joint" and edited and run.cross:
            split = attention.split
            return joint_attention(
                q, k, v, split.text, split.picture, self.roles, self._fitted(attention), attention.attend,
                attention.plain, shapes=run.self_,
            )  # fmt: skip
        if kind != "cross" and edited and run.self_:
            return with_source_shapes(q, k, v, attention.split.picture, self.roles, attention.attend)
        return attention.attend(q, k, v)

    def _fitted(self, attention: Attention) -> list[Alignment]:
        """The alignments of rows with as many columns of text as they have here."""
        columns = attention.split.text.stop - attention.split.text.start
        if columns not in self._alignments:
            left = bool(attention.begins)
            self._alignments[columns] = [fitted(one, columns, left=left) for one in self.run.alignments]
        return self._alignments[columns]

    def _look(self, attention: Attention) -> None:
        """Adds a block's maps of the words to the run's; start, end and padding are left out."""
        if attention.split.grid[0] > 1:
            return
        for part in self.parts:
            maps = []
            for place in part.rows:
                prompt = self._prompts[place]
                columns = [column for word in prompt.words for column in word.columns]
                maps.append(attention.word_maps(place, columns, len(prompt)))
            self.keep(part, maps)
