"""Chroma: Flux's blocks in a network of its own, with prompts that are not filled up."""

from __future__ import annotations

from comfy.ldm.chroma.model import Chroma

from .flux import FluxFamily


class ChromaFamily(FluxFamily):
    name = "Chroma"
    networks = (Chroma,)


FAMILY = ChromaFamily()
