"""Attention of the host's transformers, changed for single model calls.

Everything that these networks attend to goes through one function of the host, which looks for
`optimized_attention_override` in the options that it is handed. For one call of the model, forward pre-hooks on the
blocks hand each of them a copy of these options with an override of ours around whatever stands there by then, from
whatever node, hook or wrapper. So every block knows its own number, also where it is computed again for a gradient, and
what is no block (refiners of the text, ControlNets, the encoders) is left alone. The hooks go with the call.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..family import diffusion_model, model_class
from .families import FAMILIES, family_of
from .family import Entry, Padding, Site, TransformerFamily
from .sequence import Attention, ModelCall, Split

KEY = "palimpsest_transformer_attention"
OVERRIDE = "optimized_attention_override"
Around = Callable[[Attention], Tensor]


@contextmanager
def attention_of_call(
    network: torch.nn.Module,
    call: ModelCall,
    options: Mapping,
    around: Around,
    technique: str,
    *,
    blocks: Collection[int] | None = None,
    lengths: Mapping[int, int] | None = None,
) -> Iterator[dict]:
    """Inside, a model call with the yielded transformer_options goes through `around` in the chosen blocks (all).

    around: an `Attention` -> its output (B, heads, tokens, width). lengths: for some rows of the call how many tokens
    their conditioning has by itself; where the family masks the others, they are left out in all blocks. technique:
    the node, for the message: raises ValueError where no block was reached.
    """
    family = family_of(network)
    assert family is not None, "asked of the model before the run"
    ours = _Call(network, family, call, around, technique, blocks, dict(lengths or {}))
    sites = [site for site in family.sites(network) if ours.masked or ours.is_chosen(site.block)]
    sites += family.text_sites(network) if ours.masked else ()
    handles = [site.module.register_forward_pre_hook(_entering(ours, site), with_kwargs=True) for site in sites]
    if ours.masked:
        fillings = family.filling(network, call, ours.lengths).items()
        handles += [module.register_forward_hook(fill) for module, fill in fillings]
    try:
        yield {**options, KEY: (*options.get(KEY, ()), ours)}
    finally:
        for handle in handles:
            handle.remove()
    if sites and not ours.reached:
        raise ValueError(
            f"The model ran without the attention that {technique} changes, because another node replaces, compiles "
            "or skips its blocks, or adds to their tokens: take that node off the model."
        )


def transformer_blocks(model, technique: str) -> dict[int, int]:
    """The number of every block of a MODEL's transformer, in order, and how many times smaller than the latent its
    picture's tokens are. Raises ValueError for networks that are not known here."""
    network = diffusion_model(model)
    family = family_of(network)
    if family is None:
        known = ", ".join(dict.fromkeys(family.name for family in FAMILIES))
        raise ValueError(
            f"{technique} does not know the attention of this model ({model_class(model)}): load a model of the "
            f"families Stable Diffusion 1, 2, XL, {known}."
        )
    return {site.block: family.patch(network) for site in family.sites(network)}


