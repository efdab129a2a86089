"""Attention that always has a backward: where the options of a call reach it, and in ControlNets, where they do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.ldm.modules.attention as host_attention
import torch
from torch import Tensor


def differentiable_attention(previous=None):
    """An attention override that always has a backward. previous: the override found in its place, honoured.

    The host's own choice may be one for inference only (sage, flash), or may write in place when memory is short.
    """

    def override(function, *args: Any, **kwargs: Any) -> Tensor:
        if previous is None:
            return host_attention.attention_pytorch(*args, **kwargs)
        out = previous(host_attention.attention_pytorch, *args, **kwargs)
        wanted = torch.is_grad_enabled() and any(isinstance(one, Tensor) and one.requires_grad for one in args[:3])
        return host_attention.attention_pytorch(*args, **kwargs) if wanted and not out.requires_grad else out

    return override


class ControlAttention:
    """Attention with a backward inside ControlNets, which pass no options on, while they run and no longer.

    Modules that ask for "the best attention" find it under two names of the host's module; what another has put there
    meanwhile stays.
    """

    NAMES = ("optimized_attention", "optimized_attention_masked")

    def __init__(self, networks: Sequence[torch.nn.Module]):
        self.networks, self.found, self.depth = networks, {}, 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        handles = [one.register_forward_pre_hook(self._enter) for one in self.networks]
        handles += [one.register_forward_hook(self._leave, always_call=True) for one in self.networks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._restore()

    def _enter(self, *_: Any) -> None:
        self.depth += 1
        if self.depth == 1 and torch.is_grad_enabled():
            self.found = {name: getattr(host_attention, name) for name in self.NAMES}
            for name in self.NAMES:
                setattr(host_attention, name, _attention_with_backward)

    def _leave(self, *_: Any) -> None:
        self.depth -= 1
        if self.depth == 0:
            self._restore()

    def _restore(self) -> None:
        for name, function in self.found.items():
            if getattr(host_attention, name) is _attention_with_backward:
                setattr(host_attention, name, function)
        self.found, self.depth = {}, 0


def _attention_with_backward(*args: Any, **kwargs: Any) -> Tensor:
    return host_attention.attention_pytorch(*args, **kwargs)
