"""Gradients through models that stock nodes loaded under `torch.inference_mode`, with nothing left behind.

Three traps lie in wait there: weights made in inference mode cannot be saved for backward (`normalise`), the host may
lend weights for the length of one layer only (`recompute.py`), and some operations of the host have no backward at all
(`differentiable_options`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.ldm.modules.attention as host_attention
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor

from .recompute import recomputed_where_offloaded

OVERRIDE = "optimized_attention_override"
AFTER_SKIP = "input_block_patch_after_skip"


def plain(tensor: Tensor) -> Tensor:
    """The same values in the same memory, as a tensor that autograd may save; a plain tensor is returned as it is."""
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


def normalise(module: torch.nn.Module) -> None:
    """Makes the weights and buffers of `module` fit for autograd, and keeps gradients off them. Idempotent.

    The weights keep their memory (no copy, no clone's second model): only the tensor objects are renewed, so every
    clone of the model shares the change and sampling is unaffected. To be called after the model is on its device,
    and before every gradient run: loading and unpatching bring inference tensors back.
    """
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is None:
                continue
            if parameter.is_inference() and type(parameter) is torch.nn.Parameter:
                part._parameters[name] = torch.nn.Parameter(plain(parameter.detach()), requires_grad=False)
            elif parameter.requires_grad:
                parameter.requires_grad_(False)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None and buffer.is_inference() and type(buffer) is Tensor:
                part._buffers[name] = plain(buffer)
        for adapter in injected_adapters(part):
            _normalise_adapter(adapter)


def injected_adapters(layer: torch.nn.Module) -> Iterator[Any]:
    """The LoRA adapters that stand in a layer's forward (the host's bypass mode); they are no submodules of it."""
    forward = layer.__dict__.get("forward")
    while forward is not None:
        hook = getattr(forward, "__self__", None)
        adapter = getattr(hook, "adapter", None)
        if adapter is None:
            return
        yield adapter
        forward = getattr(hook, "original_forward", None)


def _normalise_adapter(adapter: Any) -> None:
    """As `normalise`, but a trainable adapter keeps its wish for gradients."""
    if isinstance(adapter, torch.nn.Module):
        for part in adapter.modules():
            for name, parameter in list(part._parameters.items()):
                if parameter is not None and parameter.is_inference():
                    wish = parameter.requires_grad
                    part._parameters[name] = torch.nn.Parameter(plain(parameter.detach()), requires_grad=wish)
    elif isinstance(getattr(adapter, "weights", None), (tuple, list)):
        kind = type(adapter.weights)
        adapter.weights = kind(plain(one) if isinstance(one, Tensor) else one for one in adapter.weights)


def detached(value: Any) -> Any:
    """Every tensor in nested tuples, lists and dicts cut from its graph, so that no cache keeps a graph alive."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(detached(one) for one in value))
    if isinstance(value, (tuple, list)):
        return type(value)(detached(one) for one in value)
    if isinstance(value, dict):
        return {key: detached(one) for key, one in value.items()}
    return value


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


def differentiable_options(model_options: dict) -> dict:
    """A copy of `model_options` in which attention has a backward, and a ControlNet's in-place additions cannot harm.

    The UNet adds a ControlNet's output in place to the skip it has stored; the clone after each input block keeps
    the tensor that the next block saves for backward apart from the stored one.
    """
    options = comfy.model_patcher.create_model_options_clone(model_options)
    transformer = options.setdefault("transformer_options", {})
    transformer[OVERRIDE] = differentiable_attention(transformer.get(OVERRIDE))
    patches = transformer.setdefault("patches", {})
    patches[AFTER_SKIP] = [*patches.get(AFTER_SKIP, ()), lambda h, _: h.clone()]
    return options


@contextmanager
def _host_with_backward() -> Iterator[None]:
    """The host's own switch for training (fused kernels without a backward off), and SDPA where it asks for "the
    best attention" without passing options on, as in the ControlNets of UNets."""
    management = comfy.model_management
    training = management.in_training
    chosen = {name: getattr(host_attention, name) for name in ("optimized_attention", "optimized_attention_masked")}
    try:
        management.in_training = True
        for name in chosen:
            setattr(host_attention, name, host_attention.attention_pytorch)
        yield
    finally:
        management.in_training = training
        for name, function in chosen.items():
            setattr(host_attention, name, function)


