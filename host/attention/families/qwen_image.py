"""Qwen-Image and Qwen-Image-Edit: text, picture and references in one sequence."""

from __future__ import annotations

from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel as QwenImage

from ..family import Entry, Site, TransformerFamily, joint
from ..sequence import ModelCall, Split


class QwenImageFamily(TransformerFamily):
    name = "Qwen-Image"
    networks = (QwenImage,)

    def sites(self, network: QwenImage) -> list[Site]:
        return [Site(block, i) for i, block in enumerate(network.transformer_blocks)]

    def split(self, network: QwenImage, call: ModelCall, entry: Entry, queries: int, keys: int) -> Split | None:
        before = entry.arguments["encoder_hidden_states"].shape[1]
        return joint(call, call.grid(self.patch(network)), before, queries, keys)


FAMILY = QwenImageFamily()
