"""A short name for the weights of a MODEL: equal in every run and on every device, changed by other weights.

Made from the names and shapes of all weights and from the signs of sampled values. A sign survives every cast
(float32, bfloat16, float16, float8), so the same file gives the same fingerprint at any precision; patches such as
LoRAs enter by their own weights and strengths, patched into the model or not.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

SAMPLES = 64


def _sample(tensor: Tensor) -> bytes:
    """The shape and the signs of up to SAMPLES values, evenly spread over the tensor; whole numbers as they are."""
    # A quantised weight is a wrapper round the stored numbers.
    flat = getattr(tensor, "_qdata", tensor).detach().reshape(-1)
    count = min(SAMPLES, flat.numel())
    places = torch.linspace(0, max(0, flat.numel() - 1), count, dtype=torch.float64).round().long()
    values = flat[places.to(flat.device)].cpu()
    signs = torch.signbit(values.to(torch.float32)) if values.is_floating_point() else values
    return repr((tuple(tensor.shape), signs.tolist())).encode()


def _feed(digest, value: Any) -> None:
    """Tensors by shape and signs, numbers and text as they are, everything else by its parts or its class."""
    if isinstance(value, Tensor):
        digest.update(_sample(value))
    elif isinstance(value, (int, float, str, bool, type(None))):
        digest.update(f"{value!r};".encode())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            digest.update(str(key).encode())
            _feed(digest, value[key])
    elif isinstance(value, (tuple, list)):
        digest.update(f"[{len(value)}]".encode())
        for one in value:
            _feed(digest, one)
    elif hasattr(value, "weights"):
        digest.update(type(value).__name__.encode())
        _feed(digest, value.weights)
    else:
        digest.update(type(value).__name__.encode())


def fingerprint(model) -> str:
    """MODEL -> 32 hexadecimal digits."""
    digest = hashlib.sha256()
    weights = {key: value for key, value in model.model.state_dict().items() if key.startswith("diffusion_model.")}
    for key in sorted(weights):
        digest.update(key.encode())
        digest.update(_sample(original(model, key, weights[key])))
    for key in sorted(model.patches):
        digest.update(key.encode())
        _feed(digest, list(model.patches[key]))
    for key in sorted(model.injections):
        digest.update(key.encode())
        _feed(digest, [_adapters(injection) for injection in model.injections[key]])
    return digest.hexdigest()[:32]


def _adapters(injection) -> dict:
    """The adapters of the host's bypass mode by key, each with its strength; they live in the injection's closure."""
    cells = getattr(injection.inject, "__closure__", None) or ()
    found = [getattr(cell.cell_contents, "adapters", None) for cell in cells]
    return {key: value for adapters in found if isinstance(adapters, dict) for key, value in adapters.items()}


def original(model, key: str, weight: Tensor) -> Tensor:
    """The weight as it was loaded, below the LoRAs that are patched into the model at the moment."""
    hooked, backup = model.hook_backup.get(key), model.backup.get(key)
    if backup is not None:
        return backup.weight
    return hooked[0] if hooked is not None else weight
