"""Keys by content: equal for equal values in whatever object they come, None where equality cannot be told."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from .fingerprint import fingerprint


def content_key(value: Any) -> str | None:
    """A digest of tensors (every bit of them), numbers, texts, and their lists and dicts; None for anything else."""
    digest = hashlib.sha256()
    return digest.hexdigest() if _feed(digest, value) else None


def _feed(digest, value: Any) -> bool:
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        digest.update(f"tensor {tuple(plain.shape)} {plain.dtype};".encode())
        digest.update(plain.view(torch.uint8).numpy().tobytes() if plain.ndim else repr(plain.item()).encode())
        return True
    if isinstance(value, (int, float, str, bytes, type(None))):
        digest.update(f"{type(value).__name__} {value!r};".encode())
        return True
    if isinstance(value, dict):
        digest.update(f"dict {len(value)};".encode())
        return all(_feed(digest, key) and _feed(digest, value[key]) for key in sorted(value, key=str))
    if isinstance(value, (list, tuple)):
        digest.update(f"list {len(value)};".encode())
        return all(_feed(digest, one) for one in value)
    return False


def model_key(model) -> str | None:
    """What the predictions of a MODEL depend on; None where it carries code that only another run could compare."""
    options = {key: value for key, value in model.model_options.items() if key != "transformer_options"}
    inner = model.model_options.get("transformer_options", {})
    attached = (
        options,
        inner,
        model.wrappers,
        model.callbacks,
        model.injections,
        model.hook_patches,
        model.additional_models,
        model.attachments,
        model.weight_wrapper_patches,
    )
    if any(_filled(part) for part in attached) or set(model.object_patches) - {"model_sampling"}:
        return None
    sampling = model.get_model_object("model_sampling")
    kind = [base.__name__ for base in type(sampling).__mro__]
    return content_key([fingerprint(model), str(model.model_dtype()), kind, dict(sampling.named_buffers())])


def _filled(value: Any) -> bool:
    """Whether a nest of dicts and lists holds anything at all."""
    if isinstance(value, dict):
        return any(_filled(one) for one in value.values())
    return len(value) > 0 if isinstance(value, (list, tuple)) else value is not None


class TensorStore:
    """Tensors by key, the least recently used let go first; never more than `limit` bytes."""

    def __init__(self, limit: int):
        self.limit = limit
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def get(self, key: str | None) -> Tensor | None:
        """What was put in under the key, or None. It is shared: do not write into it."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key]

    def put(self, key: str | None, value: Tensor) -> None:
        """Keeps a tensor on the CPU, if it has a key and fits."""
        if key is None or _size(value) > self.limit:
            return
        self._kept.pop(key, None)
        self._kept[key] = value.detach().to("cpu", copy=True)
        while sum(_size(one) for one in self._kept.values()) > self.limit:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
