"""The blocks of the host's UNet, under the names that `transformer_options["block"]` gives them."""

from __future__ import annotations

import torch
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, Upsample

# "input", "middle" or "output", and the block's number.
Block = tuple[str, int]


def unet_blocks(network: torch.nn.Module) -> dict[Block, list[torch.nn.Module]]:
    """The layers of every block, in the order of the forward pass. Some UNets (KOALA, SDXS) have no middle block.

    The host calls these layers and never the block itself: the last layer's output is the block's.
    """
    middle = [network.middle_block] if network.middle_block is not None else []
    sides = {"input": network.input_blocks, "middle": middle, "output": network.output_blocks}
    return {(side, i): list(layers) for side, blocks in sides.items() for i, layers in enumerate(blocks)}


def attention_blocks(network: torch.nn.Module) -> dict[Block, int]:
    """The UNet's blocks with attention, and how many times smaller than the latent their feature maps are."""
    found: dict[Block, int] = {}
    factor = 1
    for block, layers in unet_blocks(network).items():
        for layer in layers:
            if isinstance(layer, SpatialTransformer):
                found[block] = factor
            # In a block the change of size comes last, or alone.
            elif isinstance(layer, Downsample):
                factor *= 2
            elif isinstance(layer, Upsample):
                factor = max(1, factor // 2)
    return found
