"""Tiny random models whose linear layers are stored in the host's quantised forms, as its loaders make them."""

from __future__ import annotations

import json
from unittest import mock

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

from . import tiny_models as tiny

# Native: the host computes with quantised numbers, as on a GPU that can; emulated: it dequantises each weight.
FORMS = {"int8": ("int8_tensorwise", True), "fp8": ("float8_e4m3fn", True), "fp8, emulated": ("float8_e4m3fn", False)}
# In blocks with scales of their own.
BLOCKS = {
    "fp4": ("nvfp4", True),
    "fp4, emulated": ("nvfp4", False),
    "mxfp8": ("mxfp8", True),
    "mxfp8, emulated": ("mxfp8", False),
}


def stored(weight: torch.Tensor, form: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The entries of a file for a weight (out, in), and the weight that they stand for."""
    kind = (FORMS | BLOCKS)[form][0]
    found = QuantizedTensor.from_float(weight, QUANT_ALGOS[kind]["comfy_tensor_layout"], scale="recalculate")
    marks = torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)
    return {**found.state_dict("weight"), "comfy_quant": marks}, found.dequantize()


def quantised_file(family: str, form: str, seed: int = 0) -> tuple[dict, dict]:
    """The weights of `tiny_model(family, seed)` with every linear layer quantised, and what they stand for."""
    network = tiny.tiny_model(family, seed).model.diffusion_model
    file = {key: value.clone() for key, value in network.state_dict().items()}
    plain = dict(file)
    for name, layer in network.named_modules():
        if isinstance(layer, torch.nn.Linear):
            entries, plain[f"{name}.weight"] = stored(file.pop(f"{name}.weight"), form)
            file |= {f"{name}.{key}": value for key, value in entries.items()}
    return file, plain


def quantised_model(family: str, form: str, seed: int = 0) -> comfy.model_patcher.ModelPatcher:
    """A MODEL as `tiny_model(family, seed)`, with quantised linear layers."""
    file, _ = quantised_file(family, form, seed)
    config = tiny._config(family)
    config.quant_config = {"mixed_ops": True}
    config.set_inference_dtype(torch.float32, torch.float32)
    native = mock.patch.object(comfy.model_management, "supports_fp8_compute", lambda device=None: FORMS[form][1])
    with native, torch.no_grad():
        model = config.get_model({}, "", device=torch.device("cpu"))
        missing, unexpected = model.diffusion_model.load_state_dict(file, strict=False)
    assert not missing and not unexpected, (missing, unexpected)
    model.eval()
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.CoreModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))
