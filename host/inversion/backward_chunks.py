"""Rows that need a backward pass, as many at a time as memory holds: measured before, mended where it fails anyway.

What a backward pass holds on to, every layer's activations, is several times what the host reckons for sampling, and
differs from model to model and from one attention to the next. So it is counted, on one row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from ..memory import chunked, is_out_of_memory
from ..session import Session

log = logging.getLogger(__name__)
# Of the free memory, what may be planned with: the backward pass itself and the allocator's gaps take the rest.
USABLE = 0.7


def bytes_kept(evaluate: Callable[[], Any], besides: Iterable[Tensor] = ()) -> int:
    """Bytes that the graph of `evaluate()` keeps for a backward pass, tensors in `besides` (the weights) left out."""
    known = {one.untyped_storage()._cdata for one in besides}
    seen: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            # Kept, so that no later one gets the same address.
            seen[storage._cdata] = storage
        # An operation that keeps its own result would otherwise keep itself, for ever.
        return tensor.detach()

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        evaluate()
    return sum(storage.nbytes() for storage in seen.values())


def rows_that_fit(free: float, row: float) -> int:
    """How many rows, of so many bytes each, a backward pass has memory for; 0 where not even one."""
    return int(free * USABLE // max(row, 1))


class RowsInMemory:
    """Calls a function with as many rows at a time as there is memory for; what it returns must not depend on that.

    Where memory runs out in spite of the plan, with half as many from then on; where a single row is too much, with
    checkpointing (a third more time). To be used inside `with`.
    """

    def __init__(self, session: Session, size: int | None, what: str):
        """size: rows at a time; None: all; 0: one, with checkpointing at once."""
        self.session, self.size, self.what = session, size, what
        self.stack, self.checkpointing = ExitStack(), False

    def __enter__(self) -> "RowsInMemory":
        if self.size == 0:
            self._checkpoint()
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.close()

    def __call__(self, fn: Callable[[slice], Any], rows: int) -> list:
        done: list = []

        def attempt(part: slice) -> Any:
            try:
                done.append(fn(part))
            except Exception as error:
                if is_out_of_memory(error):
                    self.size = max(1, (part.stop - part.start) // 2)
                raise
            return part.stop

        try:
            chunked(attempt, rows, size=self.size, what=self.what)
        except MemoryError:
            if self.checkpointing:
                raise
        else:
            return done
        # Outside the except block: the error's traceback would keep the failed tensors alive.
        self._checkpoint()
        log.warning("%s does not fit into memory: its parts are computed twice.", self.what)
        return self(fn, rows)

    def _checkpoint(self) -> None:
        self.stack.enter_context(self.session.checkpointed())
        self.size, self.checkpointing = 1, True
