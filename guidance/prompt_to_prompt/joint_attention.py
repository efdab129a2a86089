"""Prompt-to-Prompt where text and picture are tokens of one sequence: "Exploring Multimodal Diffusion Transformers for
Enhanced Prompt-based Image Editing" (ICCV 2025) for shapes, Prompt-to-Prompt (arXiv 2208.01626) for words.

The map of a picture token has a part over the text and a part over the picture (and references, where there are any).
Of an edit's picture tokens

    words:  M'_text = (M_source take + M_edit new) scale      shapes:  M'_rest = M_source

and each part without a letter of its own is the edit's. Shapes alone are the paper's: the queries and keys of the
picture's tokens are the source's, in one call. With words the map is a sum of two,

    (M_source [take scale V | s V]) + (M_edit [new scale V | (1 - s) V]),      s = 1 where shapes are kept, else 0,

ordinary attention each time, so that any kernel serves. Tokens of the text, references and registers ask as they did.

Differs from the papers: "Exploring ..." leaves the part over the text to the edit's own keys at all times; here it may
be the source's by the alignment of the words, which keeps their places where the two texts differ in length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention_control import Roles, edited_values
from .token_alignment import Alignment


class AttendAll(Protocol):
    """q, k, v: (B, heads, tokens, width); keys: for each row, the row whose keys it is given -> as q."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, keys: Sequence[int] | None = None) -> Tensor: ...


class AttendSome(Protocol):
    """The same for some rows; queries: which of the tokens ask."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, keys: Sequence[int], queries: slice | Tensor | None = None
    ) -> Tensor: ...


def with_source_shapes(q: Tensor, k: Tensor, v: Tensor, picture: slice, roles: Roles, attend: AttendAll) -> Tensor:
    """Attention in which the picture tokens of every edit ask, and are asked, as those of its source."""
    rows, sources = list(roles.rows), list(roles.sources)
    q, k = q.clone(), k.clone()
    q[rows, :, picture], k[rows, :, picture] = q[sources, :, picture], k[sources, :, picture]
    return attend(q, k, v)


def joint_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    text: slice,
    picture: slice,
    roles: Roles,
    alignments: Sequence[Alignment],
    attend: AttendAll,
    plain: AttendSome,
    *,
    shapes: bool,
) -> Tensor:
    """Attention in which an edit's picture attends to its words as the source's does to its own.

    q, k, v: (B, heads, tokens, width); text, picture: their tokens; alignments: `fitted` to as many columns as the
    text has; shapes: whether the picture is attended to so, too.
    attend: the layer's attention with all that others have attached to it; plain: the bare one.
    """
    rows, sources = list(roles.rows), list(roles.sources)
    taken, own = zip(*(edited_values(v[row, :, text], alignments[n]) for row, n in zip(rows, roles.which)))
    asking, asked, values = q.clone(), k.clone(), v.clone()
    asking[rows, :, picture], asked[rows] = q[sources, :, picture], k[sources]
    if not shapes:
        values[rows] = 0
    values[rows, :, text] = torch.stack(taken)
    keys = list(range(q.shape[0]))
    for row, source in zip(rows, sources):
        keys[row] = source
    out = attend(asking, asked, values, keys).clone()
    edits = out[rows]
    added = [i for i, n in enumerate(roles.which) if not shapes or bool(alignments[n].new.any())]
    if added:
        chosen = [rows[i] for i in added]
        values = torch.zeros_like(v[chosen]) if shapes else v[chosen]
        values[:, :, text] = torch.stack([own[i] for i in added])
        edits[added, :, picture] += plain(q[chosen][:, :, picture], k[chosen], values, chosen, picture)
    others = _others(q.shape[2], picture, q.device)
    if len(others):
        asked = k[rows]
        if shapes:
            asked[:, :, picture] = k[sources, :, picture]
        edits[:, :, others] = plain(q[rows][:, :, others], asked, v[rows], rows, others)
    out[rows] = edits
    return out


def fitted(alignment: Alignment, count: int, *, left: bool = False) -> Alignment:
    """The alignment of two prompts in rows of `count` columns each; behind a shorter prompt, or before it (left), stand
    columns that nobody reads. Raises ValueError where a prompt is longer."""
    source, edit = alignment.take.shape
    if max(source, edit) > count:
        raise ValueError(
            f"The prompts have {source} and {edit} tokens and the model is shown {count}: connect the conditioning of "
            "Prompt-to-Prompt itself, without a node in between that changes its length."
        )
    more = [(gap, 0) if left else (0, gap) for gap in (count - source, count - edit)]
    return replace(
        alignment,
        take=F.pad(alignment.take, (*more[1], *more[0])),
        new=F.pad(alignment.new, more[1]),
        scale=F.pad(alignment.scale, more[1], value=1.0),
        encoded=F.pad(alignment.encoded, more[1], value=1.0),
    )


def _others(tokens: int, picture: slice, device: torch.device) -> Tensor:
    """The places of all tokens that are not the picture's."""
    places = torch.arange(tokens, device=device)
    return torch.cat([places[: picture.start], places[picture.stop :]])
