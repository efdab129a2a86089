"""The negative prompt of a batch of a source and its edits, row by row.

What Null-text Inversion (arXiv 2211.09794) and Negative-prompt Inversion (arXiv 2305.16807) put in its place makes
guidance of the *source's* prompt vanish, so that the source comes back. Differs from both papers: it is given to the
source's row alone. An edit that is guided by it is pushed away from all that the picture shows, also from what it is to
keep; guided by the empty prompt it becomes more of what its own text says, as any picture does.
"""

from __future__ import annotations

from torch import Tensor

from ..attention.family import Padding
from ..validation import require_conditioning
from .tokens import as_rows


def negative_rows(source: list | None, edits: list, count: int, padding: Padding | None = None) -> list:
    """source: CONDITIONING of one picture or several, with any number of entries (a noise level each, for instance),
    None: that of the edits; edits: that of every edit -> CONDITIONING with a row for each source and, after it, one for
    each of its `count` edits. What an entry of `source` says beside its text (ranges, ControlNets) holds for all rows.
    padding: how prompts of the model come to one length.
    """
    edits = require_conditioning(edits, "The negative prompt")
    source = require_conditioning(source, "The source's negative prompt") if source is not None else edits
    if any(not isinstance(entry[0], Tensor) for entry in (*source, *edits)):
        raise ValueError("A negative prompt holds no text embedding: connect a CLIP Text Encode node.")
    if len(edits) not in (1, len(source)) or any(entry[0].shape[0] != 1 for entry in edits):
        raise ValueError(
            "The negative prompt of the edits has several parts or rows: connect a single CLIP Text Encode, or none."
        )
    if padding is not None and len({entry[0].shape[1] for entry in (*source, *edits)}) > 1:
        raise ValueError(
            "The source's negative prompt and that of the edits have different numbers of tokens, and rows of this "
            "model's batch cannot: leave source_negative open, and hold the source with Trajectory Anchor."
        )
    edits = edits * (len(source) // len(edits))
    rows = [[_row(entry, row) for entry in source] for row in range(source[0][0].shape[0])]
    return as_rows([one for row in rows for one in (row, *[edits] * count)], padding)


def _row(entry: list, row: int) -> list:
    """One row of an entry of CONDITIONING, of its pooled output too."""
    options = dict(entry[1])
    pooled = options.get("pooled_output")
    if isinstance(pooled, Tensor):
        options["pooled_output"] = pooled[row % len(pooled)][None]
    return [entry[0][row % len(entry[0])][None], options]
