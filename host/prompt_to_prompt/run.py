"""The state of one sampling run of Prompt-to-Prompt, and what a single model call of it does to attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ...guidance.prompt_to_prompt.attention_control import (
    Roles,
    cross_attention,
    early,
    edited_maps,
    source_shapes,
    step_of,
    word_maps,
)
from ...guidance.prompt_to_prompt.map_sums import MapSums
from ...guidance.prompt_to_prompt.plan import EditPlan
from ..attention.blocks import Block
from ..attention.parts import Part, parts_of_call
from ..attention.patching import Attend, AttentionPatch, cells, plain_attention
from .own_prompt import Asked

TECHNIQUE = "Prompt-to-Prompt"


@dataclass
class EditRun:
    """rows: of the whole batch; size: of the latent; step: of the model call under way; latent: what the host is asked
    about in it, (B, C, h, w); asked: which of its conditionings are the plan's own; calls: made of the model with them.
    """

    plan: EditPlan
    schedule: list[float]
    rows: int
    size: tuple[int, int]
    maps: MapSums
    blocks: Mapping[Block, int]
    guider: object = None
    step: int = 0
    cross: bool = False
    self_: bool = False
    blends: bool = False
    latent: Tensor | None = None
    asked: frozenset[Asked] = frozenset()
    calls: int = 0
    mask: Tensor | None = None

    @cached_property
    def roles(self) -> Roles:
        """Who is who in the whole batch."""
        return Roles.of(self.rows, self.plan.rows)

    def begin(self, sigma: float) -> None:
        plan = self.plan
        self.step = step_of(sigma, self.schedule)
        self.cross = early(sigma, self.schedule, plan.cross_steps)
        self.self_ = early(sigma, self.schedule, plan.self_steps)
        steps = len(self.schedule) - 1
        self.blends = plan.blend is not None and self.step >= int(steps * plan.blend.start + 1e-6)

    def call(self, x: Tensor, options: Mapping) -> "Call | None":
        """What there is to do in a call of the model with x (b, C, h, w); None where nothing is.

        Raises ValueError where it holds the plan's rows in parts that cannot be distinguished.
        """
        listed = list(zip(options.get("cond_or_uncond") or (), options.get("uuids") or ()))
        wanted = [place for place, one in enumerate(listed) if one in self.asked]
        if not wanted:
            return None
        self.calls += 1
        parts = parts_of_call(x, self.latent, len(listed), wanted)
        if parts is None:
            raise cut_apart(self.rows, tuple(x.shape))
        return Call(self, parts, tuple(x.shape))


@dataclass(frozen=True, eq=False)
class Call:
    """One model call. parts: of the picture, each with all rows of the batch; shape: of what the model is given."""

    run: EditRun
    parts: Sequence[Part]
    shape: tuple[int, ...]

    @cached_property
    def roles(self) -> Roles:
        """Who is who among the rows of the call."""
        found = Roles((), (), ())
        for part in self.parts:
            found = found.join(self.run.roles.at(part.rows))
        return found

    def patches(self) -> list[AttentionPatch]:
        run = self.run
        coarse = [block for block, factor in run.blocks.items() if factor >= run.plan.self_reduction]
        read = [block for block, factor in run.blocks.items() if factor == run.maps.factor]
        cross = AttentionPatch("attn2", list(run.blocks) if run.cross else read, around=self.around_cross_attention)
        return [AttentionPatch("attn1", coarse, before=self.as_the_source), cross] if run.self_ else [cross]

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
        return cross_attention(q, k, v, self.roles, run.plan.alignments, attend, plain_attention(options))

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
            maps = edited_maps(maps, run.roles, run.plan.alignments) if run.cross else maps
            for row, one in enumerate(maps):
                run.maps.add(row, one, self.shape[-2:], part.top, part.left)


def cut_apart(rows: int, shape: Sequence[int]) -> ValueError:
    """shape: of what the model is given."""
    return ValueError(
        f"{TECHNIQUE} needs all {rows} rows of the batch in one model call, whole or in parts of the picture whose "
        f"places are known, and another node has cut them to {shape[0]} rows of {shape[-1]} x {shape[-2]}: take that "
        "node off the model."
    )
