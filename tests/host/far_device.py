"""A device that is none of this machine's: its tensors lie on the CPU, behind a wall.

What mixes them with the CPU's own fails, as it does on a GPU, and so does what leaves a tensor behind. It shows where
things lie; kernels, memory and speed are another matter. For a process of its own: torch knows one such device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("far")
FAR, NEAR = torch.device("far:0"), torch.device("cpu")
aten = torch.ops.aten
CARRIERS = {aten.copy_.default, aten._to_copy.default}
# A GPU's tensors may be indexed with the CPU's.
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class Far(Tensor):
    """A tensor beyond the wall; `near`: its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, near: Tensor) -> "Far":
        return Tensor._make_wrapper_subclass(
            cls,
            near.size(),
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            layout=near.layout,
            device=FAR,
            requires_grad=near.requires_grad,
        )

    def __init__(self, near: Tensor):
        self.near = near.detach() if near.requires_grad else near

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None) -> Any:
        return _run(operation, args, kwargs or {})

    # What torch does not ask the dispatcher for.

    def tolist(self) -> Any:
        return self.near.tolist()

    def untyped_storage(self):
        return self.near.untyped_storage()

    def data_ptr(self) -> int:
        return self.near.data_ptr()

    def new_tensor(self, data, *, dtype=None, device=FAR) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype).to(device)

    def __getitem__(self, key) -> Tensor:
        return Tensor.__getitem__(self, _indices(key))

    def __setitem__(self, key, value) -> None:
        if isinstance(value, Tensor) and not isinstance(value, Far) and value.ndim:
            raise RuntimeError("A near tensor is written into a far one.")
        Tensor.__setitem__(self, _indices(key), value)


class Dispatch(TorchDispatchMode):
    """Inside, tensors can be made on the far device and brought there."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None) -> Any:
        return _run(operation, args, kwargs or {})


def send(module: torch.nn.Module) -> None:
    """All weights and buffers to the far device."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = torch.nn.Parameter(Far(weight.detach()), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = Far(buffer.detach())


def _indices(key: Any) -> Any:
    def one(part: Any) -> Any:
        part = torch.tensor(list(part)) if isinstance(part, (list, range)) else part
        return part.to(FAR) if isinstance(part, Tensor) and not isinstance(part, Far) else part

    return tuple(map(one, key)) if isinstance(key, tuple) else one(key)


# torch.utils._pytree does the same for any tree, and takes longer than the operations of small models.


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for one in tree:
            yield from _tensors(one)


def _mapped(change, tree: Any) -> Any:
    if isinstance(tree, (tuple, list)):
        return (list if isinstance(tree, list) else tuple)(_mapped(change, one) for one in tree)
    return change(tree)


def _run(operation, args: tuple, kwargs: dict) -> Any:
    tensors = list(_tensors((args, tuple(kwargs.values()))))
    far, device = any(isinstance(one, Far) for one in tensors), kwargs.get("device")
    there = far if device is None else torch.device(device).type == "far"
    if far and operation not in CARRIERS:
        _require_together(operation, args if operation in INDEXED else tensors)
    if device is not None:
        kwargs = {**kwargs, "device": NEAR}
    numbers = lambda one: one.near if isinstance(one, Far) else one
    result = operation(*_mapped(numbers, args), **{name: _mapped(numbers, one) for name, one in kwargs.items()})
    if operation is aten.copy_.default or (operation._schema.is_mutable and result is numbers(args[0])):
        return args[0]
    wrap = lambda one: Far(one) if isinstance(one, Tensor) else one
    return _mapped(wrap, result) if there else result


def _require_together(operation, tensors: Any) -> None:
    """Single numbers may come from anywhere. For an indexed operation: the tensor and the values, not the indices."""
    if operation in INDEXED:
        tensors = [tensors[0], *tensors[2:3]]
    if any(isinstance(one, Tensor) and not isinstance(one, Far) and one.ndim for one in tensors):
        shapes = [(type(one).__name__, *one.shape) for one in tensors if isinstance(one, Tensor)]
        raise RuntimeError(f"Tensors of two devices meet in {operation}: {shapes}")


def _brought(make):
    """torch.tensor and torch.as_tensor, which make their tensor past the dispatcher."""

    def made(data, *args, device=None, **options):
        if device is None or torch.device(device).type != "far":
            return make(data, *args, device=device, **options) if device is not None else make(data, *args, **options)
        return make(data, *args, **options).to(device)

    return made


torch.tensor, torch.as_tensor = _brought(torch.tensor), _brought(torch.as_tensor)
