"""Layers whose weights the host only lends: their backward asks for the weights again.

Where a model does not fit on the device, the host casts each offloaded weight into a buffer that the next layer
overwrites; under dynamic VRAM a weight may be evicted as soon as its layer has run. What autograd saved is then
gone, in the second case without a notice. Such a layer is run without a graph, and run again in backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class _Again(torch.autograd.Function):
    """y = forward(x), with the layer's own forward repeated in backward, while its weights are at hand."""

    @staticmethod
    def forward(ctx, x: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer = forward
        with torch.no_grad():
            return forward(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        # The copies outlive the loan by the one step that needs them.
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            x = x.detach().requires_grad_(True)
            y = ctx.layer(x)
        (result,) = torch.autograd.grad(y, x, grad)
        return result, None


def is_offloaded(layer: torch.nn.Module, device: torch.device) -> bool:
    """Whether a layer's weights come to `device` for the length of its call only."""
    if isinstance(layer, torch.nn.Embedding) or not hasattr(layer, "comfy_cast_weights"):
        return False
    if hasattr(layer, "_v"):
        return True
    weight = getattr(layer, "weight", None)
    return isinstance(weight, Tensor) and bool(layer.comfy_cast_weights) and weight.device != device


def _repeating(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not (torch.is_grad_enabled() and isinstance(x, Tensor) and x.requires_grad):
            return forward(x, *args, **kwargs)
        return _Again.apply(x, lambda again: forward(again, *args, **kwargs))

    return run


@contextmanager
def replaced_forwards(layers: Iterable[torch.nn.Module], wrap: Callable[[Callable], Callable]) -> Iterator[None]:
    """Inside, each layer's `forward` is `wrap(forward)`; what stood there before is put back in any case."""
    changed = []
    try:
        for layer in layers:
            before = layer.__dict__.get("forward")
            ours = wrap(layer.forward)
            changed.append((layer, before, ours))
            layer.forward = ours
        yield
    finally:
        for layer, before, ours in reversed(changed):
            if layer.__dict__.get("forward") is not ours:
                continue
            if before is None:
                del layer.forward
            else:
                layer.forward = before


def repeated(layers: Iterable[torch.nn.Module]):
    """Context manager: inside, backward through each of `layers` runs the layer again."""
    return replaced_forwards(layers, _repeating)


@contextmanager
def recomputed_where_offloaded(patcher) -> Iterator[None]:
    """`repeated` over the layers of a loaded ModelPatcher whose weights are lent; nothing where all are resident."""
    layers = [layer for layer in patcher.model.modules() if is_offloaded(layer, patcher.load_device)]
    with repeated(layers):
        yield
