"""Model calls that reach the network: step caches and compiled copies are left out, and every call is counted.

A step cache answers some calls with what it kept of earlier ones. A compiled network answers with the graph of its
first run: the host compiles it without guards on the options of a call, so that a patch which comes or goes later is
not seen. Neither serves where the attention, the features or the gradients of each call are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .notify import notify

KEY = "palimpsest_calls"
# The key of a stock node's wrappers -> the node.
STEP_CACHES = {"easycache": "EasyCache", "lazycache": "LazyCache"}
COMPILED = "torch.compile"
SKIPPED = (
    "The model answered a call without running its network, and every call is needed here: take the node that caches "
    "or skips steps off the model."
)
NO_GRADIENT = (
    "No gradient comes back through this model: take nodes off it that cut it into tiles or windows, cache it or run "
    "it without gradients."
)
# Kind of wrapper -> key -> wrappers, as the host keeps them.
Wrappers = dict[str, dict[str, list]]


def leave_out(*several: Wrappers) -> None:
    """Takes step caches and the host's `torch.compile` out of the wrappers of a run of our own, and says so."""
    for key, name in STEP_CACHES.items():
        if _taken_out(several, key):
            notify(f"{name} skips model calls and this node needs every one, so {name} is left out here.")
    if _taken_out(several, COMPILED):
        notify("This node works inside the network, so it runs the model uncompiled.")


def without_caches(transformer_options: dict) -> tuple[dict, list[str]]:
    """A copy of one call's options without the stock step caches, and the nodes of those that were there."""
    wrappers = {kind: dict(keyed) for kind, keyed in transformer_options.get("wrappers", {}).items()}
    names = [name for key, name in STEP_CACHES.items() if _taken_out([wrappers], key)]
    return {**transformer_options, "wrappers": wrappers}, names


def require_every_call(guider, who: str) -> None:
    """For an OUTER_SAMPLE wrapper: raises ValueError where a stock step cache stands in the run."""
    wrappers = wrappers_of(guider.model_options)
    for key, name in STEP_CACHES.items():
        if any(kind.get(key) for kind in wrappers.values()):
            raise ValueError(f"{who} needs every model call, and {name} skips some: take {name} off the model.")


def run_uncompiled(guider, who: str) -> None:
    """For an OUTER_SAMPLE wrapper: the run goes on without the host's `torch.compile`, and says so.

    Raises ValueError where another node has put a compiled network in the network's place.
    """
    if is_compiled(guider.model_patcher):
        raise ValueError(
            f"{who} works inside the network, and this model's is compiled: take the node that compiles it off the "
            "model."
        )
    if _taken_out([wrappers_of(guider.model_options)], COMPILED):
        notify(f"{who} works inside the network, so the model runs uncompiled.")


def is_compiled(model) -> bool:
    """Whether a compiled network stands in the place of a MODEL's own."""
    return hasattr(model.object_patches.get("diffusion_model"), "_orig_mod")


def wrappers_of(model_options: dict) -> Wrappers:
    """The wrappers in a run's own options, to be changed."""
    return model_options.setdefault("transformer_options", {}).setdefault("wrappers", {})


def _taken_out(several: Iterable[Wrappers], key: str) -> bool:
    """Removes the wrappers of every kind under `key`; returns whether there were any."""
    found = [kind.pop(key, None) for wrappers in several for kind in wrappers.values()]
    return any(found)


class NetworkCalls:
    """reached: how many calls of the network a run has seen. Raises ValueError where a model call reached none.

    Networks that know no DIFFUSION_MODEL wrappers are counted at their own entrance.
    """

    def __init__(self, network: torch.nn.Module, *, gradients: bool = False):
        """gradients: raises ValueError, too, where a call with something to differentiate returns no graph."""
        self.network, self.gradients, self.reached, self._entered = network, gradients, 0, 0
        self._wrappable = isinstance(network, UNetModel)

    @contextmanager
    def counted(self, model_options: dict) -> Iterator[None]:
        """Inside, calls with these options, a run's own copy, are counted."""
        wrappers = wrappers_of(model_options)
        # The first wrapper is the outermost and the last the innermost.
        outer, inner = wrappers.get(WrappersMP.APPLY_MODEL, {}), wrappers.get(WrappersMP.DIFFUSION_MODEL, {})
        wrappers[WrappersMP.APPLY_MODEL] = {KEY: [self._model_call], **outer}
        graph = {f"{KEY}_graph": [_with_graph]} if self.gradients else {}
        wrappers[WrappersMP.DIFFUSION_MODEL] = {**graph, **inner, KEY: [self._network_call]}
        handle = self.network.register_forward_pre_hook(self._enter)
        try:
            yield
        finally:
            handle.remove()

    def _model_call(self, executor, *args: Any, **kwargs: Any) -> Tensor:
        reached, entered = self.reached, self._entered
        out = executor(*args, **kwargs)
        if not self._wrappable:
            self.reached += self._entered - entered
        if self.reached == reached:
            raise ValueError(SKIPPED)
        return out

    def _network_call(self, executor, *args: Any, **kwargs: Any) -> Any:
        self.reached, self._wrappable = self.reached + 1, True
        return executor(*args, **kwargs)

    def _enter(self, *_: Any) -> None:
        self._entered += 1


def _with_graph(executor, *args: Any, **kwargs: Any) -> Any:
    """Outermost DIFFUSION_MODEL wrapper: what goes in with a gradient comes out with one."""
    out = executor(*args, **kwargs)
    if isinstance(out, Tensor) and any(isinstance(one, Tensor) and one.requires_grad for one in args):
        require_graph(out)
    return out


def require_graph(*outputs: Tensor) -> None:
    """Raises ValueError where gradients are on and none of the predictions carries one."""
    if torch.is_grad_enabled() and not any(one.requires_grad for one in outputs):
        raise ValueError(NO_GRADIENT)
