"""Which frame of a morph each batch row of a model call is.

The host's batch is group after group (its prompts: negative, positive), each with the rows of the latent batch. Where
Attention Blend cuts a batch into chunks, or adds key pictures that are no frames, it leaves a plan of the rows in
`transformer_options`; every patch that treats rows differently asks here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..morphing.schedule import Alphas

PLAN = "palimpsest_rows"
PICTURES = "palimpsest_pictures"
# A row of a group: frame i as i, an added key picture k as -1 - k.
Rows = tuple[int, ...]


def key_row(key: int) -> int:
    """How a plan names key picture `key` as a row of its own."""
    return -1 - key


def for_rows(model, rows: Iterable[int]):
    """A clone of the MODEL for a run over some rows of a batch, which its patches then still distinguish."""
    clone = model.clone()
    clone.model_options.setdefault("transformer_options", {})[PLAN] = tuple(rows)
    return clone


def groups_of(options: Mapping[str, Any], batch: int, rows: int) -> int:
    """How many groups a call of `batch` rows has."""
    listed = options.get("cond_or_uncond")
    return len(listed) if listed else max(1, batch // rows)


def count_pictures(options: dict[str, Any], pictures: int) -> None:
    """Leaves in the options of a sampling run how many pictures it is given; `options`: its `model_options`."""
    options.setdefault("transformer_options", {})[PICTURES] = pictures


def rows_of(options: Mapping[str, Any], batch: int, frames: int, who: str) -> tuple[Rows, int]:
    """(the rows of one group, the number of groups) of a call of `batch` rows.

    Without a plan the rows are the frames in order. Raises ValueError if the call has another number of rows: because
    the ALPHAS are of another number of frames, or because another node gives the model parts of the run's batch.
    """
    plan: Rows | None = options.get(PLAN)
    rows = tuple(range(frames)) if plan is None else plan
    groups = groups_of(options, batch, len(rows))
    if groups * len(rows) != batch:
        if options.get(PICTURES) in (frames, len(rows)):
            raise ValueError(
                f"{who} needs all {len(rows)} pictures of the batch, each in one piece, in one model call, and another "
                "node on the model cuts them (context windows, tiled diffusion): take that node off the model."
            )
        raise ValueError(
            f"{who} was given ALPHAS of {frames} frames, but {batch // groups} pictures are being sampled: give Morph "
            "Latents, Morph Conditioning and this node the same ALPHAS."
        )
    return rows, groups


def alphas_of(rows: Rows, alphas: Alphas) -> Alphas:
    """The alphas of rows: a frame's own, and for an added key picture its number."""
    values = tuple(alphas.values[row] if row >= 0 else float(-1 - row) for row in rows)
    return Alphas(values, alphas.keyframes, alphas.cyclic)
