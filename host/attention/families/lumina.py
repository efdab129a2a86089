"""Lumina 2 and Z-Image: text, references, and the picture last; a refiner mixes the text's tokens before the blocks.

Z-Image fills every part up to a multiple of 32 with learned tokens, which are attended to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from comfy.ldm.lumina.model import NextDiT
from torch import Tensor

from ..family import Entry, Padding, Site, TransformerFamily
from ..sequence import ModelCall, Split


class LuminaFamily(TransformerFamily):
    name = "Lumina 2 and Z-Image"
    networks = (NextDiT,)

    def padding(self, network: NextDiT) -> Padding:
        """On the left, since positions count from the text to the picture."""
        return Padding("left", multiple=network.pad_tokens_multiple or 1)

    def sites(self, network: NextDiT) -> list[Site]:
        return [Site(layer, i) for i, layer in enumerate(network.layers)]

    def text_sites(self, network: NextDiT) -> list[Site]:
        return [Site(layer, -1) for layer in network.context_refiner]

    def split(self, network: NextDiT, call: ModelCall, entry: Entry, queries: int, keys: int) -> Split | None:
        frames, height, width = call.grid(self.patch(network))
        begin = keys - _filled(network, height * width)
        picture = slice(begin, begin + height * width)
        text = self.text(network, call)
        if queries != keys or text.stop > picture.start:
            return None
        return Split("joint", text, picture, (frames, height, width))

    def filling(self, network: NextDiT, call: ModelCall, lengths: Mapping[int, int]) -> dict[torch.nn.Module, Callable]:
        """Behind a shorter prompt stand the learned tokens that the model itself would fill it up with."""
        if network.pad_tokens_multiple is None:
            return {}

        def fill(module: torch.nn.Module, arguments: tuple, out: Tensor) -> Tensor | None:
            if out.shape[:2] != (call.rows, call.text):
                return None
            out = out.clone()
            for row, length in lengths.items():
                out[row, call.text - _filled(network, length) + length :] = network.cap_pad_token.to(out)
            return out

        return {network.cap_embedder: fill}

    def text(self, network: NextDiT, call: ModelCall) -> slice:
        """Captions of reference pictures stand before the prompt."""
        references, captions = call.extra.get("ref_latents") or (), call.extra.get("ref_contexts") or ()
        lengths = [captions[i].shape[1] if i < len(captions) else 1 for i in range(len(references))]
        begin = sum(_filled(network, length) for length in lengths)
        return slice(begin, begin + _filled(network, call.text))


def _filled(network: NextDiT, count: int) -> int:
    multiple = network.pad_tokens_multiple or 1
    return -(-count // multiple) * multiple


FAMILY = LuminaFamily()
