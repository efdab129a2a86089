"""The map of two texts alone, as most tests ask for it."""

from __future__ import annotations

from palimpsest.guidance.diffedit.heat_map import heat_map
from palimpsest.host.diffedit.heat_map import compare


def heat(model, prompts, latent, recipe, items):
    """The raw map (B, h, w), and how many samples of the network it took."""
    found = compare(model, prompts, latent, recipe, items)
    return heat_map(found.maps), found.cost
