"""What a family of transformers says of itself: where its network has attention, and where tokens stand in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from .sequence import ModelCall, Split


@dataclass(frozen=True)
class Padding:
    """How prompts of unequal length share a batch: filled up with zeros on one side to a common length, itself a
    multiple. read: as the host itself fills them up, so that the zeros are read; else nobody may read them."""

    side: Literal["left", "right"] = "right"
    read: bool = False
    multiple: int = 1

    def unread(self, text: slice, length: int) -> slice:
        """The places that a row must not read which has `length` tokens by itself. text: those of the longest."""
        own = -(-length // self.multiple) * self.multiple
        if self.side == "left":
            return slice(text.start, max(text.start, text.stop - own))
        return slice(min(text.stop, text.start + own), text.stop)


@dataclass(frozen=True)
class Site:
    """A module in which attention happens, and the number of its block. The host hands it `transformer_options` by
    name."""

    module: torch.nn.Module
    block: int


@dataclass(frozen=True)
class Entry:
    """A site that the forward pass has just entered. arguments: what the host gave it by name; options: its
    `transformer_options`; nth: how many attentions have run in it since."""

    site: Site
    arguments: Mapping[str, Any]
    options: Mapping[str, Any]
    nth: int


class TransformerFamily:
    """One file in `families` for each. name: how a sentence calls it; networks: the host's classes."""

    name: str
    networks: tuple[type, ...]

    def padding(self, network: Any) -> Padding:
        return Padding()

    def patch(self, network: Any) -> int:
        """Cells of the latent along a side of a picture token."""
        return int(network.patch_size)

    def sites(self, network: Any) -> Sequence[Site]:
        """In the order of the forward pass."""
        raise NotImplementedError

    def split(self, network: Any, call: ModelCall, entry: Entry, queries: int, keys: int) -> Split | None:
        """The tokens of the attention under way, which has so many queries and keys; None where it is none of the
        model's own (a picture encoder's, say)."""
        raise NotImplementedError

    def text_sites(self, network: Any) -> Sequence[Site]:
        """Where the tokens of the text attend to each other before the blocks."""
        return ()

    def text(self, network: Any, call: ModelCall) -> slice:
        """The prompt among the tokens of these sites."""
        return slice(0, call.text)

    def filling(self, network: Any, call: ModelCall, lengths: Mapping[int, int]) -> Mapping[torch.nn.Module, Callable]:
        """Modules with forward hooks that fill rows up within the multiple of the padding. lengths: of rows."""
        return {}


def joint(call: ModelCall, grid: tuple[int, int, int], before: int, queries: int, keys: int) -> Split | None:
    """Text, then the picture, then references if any: `before` tokens stand before the picture, the context's last."""
    picture = slice(before, before + grid[0] * grid[1] * grid[2])
    if picture.stop > min(queries, keys) or before < call.text:
        return None
    return Split("joint", slice(before - call.text, before), picture, grid)


def alone(grid: tuple[int, int, int], begin: int, queries: int, keys: int) -> Split | None:
    """The picture by itself, from token `begin` on."""
    picture = slice(begin, begin + grid[0] * grid[1] * grid[2])
    return Split("self", slice(0, 0), picture, grid) if picture.stop <= min(queries, keys) else None


def asking(grid: tuple[int, int, int], begin: int, queries: int, keys: int) -> Split | None:
    """The picture, from token `begin` on, asks the text."""
    picture = slice(begin, begin + grid[0] * grid[1] * grid[2])
    return Split("cross", slice(0, keys), picture, grid) if picture.stop <= queries else None
