"""Other people's patches in a run with gradients: whatever they write into, the graph comes to no harm.

A patch that writes into its input (the stock FreeU V2, for example) changes what an operation before it, or one of its
own, has saved for backward. So it gets copies, and what its own operations save is copied too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

AFTER_SKIP = "input_block_patch_after_skip"
CFG_LISTS = ("sampler_pre_cfg_function", "sampler_post_cfg_function")
CFG_SLOTS = ("sampler_cfg_function", "sampler_calc_cond_batch_function")


def guard_cfg(model_options: dict) -> None:
    """Puts `Guarded` round the CFG functions of a run's own options."""
    for name in CFG_LISTS:
        if name in model_options:
            model_options[name] = [Guarded(one) for one in model_options[name]]
    for name in CFG_SLOTS:
        if name in model_options:
            model_options[name] = Guarded(model_options[name])


def guarded_patches(options: dict) -> dict:
    """A copy of one call's `transformer_options` whose patches and replacements are `Guarded`."""
    patches = {
        # Behind the skip a patch works on the skip itself, which nothing has saved yet.
        name: [Guarded(one, copies=name != AFTER_SKIP) for one in several]
        for name, several in options.get("patches", {}).items()
    }
    replaced = {
        name: {place: Guarded(one) for place, one in places.items()}
        for name, places in options.get("patches_replace", {}).items()
    }
    return {**options, "patches": patches, "patches_replace": replaced}


class Guarded:
    """A patch that gets copies of its tensors (copies), and whose own operations save copies."""

    def __init__(self, patch, *, copies: bool = True):
        self.patch, self.copies = patch, copies

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.patch(*args, **kwargs)
        if self.copies:
            made: dict[int, Tensor] = {}
            # Tensors one by one, or all by name in the first argument; a later dict holds the call's options.
            args = [_copied(one, made) if not i or isinstance(one, Tensor) else one for i, one in enumerate(args)]
            kwargs = {name: _copied(one, made) if isinstance(one, Tensor) else one for name, one in kwargs.items()}
        # Detached: an operation that saves its own result would keep itself for ever.
        with torch.autograd.graph.saved_tensors_hooks(lambda one: one.detach().clone(), lambda one: one):
            return self.patch(*args, **kwargs)


def _copied(value: Any, made: dict[int, Tensor]) -> Any:
    """A tensor's copy, one for each tensor; in a dict, copies of its tensors and of its lists of tensors alone."""
    if isinstance(value, Tensor):
        return made.setdefault(id(value), value.clone() if value.is_floating_point() else value)
    if isinstance(value, dict):
        return {name: _copied(one, made) if isinstance(one, (Tensor, list)) else one for name, one in value.items()}
    if isinstance(value, list) and all(isinstance(one, Tensor) for one in value):
        return [_copied(one, made) for one in value]
    return value
