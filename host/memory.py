"""The host's memory manager asked before heavy work, and out of memory answered by smaller chunks."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management as management
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .notify import notify

log = logging.getLogger(__name__)
# A backward pass holds on to the activations of every layer: what the host should reserve, in latent batches. A row
# with its graph takes 9 of the rows that the host counts for sampling at Stable Diffusion 1 and 2, and 19 at XL; what
# is computed on the way comes on top. Other models make room for twice as many as are named here (the host thinks of
# two conditionings) and so for a whole graph; the model's own weights for as many, and so at least for a checkpointed
# one.
GRADIENT_BATCHES = 11


def call_bytes(model, shape: Sequence[int]) -> float:
    """What a model call on latents of `shape` (B, C, h, w) takes, by the host's estimate and with the margin that the
    host adds when it asks whether a batch fits. model: the host's BaseModel."""
    return model.memory_required(list(shape)) * 1.5


def free_bytes(model, device: torch.device) -> float:
    """The memory that is free for a call of the host's BaseModel on `device`; its patcher, while one is at work, counts
    what it can give back."""
    patcher = getattr(model, "current_patcher", None)
    return management.get_free_memory(device) if patcher is None else patcher.get_free_memory(device)


def with_room_for_gradients(patcher, key: str, graphs: int | None = None) -> None:
    """The host makes room for what a backward pass holds on to whenever it prepares to sample with this MODEL, a clone.

    graphs: rows whose graphs are in memory at once; None: all of the batch.
    """

    def prepare_sampling(executor, model, shape, conds, **kwargs):
        rows = max(shape[0], GRADIENT_BATCHES * (graphs or shape[0]))
        return executor(model, [rows, *shape[1:]], conds, **kwargs)

    patcher.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, key, prepare_sampling)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was short, on an accelerator or on the CPU."""
    if management.OOM_EXCEPTION is not Exception and management.is_oom(error):
        return True
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def release() -> None:
    """Gives back the memory of a failed attempt; to be called outside its except block."""
    gc.collect()
    management.soft_empty_cache()


def or_sparing(attempt: Callable[[bool], Any], what: str, *, sparing: bool = False, helps: bool = True) -> Any:
    """`attempt(False)` and, where memory runs out, `attempt(True)`, which computes activations twice instead of keeping
    them; said on the node. sparing: at once. helps: whether it would need less.
    """
    if not sparing:
        try:
            return attempt(False)
        except Exception as error:
            if not helps or not is_out_of_memory(error):
                raise
        # Outside the except block: the error's traceback would keep the failed attempt's tensors alive.
        release()
        notify(f"{what} begins again with less memory: activations are computed twice.")
    return attempt(True)


def chunked(
    fn: Callable[[slice], Any],
    batch: int,
    *,
    size: int | None = None,
    what: str = "The batch",
    on_less: Callable[[int], None] = lambda size: None,
) -> list[Any]:
    """Calls `fn(slice)` over 0..batch in chunks and returns the results in order.

    Starts with `size` rows (default: all) and halves the chunk whenever memory runs out; rows already done are kept.
    on_less: called with each smaller size, so that a loop of many calls need not find it out in each. What `fn` returns
    for a row must not depend on the chunk. Raises MemoryError where a single row does not fit.
    """
    size = max(1, min(batch, size or batch))
    results, start = [], 0
    while start < batch:
        management.throw_exception_if_processing_interrupted()
        rows = slice(start, min(batch, start + size))
        failed = False
        try:
            results.append(fn(rows))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if rows.stop - rows.start == 1:
                raise MemoryError(
                    f"{what} does not fit into memory even one at a time: use a smaller picture, or free memory by "
                    "closing other programs."
                ) from error
            failed = True
        # Outside the except block: the error's traceback would keep the failed chunk's tensors alive.
        if failed:
            release()
            size = max(1, (rows.stop - rows.start) // 2)
            log.warning("%s does not fit into memory; going on with %d at a time.", what, size)
            on_less(size)
        else:
            start = rows.stop
    return results


def chunked_cat(fn: Callable[[slice], Tensor], batch: int, **options: Any) -> Tensor:
    """`chunked` for a function that returns one tensor with a row a row: the results in one piece."""
    return torch.cat(chunked(fn, batch, **options))
