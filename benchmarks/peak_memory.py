"""How much memory a gradient run holds at its worst moment."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PeakMemory:
    """Context manager; `peak` is the most bytes at any moment, the network's weights among them.

    On a GPU the allocator's own figure. On a CPU, which keeps none: weights, their gradients (there should be none),
    and every tensor that a graph holds for its backward pass, counted once for each memory that stands behind it.
    """

    def __init__(self, network: nn.Module):
        self.network, self.gpu = network, torch.cuda.is_available()
        self.peak = self._now = 0
        self._known: dict[int, int] = {}

    def __enter__(self) -> "PeakMemory":
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept.tensor)
            self._hooks.__enter__()
        return self

    def __exit__(self, *reason) -> None:
        if self.gpu:
            self.peak = torch.cuda.max_memory_allocated()
            return
        self._hooks.__exit__(*reason)
        weights = list(self.network.parameters())
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        self.peak += sum(one.numel() * one.element_size() for one in (*weights, *self.network.buffers(), *gradients))

    def _pack(self, tensor: Tensor) -> "_Kept":
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key not in self._weights:
            self._known[key] = self._known.get(key, 0) + 1
            if self._known[key] == 1:
                self._now += storage.nbytes()
                self.peak = max(self.peak, self._now)
        # An operation that keeps its own result would otherwise keep itself, for ever.
        return _Kept(tensor.detach(), self, key)

    @property
    def _weights(self) -> set[int]:
        """Where the weights lie now; they may have moved since the run began."""
        if not hasattr(self, "_places"):
            self._places = {weight.untyped_storage().data_ptr() for weight in self.network.parameters()}
        return self._places

    def _drop(self, key: int, size: int) -> None:
        if key in self._known:
            self._known[key] -= 1
            if not self._known[key]:
                del self._known[key]
                self._now -= size


class _Kept:
    """A saved tensor that reports when it is freed."""

    def __init__(self, tensor: Tensor, owner: PeakMemory, key: int):
        self.tensor, self._owner, self._key, self._size = tensor, owner, key, tensor.untyped_storage().nbytes()

    def __del__(self) -> None:
        self._owner._drop(self._key, self._size)
