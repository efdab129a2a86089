"""The families of transformers whose attention is known, a file for each: where their blocks, texts and pictures are.

A technique asks `family_of` and knows none of them by name.
"""

from __future__ import annotations

import torch

from ..family import TransformerFamily
from . import chroma, cosmos, flux, hidream, krea2, lumina, qwen_image, sd3, wan

FAMILIES: list[TransformerFamily] = [
    one.FAMILY for one in (flux, chroma, sd3, qwen_image, krea2, lumina, wan, cosmos, hidream)
]


def family_of(network: torch.nn.Module) -> TransformerFamily | None:
    """The family of a network of the host; None where it is unknown here."""
    return next((family for family in FAMILIES if type(network) in family.networks), None)
