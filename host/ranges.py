"""Which rows of a batch see the same conditioning, where each row has a noise level of its own.

Timestep ranges, ControlNet ranges and hook keyframes are bounds in sigma that the host compares with row 0 alone.
"""

from __future__ import annotations

from torch import Tensor


def _bounds(entry: dict) -> list[tuple[float, float]]:
    """(upper, lower) sigma bounds of a prepared conditioning entry and of its chain of ControlNets."""
    found = []
    if "timestep_start" in entry or "timestep_end" in entry:
        found.append((float(entry.get("timestep_start", float("inf"))), float(entry.get("timestep_end", -1.0))))
    control = entry.get("control")
    while control is not None:
        bounds = getattr(control, "timestep_range", None)
        if bounds is not None:
            found.append((float(bounds[0]), float(bounds[1])))
        control = getattr(control, "previous_controlnet", None)
    return found


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
