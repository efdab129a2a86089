"""Cosmos-Predict 2 and Anima: the picture attends to itself, then to the text."""

from __future__ import annotations

from comfy.ldm.anima.model import Anima
from comfy.ldm.cosmos.predict2 import MiniTrainDIT

from ..family import Entry, Padding, Site, TransformerFamily, alone, asking
from ..sequence import ModelCall, Split


class CosmosFamily(TransformerFamily):
    name = "Cosmos-Predict 2 and Anima"
    networks = (MiniTrainDIT, Anima)

    def padding(self, network: MiniTrainDIT) -> Padding:
        return Padding(read=True)

    def patch(self, network: MiniTrainDIT) -> int:
        return network.patch_spatial

    def sites(self, network: MiniTrainDIT) -> list[Site]:
        return [Site(one, i) for i, block in enumerate(network.blocks) for one in (block.self_attn, block.cross_attn)]

    def split(self, network: MiniTrainDIT, call: ModelCall, entry: Entry, queries: int, keys: int) -> Split | None:
        frames, *sides = call.grid(self.patch(network))
        grid = (-(-frames // network.patch_temporal), *sides)
        own = entry.site.module is network.blocks[entry.site.block].self_attn
        return alone(grid, 0, queries, keys) if own else asking(grid, 0, queries, keys)


FAMILY = CosmosFamily()
