"""A mixture of LoRAs for each batch row of a MODEL.

The mixture is added by forward hooks that live for one model call and are removed after it, whatever happens. Weights
are never changed, and every clone of the model but ours samples as if we were not there. The LoRAs lie on the CPU; what
a run copies to the device is counted when the host makes room for the run. A call that does not fit into memory is cut
into chunks of rows, with the same result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from ...morphing.lora import (
    LINEAR,
    Composed,
    Full,
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
from ..batch_rows import PLAN, Rows, alphas_of, count_pictures, rows_of
from ..family import diffusion_model, is_unet
from ..network_calls import run_uncompiled
from .attention_blend import KEY as BLEND
from .lora import is_linear, read_lora
from .row_chunks import RESERVED, Limits, RowChunks

KEY = "palimpsest_lora"
NODE = "LoRA Interpolator"
# More rows than any batch has.
_WHOLE = 2**31
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
    """A clone of the MODEL whose batch rows have the mixtures of LoRAs that `alphas` gives; `model` is not changed.

    loras: LORA_MODELs, one a key picture. fixed: one alpha for all rows, however many, in the place of their own.
    Raises ValueError for LoRAs that do not fit the model, the alphas or the mixing. A strength of 0 gives the plain
    clone.
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
    # UNets get their hooks inside all chunks, Attention Blend's too; not every other network can be wrapped there.
    if is_unet(model):
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, patch.chunked_call)
        clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, patch.model_call)
    else:
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, patch.chunked_model_call)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, patch.outer_sample)
    clone.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, patch.more_memory)
    clone.add_callback_with_key(CallbacksMP.ON_CLEANUP, KEY, patch.release)
    return clone


