"""LORA_MODEL, in and out: the host's flat dict of tensors, which its trainer makes and its loaders and savers take.

The host's own code reads it, so every naming and kind of LoRA that its loaders know is known here. LoHa, LoKr and LoRAs
with a middle factor stay factors, and the host's own code multiplies them out where they are used: as matrices those
of one LoRA would take as much memory as the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import comfy.lora
import comfy.lora_convert
import comfy.ops
import torch
from comfy.weight_adapter import LoRAAdapter, WeightAdapterBase
from torch import Tensor

from ...morphing.lora import Composed, Full, LowRank
from ..memory import is_out_of_memory
from ..notify import notify

NETWORK = "diffusion_model."
TEXT_ENCODERS = ("lora_te", "text_encoder", "text_encoders", "clip", "conditioner", "cond_stage_model")


def is_linear(module: torch.nn.Module) -> bool:
    """Whether a layer is linear; of the host's quantised ones torch does not know it."""
    return isinstance(module, torch.nn.Linear) or (
        isinstance(module, comfy.ops.CastWeightBiasOp) and hasattr(module, "in_features")
    )


def lora_model(layers: Mapping[str, LowRank]) -> dict[str, Tensor]:
    """LORA_MODEL of changes by layer, named within the network; float32 on the CPU, at the scale 1."""
    found: dict[str, Tensor] = {}
    for layer, change in sorted(layers.items()):
        name = f"{NETWORK}{layer}"
        found[f"{name}.lora_up.weight"] = change.up.detach().to("cpu", torch.float32).contiguous()
        found[f"{name}.lora_down.weight"] = change.down.detach().to("cpu", torch.float32).contiguous()
        # The host scales by alpha / rank.
        found[f"{name}.alpha"] = torch.tensor(float(change.down.shape[0]))
    return found


def read_lora(model, lora: Mapping[str, Tensor], name: str = "The LoRA") -> dict[str, dict]:
    """LORA_MODEL -> {layer: {"low": LowRank, "full": Tensor or Composed, "bias": Tensor}}, by the host's own code.

    Layers are named within the network. Raises ValueError for a LoRA of another model, and for one whose change of a
    layer depends on the layer's weights.
    """
    if not isinstance(lora, Mapping) or not lora:
        raise ValueError(f"{name} is empty: connect the LORA_MODEL of LoRA Fit or of Train LoRA.")
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    lora = comfy.lora_convert.convert_lora({key: value.detach() for key, value in lora.items()})
    patches = comfy.lora.load_lora(lora, names, log_missing=False)
    _require_match(lora, names, patches, name)
    network = model.get_model_object("diffusion_model")
    layers: dict[str, dict] = {}
    for target, patch in patches.items():
        key, offset = (target[0], target[1]) if isinstance(target, tuple) else (target, None)
        layer, kind = key.removeprefix(NETWORK).rpartition(".")[::2]
        module = network.get_submodule(layer)
        part, change = _change(patch, getattr(module, kind), offset, kind, f"{name}'s layer {layer}")
        found = layers.setdefault(layer, {})
        found[part] = _joined(found[part], change) if part in found else change
    return layers


def _joined(one, other):
    """Two changes of one layer (a fused layer's parts, patched separately) as one."""
    if isinstance(one, LowRank):
        return LowRank(torch.cat([one.down, other.down]), torch.cat([one.up, other.up], dim=1))
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one + other
    return _composed(one).plus(_composed(other))


def _composed(change: Full) -> Composed:
    if isinstance(change, Composed):
        return change
    return Composed((change,), lambda factors, device: factors[0].to(device, torch.float32))


def _require_match(lora: Mapping[str, Tensor], names: Mapping[str, str], patches: Mapping, name: str) -> None:
    """Raises ValueError if most layers that the LoRA names are not this model's; warns of weights that are left out."""
    endings = (".alpha", ".diff", ".diff_b", ".w_norm", ".b_norm", ".set_weight", ".dora_scale", ".reshape_weight")
    used = {f"{one}{ending}" for one in names for ending in endings}
    for patch in patches.values():
        used |= set(getattr(patch, "loaded_keys", ()))
    wanted = [key for key in lora if not key.startswith(TEXT_ENCODERS)]
    strange = [key for key in wanted if key not in used]
    if not patches or 2 * len(strange) > len(wanted):
        raise ValueError(
            f"{name} was made for another model: {len(strange)} of its {len(wanted)} weights have no layer here. Use "
            "a LoRA of this model's family, or fit one with LoRA Fit."
        )
    if strange:
        notify(f"{name}: {len(strange)} of its {len(wanted)} weights have no layer in this model and are left out.")
    if len(wanted) < len(lora):
        notify(
            f"{name}: {len(lora) - len(wanted)} of its {len(lora)} weights are the text encoder's and are left out, "
            "since prompts come here encoded: to use them, put the LoRA on the CLIP of this picture's prompt by the "
            "node Load LoRA with `strength_model` 0."
        )


