"""Stable Diffusion 3 and 3.5: text, then picture. In the first blocks of 3.5-medium the picture also asks itself."""

from __future__ import annotations

from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper as MMDiT

from ..family import Entry, Site, TransformerFamily, alone, joint
from ..sequence import ModelCall, Split


class SD3Family(TransformerFamily):
    name = "Stable Diffusion 3"
    networks = (MMDiT,)

    def sites(self, network: MMDiT) -> list[Site]:
        return [Site(block, i) for i, block in enumerate(network.joint_blocks)]

    def split(self, network: MMDiT, call: ModelCall, entry: Entry, queries: int, keys: int) -> Split | None:
        grid = call.grid(self.patch(network))
        if entry.nth:
            return alone(grid, 0, queries, keys)
        # Register tokens, where there are any, stand before the text.
        return joint(call, grid, network.register_length + call.text, queries, keys)


FAMILY = SD3Family()
