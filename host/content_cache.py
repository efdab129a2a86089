"""Results remembered by content: keys that are equal for equal values, in whatever object they come.

A key is None where equality cannot be known; what has none is not remembered.
"""

from __future__ import annotations

import hashlib
import weakref
from collections import OrderedDict
from dataclasses import fields, is_dataclass
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
    """What the predictions of a MODEL depend on; None where it has code that only another run could compare."""
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


class ModelCache:
    """Results by content key, the least recently used let go first; each goes with the model that it was made with.

    limit: bytes of tensors that are kept at most. An entry hangs on the base model of its MODEL (`model.model`): when
    the host lets that go, the entry goes; moving it between devices changes nothing.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._entries: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._watched: set[int] = set()

    def get(self, key: str | None) -> Any:
        """What was put in under the key, or None. It is shared: do not write into it."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def put(self, model, key: str | None, value: Any) -> None:
        """Keep a result of the MODEL if it has a key and fits; its tensors should lie on the CPU."""
        if key is None or byte_size(value) > self.limit:
            return
        owner = id(model.model)
        if owner not in self._watched:
            self._watched.add(owner)
            weakref.finalize(model.model, self._forget, owner).atexit = False
        self._entries.pop(key, None)
        self._entries[key] = value, owner
        while sum(byte_size(one) for one, _ in self._entries.values()) > self.limit:
            self._entries.popitem(last=False)

    def _forget(self, owner: int) -> None:
        """The base model is gone, and with it what was made with it."""
        self._watched.discard(owner)
        for key in [key for key, (_, its) in self._entries.items() if its == owner]:
            del self._entries[key]

    def clear(self) -> None:
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)


def byte_size(value: Any) -> int:
    """Bytes of all tensors in a nest of dicts, sequences and dataclasses."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if is_dataclass(value):
        return sum(byte_size(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, dict):
        return sum(byte_size(one) for one in value.values())
    return sum(byte_size(one) for one in value) if isinstance(value, (list, tuple)) else 0


RESULTS = ModelCache(limit=2**30)
"""Fitted LoRAs (some eighty of SD1's size at rank 16) and DiffEdit's predictions, together within one limit."""
