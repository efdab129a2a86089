"""HiDream: picture, then T5's columns, then Llama's twice, of its last layer and of one of each block's own."""

from __future__ import annotations

from comfy.ldm.hidream.model import HiDreamImageTransformer2DModel as HiDream

from ..family import Entry, Padding, Site, TransformerFamily
from ..sequence import ModelCall, Split


class HiDreamFamily(TransformerFamily):
    name = "HiDream"
    networks = (HiDream,)

    def padding(self, network: HiDream) -> Padding:
        return Padding(read=True)

    def sites(self, network: HiDream) -> list[Site]:
        blocks = [*network.double_stream_blocks, *network.single_stream_blocks]
        return [Site(block, i) for i, block in enumerate(blocks)]

    def split(self, network: HiDream, call: ModelCall, entry: Entry, queries: int, keys: int) -> Split | None:
        if call.extra.get("image_cond") is not None:
            raise ValueError(
                "This HiDream puts the picture to edit beside the new one, where their tokens cannot be separated: "
                "load one that makes pictures from text."
            )
        grid = call.grid(self.patch(network))
        picture = slice(0, grid[1] * grid[2])
        return Split("joint", slice(picture.stop, keys), picture, grid) if picture.stop < queries == keys else None


FAMILY = HiDreamFamily()
