"""Wan 2.1 and 2.2: the picture or video asks itself, then the features of a first picture if any, and the text."""

from __future__ import annotations

from comfy.ldm.wan.model import WanI2VCrossAttention, WanModel

from ..family import Entry, Padding, Site, TransformerFamily, alone, asking
from ..sequence import ModelCall, Split


class WanFamily(TransformerFamily):
    name = "Wan"
    networks = (WanModel,)

    def padding(self, network: WanModel) -> Padding:
        return Padding(read=True)

    def patch(self, network: WanModel) -> int:
        return network.patch_size[1]

    def sites(self, network: WanModel) -> list[Site]:
        return [Site(one, i) for i, block in enumerate(network.blocks) for one in (block.self_attn, block.cross_attn)]

    def split(self, network: WanModel, call: ModelCall, entry: Entry, queries: int, keys: int) -> Split | None:
        grid, begin = call.grid(self.patch(network)), self._reference(network, call)
        if entry.site.module is network.blocks[entry.site.block].self_attn:
            return alone(grid, begin, queries, keys)
        # From picture to video the features of the first picture are asked first, by themselves.
        text = entry.nth == int(isinstance(entry.site.module, WanI2VCrossAttention))
        return asking(grid, begin, queries, keys) if text else None

    @staticmethod
    def _reference(network: WanModel, call: ModelCall) -> int:
        """Tokens of a reference picture, which stand before the picture's own."""
        reference = call.extra.get("reference_latent")
        if network.ref_conv is None or reference is None:
            return 0
        rows, columns = network.ref_conv.stride
        return (reference.shape[-2] // rows) * (reference.shape[-1] // columns)


FAMILY = WanFamily()
