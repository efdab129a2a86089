"""LORA_MODEL, in and out: the host's flat dict of tensors, which its trainer makes and its loaders and savers take.

Read by the host's own reading, so that every naming and kind of LoRA that its loaders know is known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import comfy.lora
import comfy.lora_convert
import torch
from comfy.weight_adapter import LoRAAdapter, WeightAdapterBase
from torch import Tensor

from ...morphing.lora import LowRank
from ..notify import notify

NETWORK = "diffusion_model."
TEXT_ENCODERS = ("lora_te", "text_encoder", "text_encoders", "clip", "conditioner", "cond_stage_model")


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
    """LORA_MODEL -> {layer: {"low": LowRank, "full": Tensor, "bias": Tensor}}, by the host's own reading.

    Layers are named within the network. Raises ValueError with a sentence for a LoRA of another model, or one whose
    change of a layer depends on the layer's weights.
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
    return one + other


def _require_match(lora: Mapping[str, Tensor], names: Mapping[str, str], patches: Mapping, name: str) -> None:
    """The layers that the LoRA names are this model's, but for a text encoder's; says how many weights are not."""
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


def _change(patch, weight: Tensor, offset, kind: str, name: str) -> tuple[str, LowRank | Tensor]:
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
    full = _whole(patch, shape, name).float()
    if list(full.shape) != shape:
        raise _foreign(name)
    if offset is not None:
        full = _placed(full, weight.shape[0], offset, name)
    return ("bias" if kind == "bias" else "full"), full


def _low_rank(up: Tensor, down: Tensor, alpha: float | None, shape: Sequence[int], name: str) -> LowRank:
    rank = down.shape[0]
    scale = 1.0 if alpha is None else alpha / rank
    fits = up.flatten(1).shape == (shape[0], rank) and down[0].numel() == torch.Size(shape[1:]).numel()
    if not fits:
        raise _foreign(name)
    return LowRank(down.float().reshape(rank, *shape[1:]), scale * up.float().reshape(shape[0], rank))


def _whole(patch, shape: Sequence[int], name: str) -> Tensor:
    """The change of a weight as a matrix of its shape: differences, and adapters that add to any weight the same."""
    if isinstance(patch, tuple) and patch[0] == "diff":
        return patch[1][0]
    additive = isinstance(patch, WeightAdapterBase) and patch.name in ("lora", "loha", "lokr")
    if not additive or _dora(patch):
        raise ValueError(
            f"{name} is changed in a way that depends on the model's own weights (DoRA, OFT, or a replaced weight), "
            "which cannot be mixed per frame: use a LoRA, LoHa or LoKr."
        )
    unchanged = lambda change: change
    whole = patch.calculate_weight(torch.zeros(list(shape)), name, 1.0, 1.0, None, unchanged)
    return whole


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


def _foreign(name: str) -> ValueError:
    return ValueError(
        f"{name} has another size than in this model: the LoRA was made for another model. Use one of this model's "
        "family, or fit one with LoRA Fit."
    )
