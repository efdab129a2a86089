"""Attention of the host's UNet, changed for single model calls.

A MODEL has one slot a layer for a replacement of attention, and the node that comes last takes it. So nothing of ours
is put there: a technique's APPLY_MODEL wrapper hands on the options of its one call, with a wrapper that is the last
before the network itself and puts our functions around whatever stands in the slots then, from whatever node, hook or
wrapper. The patches of others stay where the host looks for their `to`, `models` and `cleanup`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import comfy.ldm.modules.attention as host_attention
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .blocks import Block

KEY = "palimpsest_attention"
Kind = Literal["attn1", "attn2"]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Around(Protocol):
    """A function around attention: `attend` is what would have run. q, k, v: (B, tokens, heads * width)."""

    def __call__(self, attend: Attend, q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor: ...


class Before(Protocol):
    """A function of what queries, keys and values are projected from, each (B, tokens, width): the same three."""

    def __call__(self, n: Tensor, k: Tensor, v: Tensor, options: dict) -> tuple[Tensor, Tensor, Tensor]: ...


@dataclass(frozen=True, eq=False)
class AttentionPatch:
    """What happens to one kind of attention in some blocks of the UNet: a function before it, around it, or both."""

    kind: Kind
    blocks: Collection[Block]
    before: Before | None = None
    around: Around | None = None


def with_attention(options: Mapping, patches: Sequence[AttentionPatch], technique: str) -> dict:
    """The transformer_options of one model call, for an APPLY_MODEL wrapper to hand on, in which attention goes through
    `patches`, whatever other nodes do. `before` comes before the patches of others, `around` encloses them.

    The call raises ValueError if none of the patches was reached. technique: the node, for the message.
    """
    wrappers = options.get("wrappers", {})
    ours = _Innermost([patch for patch in patches if patch.blocks], technique)
    innermost = {**wrappers.get(WrappersMP.DIFFUSION_MODEL, {})}
    innermost[f"{KEY}_{len(innermost)}"] = [ours]
    return {**options, "wrappers": {**wrappers, WrappersMP.DIFFUSION_MODEL: innermost}}


def plain_attention(options: Mapping) -> Attend:
    """The layer's own attention, as the host computes it where nothing is replaced."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return host_attention.optimized_attention(
            q, k, v, options["n_heads"], attn_precision=options["attn_precision"], transformer_options=options
        )

    return attend


class _Innermost:
    """A DIFFUSION_MODEL wrapper of a single call, called last before the network."""

    def __init__(self, patches: Sequence[AttentionPatch], technique: str):
        self.patches, self.technique, self.reached = patches, technique, False

    def __call__(self, executor, x, timesteps, context=None, y=None, control=None, transformer_options={}, **kwargs):
        out = executor(x, timesteps, context, y, control, self._patched(transformer_options), **kwargs)
        if self.patches and not self.reached:
            raise ValueError(
                f"The model ran without the attention that {self.technique} changes, because another node replaces or "
                "compiles its layers: take that node off the model."
            )
        return out

    def _patched(self, options: dict) -> dict:
        patches = dict(options.get("patches", {}))
        slots = {kind: dict(found) for kind, found in options.get("patches_replace", {}).items()}
        for patch in self.patches:
            if patch.before is not None:
                name = f"{patch.kind}_patch"
                patches[name] = [self._before(patch), *patches.get(name, [])]
            if patch.around is not None:
                self._surround(slots.setdefault(patch.kind, {}), patch)
        return {**options, "patches": patches, "patches_replace": slots}

    def _before(self, patch: AttentionPatch):
        def before(n: Tensor, k: Tensor, v: Tensor, options: dict) -> tuple[Tensor, Tensor, Tensor]:
            if tuple(options["block"]) not in patch.blocks:
                return n, k, v
            self.reached = True
            return patch.before(n, k, v, options)

        return before

    def _surround(self, slots: dict, patch: AttentionPatch) -> None:
        """slots: the replacements by block, or by block and layer; a layer's own goes before that of its block."""
        for block in patch.blocks:
            for place in {block, *(place for place in slots if place[:2] == block)}:
                slots[place] = self._replacement(patch.around, slots.get(place))

    def _replacement(self, around: Around, previous):
        def replacement(q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
            def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                return plain_attention(options)(q, k, v) if previous is None else previous(q, k, v, options)

            self.reached = True
            return around(attend, q, k, v, options)

        return replacement


def cells(options: Mapping) -> tuple[int, int]:
    """Height and width of the feature map that the tokens of this layer lie on."""
    height, width = options["activations_shape"][-2:]
    return int(height), int(width)
