"""A batch in one go, or in smaller parts where memory is short: the same rows in both cases."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from .batch_rows import for_rows
from .conds import has_row_hints, pick_rows
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


def cuttable(guider) -> bool:
    """Whether the batch of a prepared run may go in parts: not where a ControlNet hands out its hints by place in the
    whole batch, nor where a patch of this pack distinguishes rows."""
    ours = any(str(key).startswith("palimpsest_") for kind in guider.model_patcher.wrappers.values() for key in kind)
    return not ours and not any(has_row_hints(entry) for cond in guider.conds.values() for entry in cond or ())


@contextmanager
def part_of(session: Session, rows: slice) -> Iterator[Session]:
    """A session of some rows of another's batch, which is not to be used meanwhile: latents, noise, mask and prepared
    conditionings are cut to them."""
    batch, guider = session.latent.shape[0], session.guider
    if len(range(*rows.indices(batch))) == batch:
        yield session
        return
    part, whole = copy.copy(session), guider.conds
    part.noise, part.latent = session.noise[rows], session.latent[rows]
    part.mask = _rows(session.mask, rows, batch)
    guider.conds = {
        name: [_prepared_rows(entry, rows, batch) for entry in entries or ()] for name, entries in whole.items()
    }
    try:
        yield part
    finally:
        guider.conds = whole


def _prepared_rows(entry: dict, rows: slice, batch: int) -> dict:
    """Some rows of an entry that the host has prepared."""
    index = torch.arange(*rows.indices(batch))
    cut = {"model_conds": pick_rows(entry.get("model_conds", {}), index)}
    return {**entry, **cut} | ({"mask": _rows(entry["mask"], rows, batch)} if "mask" in entry else {})


def _rows(value: Any, rows: slice, batch: int) -> Any:
    """The rows of a tensor that has one for each of the batch; anything else holds for all."""
    cut = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == batch and batch > 1
    return value[rows] if cut else value


def _entry_rows(entry: list, rows: slice, batch: int) -> list:
    values, facts = entry
    return [_rows(values, rows, batch), {key: _rows(value, rows, batch) for key, value in facts.items()}]
