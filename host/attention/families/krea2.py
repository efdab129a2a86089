"""Krea 2: text, picture and references in one stream; the text's layers are fused, and its tokens mixed, before it."""

from __future__ import annotations

from comfy.ldm.krea2.model import SingleStreamDiT as Krea2

from ..family import Entry, Site, TransformerFamily, joint
from ..sequence import ModelCall, Split


class Krea2Family(TransformerFamily):
    name = "Krea 2"
    networks = (Krea2,)

    def patch(self, network: Krea2) -> int:
        return network.patch

    def sites(self, network: Krea2) -> list[Site]:
        return [Site(block, i) for i, block in enumerate(network.blocks)]

    def text_sites(self, network: Krea2) -> list[Site]:
        return [Site(block, -1) for block in network.txtfusion.refiner_blocks]

    def split(self, network: Krea2, call: ModelCall, entry: Entry, queries: int, keys: int) -> Split | None:
        return joint(call, call.grid(self.patch(network)), entry.options["img_slice"][0], queries, keys)


FAMILY = Krea2Family()
