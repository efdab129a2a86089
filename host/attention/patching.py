"""How to step into attention of the host's UNet without pushing others out.

The host has one slot a block for a replacement of attention. `wrap_attention` puts a function round whatever stands
there; with no function of its own to run, the layer's attention is the host's to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import comfy.ldm.modules.attention as host_attention
from torch import Tensor

from .blocks import Block

Kind = Literal["attn1", "attn2"]


class Around(Protocol):
    """A function round attention: `attend` is what would have run. q, k, v: (B, tokens, heads * width)."""

    def __call__(
        self, attend: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor, options: dict
    ) -> Tensor: ...


def plain_attention(options: Mapping) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The layer's own attention, as the host computes it where nothing is replaced."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return host_attention.optimized_attention(
            q, k, v, options["n_heads"], attn_precision=options["attn_precision"], transformer_options=options
        )

    return attend


def wrap_attention(model, kind: Kind, blocks: list[Block], around: Around) -> None:
    """Puts `around` into the blocks of a cloned MODEL, round the replacements that are there already."""
    replaced = model.model_options["transformer_options"].get("patches_replace", {}).get(kind, {})
    for block in blocks:
        # A replacement of one layer goes before that of its block, so both must be wrapped.
        for place in {block, *(place for place in replaced if place[:2] == block)}:
            patch = _Replacement(around, replaced.get(place))
            (model.set_model_attn1_replace if kind == "attn1" else model.set_model_attn2_replace)(patch, *place)


class _Replacement:
    """What stands in the host's slot; it answers for the replacement that stood there before."""

    def __init__(self, around: Around, previous):
        self.around, self.previous = around, previous

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        previous = self.previous

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return plain_attention(options)(q, k, v) if previous is None else previous(q, k, v, options)

        return self.around(attend, q, k, v, options)

    def to(self, *args, **kwargs) -> "_Replacement":
        moved = self.previous.to(*args, **kwargs) if hasattr(self.previous, "to") else self.previous
        return _Replacement(self.around, moved)

    def models(self) -> list:
        return self.previous.models() if hasattr(self.previous, "models") else []

    def cleanup(self) -> None:
        if hasattr(self.previous, "cleanup"):
            self.previous.cleanup()


def cells(options: Mapping) -> tuple[int, int]:
    """Height and width of the map that the tokens of this layer lie on."""
    height, width = options["activations_shape"][-2:]
    return int(height), int(width)


def conditional_rows(options: Mapping, rows: int, positive: int | None = 0) -> tuple[list[int], int]:
    """Where the conditional batches begin among `rows` rows of a model call, and how many rows each batch has.

    The host puts the parts of a call one after the other, in any order; `positive` is the conditional one's number
    among the conditionings that the guider asks for (0 with most, 2 with Dual CFG Guider), None where it is not asked.
    """
    parts = options.get("cond_or_uncond") or [0]
    size = rows // len(parts)
    return [i * size for i, part in enumerate(parts) if part == positive], size