@contextmanager
def _kept_flags(modules: list[torch.nn.Module]) -> Iterator[None]:
    """Weights that asked for gradients before do so afterwards (nothing in the host minds, but nothing is left)."""
    wanted = [
        (part, name)
        for module in modules
        for part in module.modules()
        for name, parameter in part._parameters.items()
        if parameter is not None and parameter.requires_grad
    ]
    try:
        yield
    finally:
        for part, name in wanted:
            parameter = part._parameters.get(name)
            if parameter is not None and not parameter.is_inference():
                parameter.requires_grad_(True)


@contextmanager
def _kept_hooked_weights(patchers: Sequence) -> Iterator[None]:
    """Hooks on conditioning rewrite weights in place between two calls: backward gets a copy of what forward read."""
    storages = set()
    for patcher in patchers:
        for key in {key for patches in getattr(patcher, "hook_patches", {}).values() for key in patches}:
            storages.add(comfy.utils.get_attr(patcher.model, key).untyped_storage().data_ptr())
    if not storages:
        yield
        return

    def pack(tensor: Tensor) -> Tensor:
        return tensor.clone() if tensor.untyped_storage().data_ptr() in storages else tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


def _apart(_module: torch.nn.Module, args: tuple) -> tuple:
    """Forward pre-hook: the layer saves a copy of its input, which others may go on to change."""
    return tuple(one.clone() if isinstance(one, Tensor) and one.requires_grad else one for one in args)


@contextmanager
def _kept_streams(module: torch.nn.Module) -> Iterator[None]:
    """Transformers such as Flux add to their token stream in place after a norm has saved it for backward.

    The copies cost what additions out of place would cost. UNets do without.
    """
    network = getattr(module, "diffusion_model", None)
    handles = []
    try:
        if network is not None and not isinstance(network, UNetModel):
            norms = [
                part for part in network.modules() if type(part).__name__.endswith("Norm") and not any(part.children())
            ]
            handles = [part.register_forward_pre_hook(_apart) for part in norms]
        yield
    finally:
        for handle in handles:
            handle.remove()


def require_one_device(patcher) -> None:
    """Raises ValueError where a MODEL is spread over several GPUs, whose parts the host runs without gradients."""
    if patcher.additional_models.get("multigpu"):
        raise ValueError(
            "Gradients do not cross several GPUs: connect the model from before its Multi-GPU node to this node."
        )


@contextmanager
def gradients_through(patchers: Sequence, modules: Sequence[torch.nn.Module] = ()) -> Iterator[None]:
    """Inside, gradients flow through the *loaded* models of `patchers` (host ModelPatchers) to their inputs.

    Inference mode is off and gradients are on; weights never get any. Afterwards the models serve stock nodes.
    modules: further networks that run meanwhile without gradients, such as a ControlNet's own VAE.
    """
    networks = [*(patcher.model for patcher in patchers), *modules]
    with ExitStack() as stack:
        stack.enter_context(_kept_flags(networks))
        for network in networks:
            normalise(network)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_host_with_backward())
        stack.enter_context(_kept_hooked_weights(patchers))
        for patcher in patchers:
            stack.enter_context(_kept_streams(patcher.model))
            stack.enter_context(recomputed_where_offloaded(patcher))
        yield


@contextmanager
def gradient_scope(*patchers, memory: float = 0.0) -> Iterator[None]:
    """Loads `patchers` together (separate calls may evict each other) and lets gradients flow through them.

    memory: bytes that the forward and backward pass need beside the weights; the host makes room for them.
    For the diffusion model itself use `with_denoiser(..., gradients=True)`.
    """
    comfy.model_management.load_models_gpu(list(patchers), memory_required=memory)
    with gradients_through(list(patchers)):
        yield
