"""A mixture of LoRAs for each batch row of a MODEL.

The mixture is added by forward hooks that live for one model call and are gone after it, whatever happens: weights are
never changed, and every clone of the model but ours samples as if we were not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from ...morphing.lora import (
    LINEAR,
    LayerMixture,
    LowRank,
    Mixing,
    Operation,
    StackedLayer,
    convolution,
    group_norm,
    layer_norm,
    rms_norm,
)
from ...morphing.schedule import Alphas
from ..batch_rows import alphas_of, rows_of
from ..family import is_unet
from .lora import read_lora

KEY = "palimpsest_lora"
NODE = "LoRA Interpolator"
# Stacked copies on the device, one a set of key pictures that a chunk of frames lies between.
_COPIES = 8
# (module, its inputs, its output) -> the output in its place.
Hook = Callable[[torch.nn.Module, tuple, Tensor], Tensor]


def interpolated(
    model,
    loras: Sequence[Mapping[str, Tensor]],
    alphas: Alphas,
    *,
    mixing: Mixing = "product",
    strength: float = 1.0,
    fixed: float | None = None,
):
    """A clone of the MODEL whose batch rows carry the mixtures of LoRAs that `alphas` says; `model` is not changed.

    loras: LORA_MODELs, one a key picture. fixed: one alpha for all rows, however many, in the place of their own.
    Raises ValueError with a sentence for LoRAs that do not fit the model, the alphas or the mixing. A strength of 0
    gives the plain clone.
    """
    if len(loras) != alphas.keyframes:
        raise ValueError(
            f"The morph has {alphas.keyframes} key pictures, but {len(loras)} LoRAs came in: connect one LoRA a key "
            "picture, in their order."
        )
    if fixed is not None and not 0.0 <= fixed <= alphas.top:
        raise ValueError(
            f"`fixed_alpha` is {fixed:g}, but the {len(loras)} LoRAs lie at 0 to {alphas.top:g}: set it to a number of "
            "that range."
        )
    read = [read_lora(model, lora, f"LoRA {place}") for place, lora in enumerate(loras)]
    layers = _mixtures(model, read, mixing, strength)
    clone = model.clone()
    if strength == 0:
        return clone
    patch = _RowLoRA(layers, alphas if fixed is None else replace(alphas, values=(fixed,)), fixed is not None)
    # UNets are wrapped where Attention Blend's chunks are already cut; not every other network can be wrapped there.
    place = WrappersMP.DIFFUSION_MODEL if is_unet(model) else WrappersMP.APPLY_MODEL
    clone.add_wrapper_with_key(place, KEY, patch.model_call)
    clone.add_callback_with_key(CallbacksMP.ON_CLEANUP, KEY, patch.release)
    return clone


class _RowLoRA:
    """The wrapper round one call of the model."""

    def __init__(self, layers: dict[str, LayerMixture], alphas: Alphas, fixed: bool):
        self.layers, self.alphas, self.fixed = layers, alphas, fixed
        self._stacked: dict[tuple, dict[str, StackedLayer]] = {}

    def model_call(self, executor, x: Tensor, *args, **kwargs):
        """Round the network, or round the host's model that holds it."""
        network = getattr(executor.class_obj, "diffusion_model", executor.class_obj)
        weights = self._weights(_options_among(args, kwargs), x.shape[0])
        keys = tuple(torch.nonzero(weights.sum(0)).flatten().tolist())
        weights = weights[:, keys].to(x.device, torch.float32)
        hooks = {name: _branch(layer, weights) for name, layer in self._on_device(keys, x).items()}
        with layer_hooks(network, hooks):
            return executor(x, *args, **kwargs)

    def _weights(self, options: dict, batch: int) -> Tensor:
        """(batch, K), each row's share of each LoRA."""
        if self.fixed:
            return self.alphas.weights().repeat(batch, 1)
        rows, groups = rows_of(options, batch, len(self.alphas), NODE)
        return alphas_of(rows, self.alphas).weights().repeat(groups, 1)

    def _on_device(self, keys: tuple[int, ...], x: Tensor) -> dict[str, StackedLayer]:
        place = (keys, x.device, x.dtype)
        if place not in self._stacked:
            if len(self._stacked) >= _COPIES:
                self._stacked.clear()
            moved = {name: layer.to(x.device, x.dtype).select(keys) for name, layer in self.layers.items()}
            self._stacked[place] = moved
        return self._stacked[place]

    def release(self, *_args) -> None:
        """After the run, or its interruption: no copy stays on the device."""
        self._stacked.clear()


def _branch(layer: StackedLayer, weights: Tensor) -> Hook:
    """The hook that adds each row's mixture to a layer's output."""
    return lambda _module, inputs, output: layer(inputs[0], output, weights)


@contextmanager
def layer_hooks(network: torch.nn.Module, hooks: Mapping[str, Hook]) -> Iterator[None]:
    """Inside, each hook is run after the layer it is named for; removed in any case."""
    handles = []
    try:
        for name, hook in hooks.items():
            handles.append(network.get_submodule(name).register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _options_among(args: tuple, kwargs: dict) -> dict:
    """The transformer options of a call, which families take in different places."""
    if isinstance(kwargs.get("transformer_options"), dict):
        return kwargs["transformer_options"]
    return next((one for one in args if isinstance(one, dict) and "cond_or_uncond" in one), {})


def _mixtures(model, read: Sequence[dict[str, dict]], mixing: Mixing, strength: float) -> dict[str, LayerMixture]:
    network = model.get_model_object("diffusion_model")
    mixtures = {}
    for layer in sorted({layer for lora in read for layer in lora}):
        found = [lora.get(layer, {}) for lora in read]
        parts = {part: [one.get(part) for one in found] for part in ("low", "full", "bias")}
        present = {part: changes for part, changes in parts.items() if any(one is not None for one in changes)}
        for part, changes in present.items():
            present[part] = [_scaled(change, strength) for change in changes]
        mixtures[layer] = LayerMixture(operation_of(network.get_submodule(layer), layer), mixing=mixing, **present)
    return mixtures


def _scaled(change: LowRank | Tensor | None, strength: float) -> LowRank | Tensor | None:
    if change is None or strength == 1.0:
        return change
    return LowRank(change.down, change.up * strength) if isinstance(change, LowRank) else change * strength


def operation_of(module: torch.nn.Module, name: str) -> Operation:
    """What a layer of the host does with its weight."""
    if isinstance(module, torch.nn.Linear):
        return LINEAR
    if isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)) and module.groups == 1:
        geometry = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}
        return convolution(module.weight.ndim - 2, **geometry)
    if isinstance(module, torch.nn.LayerNorm):
        return layer_norm(module.normalized_shape, module.eps)
    if isinstance(module, torch.nn.RMSNorm):
        return rms_norm(module.normalized_shape, module.eps)
    if isinstance(module, torch.nn.GroupNorm):
        return group_norm(module.num_groups, module.eps)
    raise ValueError(
        f"The LoRAs change the layer {name} ({type(module).__name__}), which cannot be mixed per frame: use LoRAs of "
        "the linear and convolution layers, such as LoRA Fit makes."
    )
