"""Flux 1 and 2: text, picture and references in one sequence; two streams in the first blocks, one in the rest."""

from __future__ import annotations

from typing import Any

from comfy.ldm.flux.model import Flux

from ..family import Entry, Padding, Site, TransformerFamily, joint
from ..sequence import ModelCall, Split


class FluxFamily(TransformerFamily):
    name = "Flux"
    networks = (Flux,)

    def padding(self, network: Any) -> Padding:
        """The host fills the prompts of Flux 2 up on the left."""
        return Padding("left", read=True) if getattr(network.params, "global_modulation", False) else Padding()

    def sites(self, network: Any) -> list[Site]:
        return [Site(block, i) for i, block in enumerate([*network.double_blocks, *network.single_blocks])]

    def split(self, network: Any, call: ModelCall, entry: Entry, queries: int, keys: int) -> Split | None:
        text = entry.arguments.get("txt")
        # Tokens that a patch has put before the text count into it. Flux KV Cache appends keys behind all others.
        before = entry.options["img_slice"][0] if text is None else text.shape[1]
        return joint(call, call.grid(self.patch(network)), before, queries, keys)


FAMILY = FluxFamily()
