"""A batch through `with_denoiser` in one go, or in smaller parts where memory is short: the same rows in both cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from .batch_rows import for_rows
from .conds import has_row_hints
from .memory import chunked
from .session import Session, with_denoiser

T = TypeVar("T")


def by_rows(
    model,
    conds: Mapping[str, list],
    latent: Tensor,
    sigmas: Tensor,
    body: Callable[[Session, slice], T],
    *,
    cfg: float = 1.0,
    noise_mask: Tensor | None = None,
    what: str = "The batch",
) -> list[T]:
    """`body(session, rows)` for parts of the batch, in order: one part where memory allows.

    latent: raw (B, C, h, w); conds may hold a prompt for each row. what: the batch's name, for the sentence where a
    single row does not fit.
    """
    batch = latent.shape[0]

    def part(rows: slice) -> T:
        mine = {name: [_entry_rows(entry, rows, batch) for entry in entries] for name, entries in conds.items()}
        mask = _rows(noise_mask, rows, batch)
        part_of = model if len(range(*rows.indices(batch))) == batch else for_rows(model, range(*rows.indices(batch)))
        return with_denoiser(
            part_of, mine, latent[rows], sigmas, lambda session: body(session, rows), cfg=cfg, noise_mask=mask
        )

    if batch > 1 and any(has_row_hints(facts) for entries in conds.values() for _, facts in entries):
        return [part(slice(0, batch))]
    return chunked(part, batch, what=what)


def _rows(value: Any, rows: slice, batch: int) -> Any:
    """The rows of a tensor that has one for each of the batch; anything else holds for all."""
    cut = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == batch and batch > 1
    return value[rows] if cut else value


def _entry_rows(entry: list, rows: slice, batch: int) -> list:
    values, facts = entry
    return [_rows(values, rows, batch), {key: _rows(value, rows, batch) for key, value in facts.items()}]
