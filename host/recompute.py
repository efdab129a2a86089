"""Backward in less memory: the blocks of a network keep their inputs only, and are run again when their turn comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, UNetModel
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .offloaded_weights import replaced_forwards


def blocks(network: torch.nn.Module) -> list[torch.nn.Module]:
    """The residual and transformer blocks of a UNet; of another network, the elements of its lists of blocks."""
    if isinstance(network, UNetModel):
        return [part for part in network.modules() if isinstance(part, (ResBlock, BasicTransformerBlock))]
    lists = [part for part in network.children() if isinstance(part, torch.nn.ModuleList)]
    return [block for part in lists for block in part]


def _own(value: Any) -> Any:
    """What a block may change without harm to its second run: transformers add to their stream in place, and the
    host's options tell each block its place."""
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

        return checkpoint(again, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

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
