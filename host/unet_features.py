"""What chosen layers of a UNet put out, read from the forward pass that runs anyway."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor

from .attention.blocks import unet_blocks

Keep = Callable[[str, Tensor], "Tensor | None"]


class EnoughSeen(Exception):
    """Ends a forward pass behind the last layer that is read; caught where it was asked for, never shown."""


def sketch_layers(network: UNetModel) -> dict[str, torch.nn.Module]:
    """Every place that can be read, in the order of the forward pass -> the layer whose output it is."""
    found: dict[str, torch.nn.Module] = {}
    for (side, number), layers in unet_blocks(network).items():
        chosen = enumerate(layers) if side == "middle" else [(number, layers[-1])]
        found.update({f"{side}.{i}": layer for i, layer in chosen})
    return found


@contextmanager
def reading(network: UNetModel, taps: Sequence[str], keep: Keep) -> Iterator[None]:
    """Calls keep(name, output) for each tapped layer of every forward pass inside; what it returns, if not None, takes
    the place of the output. The hooks are removed in any case."""
    layers = sketch_layers(network)
    handles = []
    try:
        for name in taps:
            handles.append(layers[name].register_forward_hook(lambda _m, _a, out, name=name: keep(name, out)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def require_whole(given: Tensor, shape: Sequence[int], technique: str) -> None:
    """Raises ValueError where a model is given something else than the batch of latents of `shape` (B, C, h, w)."""
    if given.shape[0] != shape[0] or tuple(given.shape[-2:]) != tuple(shape[-2:]):
        raise ValueError(
            f"The model sees the picture or the batch in parts, where {technique} needs it whole: connect the model "
            "from before the node that cuts it (tiled diffusion, context windows)."
        )


def read_features(
    network: UNetModel,
    taps: Sequence[str],
    evaluate: Callable[[], object],
    shape: Sequence[int],
    technique: str,
) -> list[Tensor]:
    """The features of one forward pass without gradients, cut off behind the last tap.

    evaluate: runs the model on a latent of `shape` (B, C, h, w), for `technique`. Raises ValueError where the model is
    given anything else, runs more than once or not to the last tap.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str, out: Tensor) -> None:
        if name in seen:
            raise ValueError(
                "The model ran more than once for one prediction: use a conditioning with a single entry that covers "
                "the whole picture."
            )
        # A patch on the next block may write into what this one put out.
        seen[name] = out.clone()
        if len(seen) == len(taps):
            raise EnoughSeen

    first = network.register_forward_pre_hook(lambda _m, arguments: require_whole(arguments[0], shape, technique))
    with reading(network, taps, keep):
        try:
            evaluate()
        except EnoughSeen:
            pass
        finally:
            first.remove()
    if len(seen) != len(taps):
        raise ValueError(
            "The model was not asked for its features: take nodes that skip or cache parts of the network out of the "
            "model's line."
        )
    return [seen[name] for name in taps]
