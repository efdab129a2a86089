"""One model call in chunks of rows, each with the rows that it reads: the same result in less memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..batch_rows import Rows
from ..memory import call_bytes, chunked, free_bytes
from ..network_calls import without_caches
from ..notify import notify

# In `transformer_options`: bytes that patches will allocate on the device in this call.
RESERVED = "palimpsest_reserved_bytes"


class Limits:
    """The rows of a group that one sampling run has found to fit, by the groups and the size of a call."""

    def __init__(self):
        self._rows: dict[tuple[int, ...], int] = {}
        self._warned = False

    def least(self, place: tuple[int, ...], size: int) -> int:
        return min(size, self._rows.get(place, size))

    def learn(self, place: tuple[int, ...], size: int) -> None:
        self._rows[place] = size

    def without_caches(self, options: dict) -> dict:
        """The options of a chunk: a step cache would answer it with what it kept of another. Said once a run."""
        options, names = without_caches(options)
        if names and not self._warned:
            self._warned = True
            notify(f"{names[0]} is left out of this morph, which goes through the model in parts.")
        return options


class RowChunks:
    """rows_at_once: rows of a group in one call, besides those that they read; 0 takes as many as memory allows."""

    def __init__(self, rows_at_once: int = 0):
        self.rows_at_once = rows_at_once

    def run(
        self,
        model,
        call: Callable[..., Tensor],
        rows: Rows,
        groups: int,
        needs: Mapping[int, set[int]],
        inputs: dict[str, Any],
        limits: Limits,
        reserved: float = 0,
    ) -> Tensor:
        """`call(rows of the part, **inputs of the part)`, put together to the whole batch's answer.

        model: the host's BaseModel. needs: place of a row in its group -> places that it reads, itself included or
        not; a row that is missing reads itself alone. inputs: of the whole batch (groups * rows); tensors and control
        lists with that many rows are cut. limits: of the sampling run, whose later calls begin with what fitted.
        reserved: bytes that patches are yet to take.
        """
        place = (groups, *inputs["x"].shape[1:])
        size = self.rows_at_once or self._rows_that_fit(model, len(rows), groups, needs, inputs["x"], reserved)
        size = limits.least(place, size)

        def part(chunk: slice) -> Tensor:
            own = range(len(rows))[chunk]
            if len(own) == len(rows):
                answer = call(rows, **_copied_control(inputs))
            else:
                places = [*own, *_extra_places(own, needs)]
                answer = call(tuple(rows[place] for place in places), **_picked(inputs, places, len(rows), groups))
            return answer.unflatten(0, (groups, -1))[:, : len(own)]

        less = lambda size: limits.learn(place, size)
        parts = chunked(part, len(rows), size=size, what="The morph", on_less=less)
        return parts[0].flatten(0, 1) if len(parts) == 1 else torch.cat(parts, dim=1).flatten(0, 1)

    def _rows_that_fit(
        self, model, rows: int, groups: int, needs: Mapping[int, set[int]], x: Tensor, reserved: float
    ) -> int:
        """By the host's own estimate of a call's memory, the rows that are read included, and what is free."""
        if getattr(model, "current_patcher", None) is None:
            return rows
        free = free_bytes(model, x.device) - reserved
        for size in (rows // parts for parts in range(1, rows + 1)):
            chunks = (range(rows)[start : start + size] for start in range(0, rows, size))
            most = max(len(own) + len(_extra_places(own, needs)) for own in chunks)
            if call_bytes(model, (groups * most, *x.shape[1:])) < free:
                return size
        return 1


def _extra_places(own: range, needs: Mapping[int, set[int]]) -> list[int]:
    """The places that rows of a chunk read and that are not in it."""
    return sorted({place for row in own for place in needs.get(row, ())} - set(own))


def _copied_control(inputs: dict[str, Any]) -> dict[str, Any]:
    """The UNet empties the lists of a ControlNet's outputs: a call that may have to be repeated gets its own."""
    control = inputs.get("control")
    if not isinstance(control, dict):
        return inputs
    return {**inputs, "control": {name: list(outputs) for name, outputs in control.items()}}


def _picked(inputs: dict[str, Any], places: list[int], rows: int, groups: int) -> dict[str, Any]:
    """The inputs of some rows of each group."""
    index = torch.tensor([group * rows + place for group in range(groups) for place in places])

    def pick(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim and value.shape[0] == groups * rows:
            return value.index_select(0, index.to(value.device))
        if isinstance(value, dict):
            return {name: pick(one) for name, one in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(pick(one) for one in value)
        return value

    return {name: pick(value) for name, value in inputs.items()}