class _RowLoRA:
    """The wrapper round one call of the model. Between calls it keeps the copies of the LoRAs on the device."""

    def __init__(self, layers: dict[str, LayerMixture], alphas: Alphas, fixed: bool):
        self.layers, self.alphas, self.fixed = layers, alphas, fixed
        # A fixed mixture serves batches whose rows belong together, which are cut only where memory has run out.
        self.chunks, self.limits = RowChunks(_WHOLE if fixed else 0), f"{KEY}_{id(self):x}"
        self._stacked: dict[tuple, dict[str, StackedLayer]] = {}

    def outer_sample(self, executor, noise, *args, **kwargs):
        """The host's whole sampling run, whose options keep how many pictures it has and how many rows fit."""
        run_uncompiled(executor.class_obj, NODE)
        options = executor.class_obj.model_options
        count_pictures(options, noise.shape[0])
        options["transformer_options"][self.limits] = Limits()
        return executor(noise, *args, **kwargs)

    def more_memory(self, executor, model, noise_shape, conds, *args, **kwargs):
        """The host's preparation of a run: its estimate of what the run takes counts the LoRAs, as further rows."""
        extra = self.stored_bytes(model.model.get_dtype_inference())
        row = max(1.0, model.model.memory_required([1, *noise_shape[1:]]))
        rows = noise_shape[0] + math.ceil(extra / row)
        return executor(model, [rows, *noise_shape[1:]], conds, *args, **kwargs)

    def stored_bytes(self, dtype: torch.dtype) -> int:
        """What all LoRAs take on the device."""
        return sum(layer.stored_bytes(dtype) for layer in self.layers.values())

    def chunked_call(self, executor, *args, **kwargs):
        """Round the host's model: the call whole, or in chunks of rows."""
        return self._in_chunks(executor, executor, *args, **kwargs)

    def chunked_model_call(self, executor, *args, **kwargs):
        """`chunked_call`, and `model_call` in each chunk."""
        return self._in_chunks(executor, partial(self.model_call, executor), *args, **kwargs)

    def _in_chunks(
        self, executor, model_call, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **kw
    ):
        """Each chunk has its rows in its options. Where Attention Blend is on the model it cuts the call itself, since
        its chunks contain the key pictures that they read."""
        reserved = transformer_options.get(RESERVED, 0) + self._missing_bytes(executor.class_obj)
        options = {**transformer_options, RESERVED: reserved}
        if BLEND in options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {}):
            return model_call(x, t, c_concat, c_crossattn, control, options, **kw)
        rows, groups = self._rows(options, x.shape[0])

        def call(part: Rows, x, t, c_concat, c_crossattn, control, **kw):
            mine = {**limits.without_caches(options), PLAN: part} if len(part) < len(rows) else options
            return model_call(x, t, c_concat, c_crossattn, control, mine, **kw)

        inputs = {"x": x, "t": t, "c_concat": c_concat, "c_crossattn": c_crossattn, "control": control, **kw}
        limits = options.get(self.limits) or Limits()
        return self.chunks.run(executor.class_obj, call, rows, groups, {}, inputs, limits, reserved)

    def _missing_bytes(self, model) -> float:
        """What of the LoRAs is still to be copied to the device; model: the host's BaseModel."""
        copied = min(self.alphas.keyframes, sum(len(keys) for keys, *_ in self._stacked))
        return self.stored_bytes(model.get_dtype_inference()) * (1 - copied / self.alphas.keyframes)

    def model_call(self, executor, x: Tensor, *args, **kwargs):
        """Round the network, or round the host's model around it."""
        network = getattr(executor.class_obj, "diffusion_model", executor.class_obj)
        weights = self._weights(_options_among(args, kwargs), x.shape[0])
        keys = tuple(torch.nonzero(weights.sum(0)).flatten().tolist())
        weights = weights[:, keys].to(x.device, torch.float32)
        hooks = {name: _branch(layer, weights) for name, layer in self._on_device(keys, x).items()}
        with layer_hooks(network, hooks):
            return executor(x, *args, **kwargs)

    def _rows(self, options: dict, batch: int) -> tuple[Rows, int]:
        """The rows of a group, and the number of groups; with a fixed mixture as many rows as there are."""
        if not self.fixed:
            return rows_of(options, batch, len(self.alphas), NODE)
        groups = len(options.get("cond_or_uncond") or (0,))
        groups = groups if batch % groups == 0 else 1
        plan = options.get(PLAN, ())
        return (plan if len(plan) * groups == batch else tuple(range(batch // groups))), groups

    def _weights(self, options: dict, batch: int) -> Tensor:
        """(batch, K), the fraction of each LoRA in each row."""
        if self.fixed:
            return self.alphas.weights().repeat(batch, 1)
        rows, groups = rows_of(options, batch, len(self.alphas), NODE)
        return alphas_of(rows, self.alphas).weights().repeat(groups, 1)

    def _on_device(self, keys: tuple[int, ...], x: Tensor) -> dict[str, StackedLayer]:
        """The LoRAs of these key pictures on the device; of all copies no more than every LoRA once."""
        place = (keys, x.device, x.dtype)
        if place not in self._stacked:
            if sum(len(known) for known, *_ in self._stacked) + len(keys) > self.alphas.keyframes:
                self._stacked.clear()
            stacked = {name: layer.select(keys).to(x.device, x.dtype) for name, layer in self.layers.items()}
            self._stacked[place] = stacked
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
    return next((one for one in args if isinstance(one, dict) and ("cond_or_uncond" in one or PLAN in one)), {})


def _mixtures(model, read: Sequence[dict[str, dict]], mixing: Mixing, strength: float) -> dict[str, LayerMixture]:
    network = diffusion_model(model)
    mixtures = {}
    for layer in sorted({layer for lora in read for layer in lora}):
        found = [lora.get(layer, {}) for lora in read]
        parts = {part: [one.get(part) for one in found] for part in ("low", "full", "bias")}
        present = {part: changes for part, changes in parts.items() if any(one is not None for one in changes)}
        for part, changes in present.items():
            present[part] = [_scaled(change, strength) for change in changes]
        mixtures[layer] = LayerMixture(operation_of(network.get_submodule(layer), layer), mixing=mixing, **present)
    return mixtures


def _scaled(change: LowRank | Full | None, strength: float) -> LowRank | Full | None:
    if change is None or strength == 1.0:
        return change
    if isinstance(change, Composed):
        return change.scaled(strength)
    return LowRank(change.down, change.up * strength) if isinstance(change, LowRank) else change * strength


def operation_of(module: torch.nn.Module, name: str) -> Operation:
    """What a layer of the host does with its weight."""
    if is_linear(module):
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
