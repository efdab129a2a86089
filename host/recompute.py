"""Backward that runs layers again: blocks, to need less memory, and layers whose weights are with it for a call only.

Where a model does not fit on the device, the host casts each offloaded weight into a buffer that the next layer
overwrites; under dynamic VRAM a weight may be evicted as soon as its layer has run. What autograd saved is then gone,
in the second case without a warning. Such a layer runs without a graph, and runs again in backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, UNetModel
from torch import Tensor
from torch.utils.checkpoint import checkpoint


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


def blocks(network: torch.nn.Module) -> list[torch.nn.Module]:
    """The residual and transformer blocks of a UNet; of another network, the elements of its lists of blocks."""
    if isinstance(network, UNetModel):
        return [part for part in network.modules() if isinstance(part, (ResBlock, BasicTransformerBlock))]
    lists = [part for part in network.children() if isinstance(part, torch.nn.ModuleList)]
    return [block for part in lists for block in part]


def _own(value: Any) -> Any:
    """What a block may change without harm to its second run: transformers add to their stream in place, and the
    host's options name each block's place."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_floating_point() else value
    return dict(value) if isinstance(value, dict) else value


def _in_two_runs(forward: Callable) -> Callable:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        args, kwargs = [_first(one) for one in args], {key: _first(one) for key, one in kwargs.items()}

        def again(*args: Any, **kwargs: Any) -> Any:
            return forward(*(_own(one) for one in args), **{key: _own(one) for key, one in kwargs.items()})

        # The same random numbers in both runs: a patch may draw some (the stock HyperTile cuts at random).
        return checkpoint(again, *args, use_reentrant=False, preserve_rng_state=True, **kwargs)

    return run


def _first(value: Any) -> Any:
    """Options as they are at the time of the first run; later blocks write into the same dict."""
    return dict(value) if isinstance(value, dict) else value


def checkpointed(network: torch.nn.Module):
    """Context manager: inside, backward through `network` needs memory for one block at a time, and a third more time.

    network: `session.model.diffusion_model`, for example. Patches inside the blocks are called once in forward and
    once more in backward, with the same options.
    """
    return replaced_forwards(blocks(network), _in_two_runs)


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


def repeated(layers: Iterable[torch.nn.Module]):
    """Context manager: inside, backward through each of `layers` runs the layer again."""
    return replaced_forwards(layers, _repeating)


@contextmanager
def recomputed_where_offloaded(patcher) -> Iterator[None]:
    """`repeated` over the layers of a loaded ModelPatcher whose weights are offloaded; nothing where none is."""
    layers = [layer for layer in patcher.model.modules() if is_offloaded(layer, patcher.load_device)]
    with repeated(layers):
        yield