def _change(patch, weight: Tensor, offset, kind: str, name: str) -> tuple[str, LowRank | Full]:
    """One patch of the host's as ("low" | "full" | "bias", change)."""
    shape = list(weight.shape)
    if offset is not None:
        shape[offset[0]] = offset[2]
    low = patch.weights if isinstance(patch, LoRAAdapter) else None
    if low is not None and low[3] is None and low[4] is None and low[5] is None:
        change = _low_rank(*low[:3], shape, name)
        if offset is not None:
            change = LowRank(change.down, _placed(change.up, weight.shape[0], offset, name))
        return "low", change
    full = _full(patch, shape, name)
    if offset is not None:
        full = _placed_full(full, weight.shape[0], offset, name)
    return ("bias" if kind == "bias" else "full"), full


def _low_rank(up: Tensor, down: Tensor, alpha: float | None, shape: Sequence[int], name: str) -> LowRank:
    rank = down.shape[0]
    scale = 1.0 if alpha is None else alpha / rank
    fits = up.flatten(1).shape == (shape[0], rank) and down[0].numel() == torch.Size(shape[1:]).numel()
    if not fits:
        raise _foreign(name)
    return LowRank(down.float().reshape(rank, *shape[1:]), scale * up.float().reshape(shape[0], rank))


def _full(patch, shape: Sequence[int], name: str) -> Full:
    """The change of a weight of this shape: a difference as it is, an adapter that adds to any weight the same as its
    factors."""
    if isinstance(patch, tuple) and patch[0] == "diff":
        if list(patch[1][0].shape) != list(shape):
            raise _foreign(name)
        return patch[1][0].float()
    additive = isinstance(patch, WeightAdapterBase) and patch.name in ("lora", "loha", "lokr")
    if not additive or _dora(patch):
        raise ValueError(
            f"{name} is changed in a way that depends on the model's own weights (DoRA, OFT, or a replaced weight), "
            "which cannot be mixed per frame: use a LoRA, LoHa or LoKr."
        )
    if patch.name == "lokr" and patch.weights[7] is not None:
        raise ValueError(
            f"{name} is a LoKr with a middle factor (Tucker), which ComfyUI fails to multiply out: use one without it."
        )
    change = _adapter(patch, shape, name)
    change.compose(change.factors, torch.device("cpu"))  # raises where the sizes do not fit
    return change


def _adapter(patch: WeightAdapterBase, shape: Sequence[int], name: str) -> Composed:
    """An adapter of the host's as factors, multiplied out by the host's own code."""
    places = [place for place, one in enumerate(patch.weights) if isinstance(one, Tensor)]

    def compose(factors: Sequence[Tensor], device: torch.device) -> Tensor:
        weights = list(patch.weights)
        for place, factor in zip(places, factors):
            weights[place] = factor
        found: list[Tensor] = []
        keep = lambda change: found.append(change) or change
        adapter, zeros = type(patch)(patch.loaded_keys, tuple(weights)), torch.zeros(list(shape), device=device)
        try:
            adapter.calculate_weight(zeros, name, 1.0, 1.0, None, keep)
        except RuntimeError as error:
            raise error if is_out_of_memory(error) else _foreign(name) from error
        # Where sizes do not fit, the host may also log it and go on without the change.
        if not found or found[0].shape != zeros.shape:
            raise _foreign(name)
        return found[0]

    return Composed(tuple(patch.weights[place] for place in places), compose)


def _dora(patch: WeightAdapterBase) -> bool:
    """DoRA's magnitudes stand where each kind of adapter keeps them."""
    place = {"lora": 4, "loha": 7, "lokr": 8}[patch.name]
    return patch.weights[place] is not None


def _placed(part: Tensor, size: int, offset: Sequence[int], name: str) -> Tensor:
    """A change of some output rows of a fused layer, as a change of all of them."""
    axis, start, length = offset
    if axis != 0:
        raise _foreign(name)
    whole = part.new_zeros(size, *part.shape[1:])
    whole[start : start + length] = part
    return whole


def _placed_full(change: Full, size: int, offset: Sequence[int], name: str) -> Full:
    """`_placed` for a change of either kind."""
    if isinstance(change, Tensor):
        return _placed(change, size, offset, name)
    return Composed(change.factors, lambda *given: _placed(change.compose(*given), size, offset, name))


def _foreign(name: str) -> ValueError:
    return ValueError(
        f"{name} has another size than in this model: the LoRA was made for another model. Use one of this model's "
        "family, or fit one with LoRA Fit."
    )
