"""Conditionings as the host has prepared them for a run: their ControlNets, rows, ranges of noise levels, keyframes.

The host evaluates a batch by its first row: timestep ranges, ControlNet ranges and hook keyframes are bounds in sigma
that it compares with row 0 alone. And its keyframes only ever move on: that serves a sampler, whose levels fall, and
not an inversion, whose levels rise, nor a loop that comes back to a level.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import comfy.conds
from torch import Tensor

NOWHERE = -1.0
SILENT = (
    "A prompt is limited to a part of the run and says nothing at noise level {:.4g}, where this node asks it: take "
    "the node that sets its range off, or combine it with a prompt for the rest of the run."
)


def controls(entry: dict) -> Iterator[Any]:
    """The ControlNets of an entry (an entry's dict of options, prepared or not), the last one applied first."""
    control = entry.get("control")
    while control is not None:
        yield control
        control = getattr(control, "previous_controlnet", None)


def has_row_hints(entry: dict) -> bool:
    """Whether a ControlNet of the entry has a picture for each row: it hands them out by place in the whole batch."""
    hints = [getattr(control, "cond_hint_original", None) for control in controls(entry)]
    return any(isinstance(hint, Tensor) and hint.shape[0] > 1 for hint in hints)


def pick_rows(model_conds: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    """Prepared conditions (comfy.conds) of some rows of a batch; what holds for all rows alike is left as it is."""

    def pick(one: Any) -> Any:
        value = one.cond
        if isinstance(one, comfy.conds.CONDConstant) or not isinstance(value, Tensor) or value.shape[0] == 1:
            return one
        return one._copy_with(value[rows.to(value.device) % value.shape[0]])

    return {key: pick(one) for key, one in model_conds.items()}


def own_bounds(entry: dict) -> tuple[float, float]:
    """(upper, lower) sigma bounds of a prepared entry; the host counts both as inside."""
    return float(entry.get("timestep_start", float("inf"))), float(entry.get("timestep_end", -1.0))


def active_at(conds: list[list[dict]], sigma: float, *, all_of_them: bool = False) -> bool:
    """Whether the host evaluates any entry of prepared conditionings at a noise level.

    all_of_them: raises ValueError where one of them has no entry there, for which the host would predict zeros.
    """
    active = [any(_holds(sigma, own_bounds(entry)) for entry in cond) for cond in conds]
    if all_of_them and not all(active):
        raise ValueError(SILENT.format(sigma))
    return any(active)


def _holds(sigma: float, bounds: tuple[float, float]) -> bool:
    return bounds[1] <= sigma <= bounds[0]


def asks_for_gradients(cond: list[dict]) -> bool:
    """Whether something in a prepared conditioning is being fitted."""
    values = [getattr(one, "cond", None) for entry in cond for one in entry.get("model_conds", {}).values()]
    return any(isinstance(value, Tensor) and value.requires_grad for value in values)


def _bounds(entry: dict) -> list[tuple[float, float]]:
    """(upper, lower) sigma bounds of a prepared entry and of its ControlNets; none where it has no range."""
    ranged = "timestep_start" in entry or "timestep_end" in entry
    found = [own_bounds(entry)] if ranged else []
    ranges = [getattr(control, "timestep_range", None) for control in controls(entry)]
    return found + [(float(upper), float(lower)) for upper, lower in filter(None, ranges)]


def _changes_by_level(entry: dict) -> bool:
    """Whether hooks on the entry follow keyframes, so that every level may differ."""
    hooks = getattr(entry.get("hooks"), "hooks", ())
    return any(len(getattr(hook.hook_keyframe, "keyframes", ())) > 0 for hook in hooks)


def row_groups(levels: Tensor, conds: list[list[dict]]) -> list[list[int]]:
    """levels: (B,). Rows in groups of one choice of active entries each, the noisiest first; one group where nothing
    depends on levels."""
    count = levels.shape[0]
    if count == 1:
        return [[0]]
    entries = [entry for cond in conds for entry in (cond or ())]
    bounds = [pair for entry in entries for pair in _bounds(entry)]
    keyed = any(_changes_by_level(entry) for entry in entries)
    if not bounds and not keyed:
        return [list(range(count))]
    groups: dict[tuple, list[int]] = {}
    for row, sigma in enumerate(levels.tolist()):
        key = tuple(lower <= sigma <= upper for upper, lower in bounds) + ((sigma,) if keyed else ())
        groups.setdefault(key, []).append(row)
    return sorted(groups.values(), key=lambda rows: -float(levels[rows[0]]))


class Keyframes:
    """The keyframe groups on the conditionings of one run.

    conds: prepared entries, one list a conditioning. top: the noisiest level of the run, where a sampler would begin.
    """

    def __init__(self, conds: Iterable[list[dict] | None], top: float):
        hooks = [hook for cond in conds for entry in cond or () for hook in getattr(entry.get("hooks"), "hooks", ())]
        groups = {id(hook.hook_keyframe): hook.hook_keyframe for hook in hooks if hook.hook_keyframe.keyframes}
        self.groups = list(groups.values())
        self._top, self._last = top, None
        for group in self.groups:
            # The host means to forget the last run's level here, and misspells it: a run that begins at the level
            # where the last one ended would stay on the first keyframe.
            group._curr_t = NOWHERE

    def visit(self, sigma: float, patcher) -> None:
        """To be called before the host evaluates at `sigma`: puts the right keyframe where no sampler would come."""
        risen = sigma < self._top if self._last is None else sigma > self._last
        if self.groups and risen:
            for group in self.groups:
                _seek(group, sigma)
            patcher.clear_cached_hook_weights()
        self._last = sigma


def _seek(group, sigma: float) -> None:
    """The last keyframe that has begun at `sigma`. The steps that a keyframe is guaranteed belong to falling levels."""
    group.reset()
    begun = [i for i, keyframe in enumerate(group.keyframes) if keyframe.start_t >= sigma]
    group._curr_t, group._current_index = NOWHERE, begun[-1] if begun else 0
    group._current_keyframe = group.keyframes[group._current_index]
    group._current_strength = group._current_keyframe.strength
