"""What a morph takes: model calls, and what a run keeps from one call to the next."""

from __future__ import annotations

import gc
from collections.abc import Sequence

from torch import Tensor

from ...morphing.schedule import Alphas
from .methods import Keys, MorphRun, Stage


class Counter:
    """Counts what a MODEL is asked: `calls`, and `rows` of all calls together. `model` is the counted clone."""

    def __init__(self, model):
        from comfy.patcher_extension import WrappersMP

        self.calls = self.rows = 0
        self.model = model.clone()
        self.model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "count", self._call)

    def _call(self, executor, x, *args, **kwargs):
        self.calls += 1
        self.rows += x.shape[0]
        return executor(x, *args, **kwargs)


def kept_between_calls(keys: Keys, places: Sequence[int], alphas: Alphas, stage: Stage) -> int:
    """Bytes of tensors by which a sampling run grows from its second model call on; before the second, the weights of
    the LoRAs are put together, once a run.
    """
    from comfy.patcher_extension import WrappersMP

    alive: list[int] = []

    def call(executor, x, *args, **kwargs):
        alive.append(living())
        return executor(x, *args, **kwargs)

    model = keys.model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "alive", call)
    MorphRun(keys.on(model), places).sampled(alphas, stage, keys.settings.steps)
    return max(alive[1:]) - alive[1]


def living() -> int:
    """Bytes of all tensors alive in Python, each storage once."""
    gc.collect()
    found = [one for one in gc.get_objects() if issubclass(type(one), Tensor) and one.device.type != "meta"]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in found}.values())
