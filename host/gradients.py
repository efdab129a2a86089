"""Gradients through models that stock nodes loaded under `torch.inference_mode`, with nothing left behind.

Three traps lie in wait there. Weights made in inference mode cannot be saved for backward (`normalise`). Offloaded
weights are on the device for one layer's call only (`recompute.py`). And some operations of the host and of other
people's patches have no backward, or break that of others (`differentiable_options`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .conds import controls
from .differentiable_attention import ControlAttention, differentiable_attention
from .foreign_patches import AFTER_SKIP, guard_cfg, guarded_patches
from .recompute import recomputed_where_offloaded

KEY = "palimpsest_gradients"
OVERRIDE = "optimized_attention_override"


def plain(tensor: Tensor) -> Tensor:
    """The same values in the same memory, as a tensor that autograd may save; a plain tensor is returned as it is."""
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        if is_traceable_wrapper_subclass(tensor):  # a quantised weight and its scales
            names, rest = tensor.__tensor_flatten__()
            parts = {name: plain(getattr(tensor, name)) for name in names}
            return type(tensor).__tensor_unflatten__(parts, rest, tensor.size(), tensor.stride())
        alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


def normalise(module: torch.nn.Module) -> None:
    """Makes the weights and buffers of `module` fit for autograd, and keeps gradients off them. Idempotent.

    The weights keep their memory (no copy, no clone's second model): only the tensor objects are renewed, so every
    clone of the model has the change too, and sampling is unaffected. To be called after the model is on its device,
    and before every gradient run: loading and unpatching bring inference tensors back.
    """
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is None:
                continue
            if parameter.is_inference() and type(parameter) is torch.nn.Parameter:
                part._parameters[name] = torch.nn.Parameter(plain(parameter.detach()), requires_grad=False)
            elif parameter.is_inference() and is_traceable_wrapper_subclass(parameter):
                with torch.inference_mode(False):
                    part._parameters[name] = torch.nn.Parameter(plain(parameter), requires_grad=False)
            elif parameter.requires_grad:
                parameter.requires_grad_(False)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None and buffer.is_inference() and type(buffer) is Tensor:
                part._buffers[name] = plain(buffer)
        for adapter in injected_adapters(part):
            _normalise_adapter(adapter)


def injected_adapters(layer: torch.nn.Module) -> Iterator[Any]:
    """The LoRA adapters that stand in a layer's forward (the host's bypass mode); they are no submodules of it.

    The host keeps no list of them: they are found by the bound methods that it puts in the place of `forward`.
    """
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


def differentiable_options(model_options: dict) -> dict:
    """A copy of `model_options` in which attention has a backward, and what others write in place does no harm."""
    options = comfy.model_patcher.create_model_options_clone(model_options)
    guard_cfg(options)
    # Innermost: conditionings and hooks have added their patches by then.
    add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _differentiable_call, options, is_model_options=True)
    return options


def _differentiable_call(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **more):
    options = differentiable_call_options(transformer_options)
    return executor(x, t, c_concat, c_crossattn, control, options, **more)


def differentiable_call_options(transformer_options: dict) -> dict:
    """A copy of one call's options, as `differentiable_options` promises.

    The UNet adds a ControlNet's output in place to the skip it has stored; the clone after each input block keeps
    the tensor that the next block saves for backward apart from the stored one.
    """
    options = guarded_patches(transformer_options)
    options[OVERRIDE] = differentiable_attention(options.get(OVERRIDE))
    patches = options["patches"]
    patches[AFTER_SKIP] = [*patches.get(AFTER_SKIP, ()), lambda h, _: h.clone()]
    return options


@contextmanager
def _in_training() -> Iterator[None]:
    """The host's own switch for training, by which fused kernels without a backward are left out."""
    management = comfy.model_management
    before = management.in_training
    try:
        management.in_training = True
        yield
    finally:
        management.in_training = before


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


def _no_view(_module: torch.nn.Module, _args: tuple, output: Tensor) -> Tensor:
    """Forward hook: autograd lets nothing write in place to a view that a function of the host's own gives out."""
    return output.clone() if output.requires_grad and output._base is not None else output


@contextmanager
def _kept_streams(module: torch.nn.Module) -> Iterator[None]:
    """Transformers such as Flux add to their token stream in place after a norm has saved it for backward, and to what
    a quantised layer gives out.

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
            handles += [
                part.register_forward_hook(_no_view)
                for part in network.modules()
                if is_traceable_wrapper_subclass(getattr(part, "weight", None))
            ]
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
def gradients_through(
    patchers: Sequence, modules: Sequence[torch.nn.Module] = (), control_networks: Sequence[torch.nn.Module] = ()
) -> Iterator[None]:
    """Inside, gradients flow through the *loaded* models of `patchers` (host ModelPatchers) to their inputs.

    Inference mode is off and gradients are on; weights never get any. Afterwards the models serve stock nodes.
    modules: further networks that run meanwhile without gradients, such as a ControlNet's own VAE.
    control_networks: of ControlNets, which run their attention without the options of a call.
    """
    networks = [*(patcher.model for patcher in patchers), *modules]
    with ExitStack() as stack:
        stack.enter_context(_kept_flags(networks))
        for network in networks:
            normalise(network)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_in_training())
        stack.enter_context(ControlAttention(control_networks).installed())
        stack.enter_context(_kept_hooked_weights(patchers))
        for patcher in patchers:
            stack.enter_context(_kept_streams(patcher.model))
            stack.enter_context(recomputed_where_offloaded(patcher))
        yield


def gradients_in_run(guider):
    """`gradients_through` everything that the host has loaded for a guider's run, or will load on the way."""
    loaded = [one for one in guider.loaded_models if isinstance(getattr(one, "model", None), torch.nn.Module)]
    chain = [one for cond in guider.conds.values() for entry in cond or () for one in controls(entry)]
    vaes = [getattr(control, "vae", None) for control in chain]
    # A ControlLoRA makes its network for the run; it is none of the loaded ones.
    networks = [getattr(control, "control_model", None) for control in chain]
    return gradients_through(
        [guider.model_patcher, *loaded],
        [vae.first_stage_model for vae in vaes if vae is not None],
        list({id(one): one for one in networks if isinstance(one, torch.nn.Module)}.values()),
    )
