"""Hooks with keyframes, asked in any order of noise levels.

The host's keyframes only ever move on: that serves a sampler, whose levels fall, and not an inversion, whose levels
rise, nor a loop that comes back to a level.
"""

from __future__ import annotations

from collections.abc import Iterable

NOWHERE = -1.0


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