def middle_blocks(blocks: Collection[int], count: int = 5) -> list[int]:
    """Where maps are read: `count` of the blocks, in the middle of the network, where they outline things best."""
    found = sorted(blocks)
    begin = max(0, (len(found) - count + 1) // 2)
    return found[begin : begin + count]


def padding_of(model) -> Padding | None:
    """How prompts of unequal length share a batch in this MODEL; None for repetition, which UNets do not notice."""
    network = diffusion_model(model)
    family = family_of(network)
    return None if family is None else family.padding(network)


def _entering(call: "_Call", site: Site):
    def hook(module: torch.nn.Module, arguments: tuple, named: dict) -> tuple[tuple, dict] | None:
        options = named.get("transformer_options")
        if options is None or not any(one is call for one in options.get(KEY, ())):
            return None
        return arguments, {**named, "transformer_options": call.options_of(site, named, options)}

    return hook


class _Call:
    """One model call of one technique."""

    def __init__(
        self,
        network: torch.nn.Module,
        family: TransformerFamily,
        call: ModelCall,
        around: Around,
        technique: str,
        blocks: Collection[int] | None,
        lengths: dict[int, int],
    ):
        self.network, self.family, self.call, self.around = network, family, call, around
        self.technique, self.blocks, self.lengths, self.reached = technique, blocks, lengths, False
        self.padding = family.padding(network)
        # A row that is filled up within the multiple by us is masked, too, if nowhere.
        self.masked = not self.padding.read and any(n < call.text for n in lengths.values())

    def is_chosen(self, block: int) -> bool:
        return self.blocks is None or block in self.blocks

    def options_of(self, site: Site, arguments: Mapping, options: Mapping) -> dict:
        """The options of one block that is being entered."""
        previous, count = options.get(OVERRIDE), iter(range(1 << 30))

        def override(func, q, k, v, heads, mask=None, *rest: Any, **named: Any) -> Tensor:
            form = _Form(func, previous, options, heads, rest, named)
            queries, keys = form.length(q), form.length(k)
            entry = Entry(site, arguments, options, next(count))
            if site.block < 0:
                return form.run(q, k, v, self._mask(self.family.text(self.network, self.call), keys, k, mask))
            split = self.family.split(self.network, self.call, entry, queries, keys)
            if split is None:
                return form.run(q, k, v, mask)
            self._check(q.shape[0])
            self.reached = True
            return self._attended(form, site.block, split, q, k, v, mask)

        return {**options, OVERRIDE: override}

    def _attended(self, form: "_Form", block: int, split: Split, q, k, v, mask: Tensor | None) -> Tensor:
        width = q.shape[-1] if form.by_heads else q.shape[-1] // form.heads
        q, k, v = (form.heads_first(one, width) for one in (q, k, v))
        mask = self._mask(split.text, k.shape[2], k, mask)
        if not self.is_chosen(block):
            return form.as_given(form.chained(q, k, v, mask))
        attention = Attention(q, k, v, block, split, mask, form.chained, form.kernel, self._begins(split.text))
        return form.as_given(self.around(attention))

    def _mask(self, text: slice, keys: int, like: Tensor, mask: Tensor | None) -> Tensor | None:
        """The call's mask, as (rows, heads, queries, keys), with what a row's text does not have left out."""
        if mask is not None:
            mask = mask[None] if mask.ndim == 2 else mask
            mask = mask[:, None] if mask.ndim == 3 else mask
        if not self.masked or text.start == text.stop:
            return mask
        least = torch.finfo(like.dtype).min
        unread = torch.zeros(like.shape[0], 1, 1, keys, dtype=torch.bool)
        for row, length in self.lengths.items():
            unread[row, :, :, self.padding.unread(text, length)] = True
        unread = unread.to(like.device)
        if mask is None:
            return torch.zeros(unread.shape, dtype=like.dtype, device=unread.device).masked_fill(unread, least)
        if mask.dtype == torch.bool:
            return mask & ~unread
        return mask.masked_fill(unread, least)

    def _begins(self, text: slice) -> dict[int, int]:
        if self.masked and self.padding.side == "left":
            return {row: self.padding.unread(text, length).stop for row, length in self.lengths.items()}
        return {}

    def _check(self, rows: int) -> None:
        if rows != self.call.rows:
            raise ValueError(
                f"{self.technique} needs the pictures of a model call as they were given, and another node or the "
                f"model itself has made {rows} rows of {self.call.rows}: take that node off the model, or give a video "
                "as single pictures."
            )


class _Form:
    """How the host has handed over one attention: the form of its tensors, and what to run them with."""

    def __init__(self, func, previous, options: Mapping, heads: int, rest: Sequence, named: Mapping):
        self.func, self.previous, self.heads, self.rest = func, previous, heads, rest
        # Who re-enters the host's function from here finds what stood there before us.
        self.named = {**named, "transformer_options": options} if "transformer_options" in named else dict(named)
        self.by_heads = bool(named.get("skip_reshape", rest[1] if len(rest) > 1 else False))
        self.output_by_heads = bool(named.get("skip_output_reshape", rest[2] if len(rest) > 2 else False))

    def heads_first(self, one: Tensor, width: int) -> Tensor:
        """(B, heads, tokens, width), as a view of what was given."""
        if self.by_heads:
            return one
        # Values of Stable Diffusion 3 come with their heads apart already.
        return (one if one.ndim == 4 else one.unflatten(-1, (-1, width))).transpose(1, 2)

    def length(self, one: Tensor) -> int:
        return one.shape[2 if self.by_heads else 1]

    def run(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, alone: bool = False) -> Tensor:
        if self.previous is None or alone:
            return self.func(q, k, v, self.heads, mask, *self.rest, **self.named)
        return self.previous(self.func, q, k, v, self.heads, mask, *self.rest, **self.named)

    def chained(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return self._split(self.run(*self._given(q, k, v), mask))

    def kernel(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return self._split(self.run(*self._given(q, k, v), mask, alone=True))

    def as_given(self, out: Tensor) -> Tensor:
        """(B, heads, tokens, width) -> the form that the block waits for."""
        return out if self.output_by_heads else out.transpose(1, 2).flatten(2)

    def _given(self, *several: Tensor) -> tuple[Tensor, ...]:
        return tuple(one if self.by_heads else one.transpose(1, 2).flatten(2) for one in several)

    def _split(self, out: Tensor) -> Tensor:
        return out if self.output_by_heads else out.unflatten(-1, (self.heads, -1)).transpose(1, 2)
