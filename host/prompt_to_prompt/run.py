"""The state of one sampling run of Prompt-to-Prompt, and what a single model call of it does to attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...guidance.prompt_to_prompt.attention_control import Roles, early, edited_maps, step_of
from ...guidance.prompt_to_prompt.map_sums import MapSums
from ...guidance.prompt_to_prompt.plan import EditPlan
from ...guidance.prompt_to_prompt.token_alignment import Alignment
from ..attention.parts import Part, parts_of_call
from .own_prompt import Asked

TECHNIQUE = "Prompt-to-Prompt"


@dataclass(frozen=True, eq=False)
class Call:
    """One model call. parts: of the picture, each with all rows of the batch; shape: of what the model is given."""

    run: "EditRun"
    parts: Sequence[Part]
    shape: tuple[int, ...]

    @cached_property
    def roles(self) -> Roles:
        """Who is who among the rows of the call."""
        found = Roles((), (), ())
        for part in self.parts:
            found = found.join(self.run.roles.at(part.rows))
        return found

    def edited(
        self, network: torch.nn.Module, options: Mapping, context: Tensor | None, extra: Mapping
    ) -> AbstractContextManager[dict]:
        """Inside, the network's attention is edited and its maps are read where it gets the options that come out.

        options: the call's own; context: of its conditionings; extra: the further inputs of the network."""
        raise NotImplementedError

    def keep(self, part: Part, maps: Sequence[Tensor]) -> None:
        """Adds a layer's maps (K, h, w) of the rows of a part to the run's."""
        run = self.run
        maps = edited_maps(maps, run.roles, run.alignments) if run.cross else maps
        for row, one in enumerate(maps):
            run.maps.add(row, one, self.shape[-2:], part.top, part.left)


@dataclass
class EditRun:
    """rows: of the whole batch; size: of the latent; blocks: of the network, and how many times smaller than the latent
    their maps are; step: of the model call under way, and alignments: how it edits attention; latent: what the host is
    asked about in it, (B, C, h, w); asked: which of its conditionings are the plan's own; calls: made of the model with
    them; of: the kind of call; lengths: of the conditioning of each text by itself, where rows of unequal length are
    filled up.
    """

    plan: EditPlan
    schedule: list[float]
    rows: int
    size: tuple[int, int]
    maps: MapSums
    blocks: Mapping
    of: type[Call]
    guider: object = None
    step: int = 0
    alignments: tuple[Alignment, ...] = ()
    self_: bool = False
    blends: bool = False
    latent: Tensor | None = None
    asked: frozenset[Asked] = frozenset()
    calls: int = 0
    lengths: tuple[int, ...] = ()
    mask: Tensor | None = None

    @cached_property
    def roles(self) -> Roles:
        """Who is who in the whole batch."""
        return Roles.of(self.rows, self.plan.rows)

    @property
    def cross(self) -> bool:
        """Whether words have places from the source in this step."""
        return bool(self.alignments)

    def begin(self, sigma: float) -> None:
        plan = self.plan
        self.step = step_of(sigma, self.schedule)
        self.alignments = plan.alignments_at(self.step, len(self.schedule) - 1)
        self.self_ = early(sigma, self.schedule, plan.self_steps)
        steps = len(self.schedule) - 1
        self.blends = plan.blend is not None and self.step >= int(steps * plan.blend.start + 1e-6)

    def call(self, x: Tensor, options: Mapping) -> Call | None:
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
        return self.of(self, parts, tuple(x.shape))


def cut_apart(rows: int, shape: Sequence[int]) -> ValueError:
    """shape: of what the model is given."""
    return ValueError(
        f"{TECHNIQUE} needs all {rows} rows of the batch in one model call, whole or in parts of the picture whose "
        f"places are known, and another node has cut them to {shape[0]} rows of {shape[-1]} x {shape[-2]}: take that "
        "node off the model."
    )
