"""CONDITIONING of a morph: one entry whose rows are the frames' prompts, which the host hands out row by row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..morphing.conditioning import morph_rows, same_length
from ..morphing.schedule import Alphas
from .checks import require_conditioning

# The key pictures' own embeddings travel with the frames', for Attention Blend to carry key pictures by.
KEYS = "palimpsest_keys"
POOLED = "pooled_output"
# Wider embeddings belong to models that read text and picture in one attention, where a repeated prompt weighs more.
_WIDEST_OF_CROSS_ATTENTION = 2048


def morphed(conditionings: Sequence[list], alphas: Alphas) -> list:
    """CONDITIONING of N rows from one CONDITIONING a key picture (or one, of K rows or for all of them).

    Tokens and pooled outputs lie on straight lines between the key pictures' own; everything else (areas, ControlNets,
    sizes, hooks) is the first one's. Raises ValueError with a sentence for prompts that cannot be mixed.
    """
    keys = key_conditionings(conditionings, alphas.keyframes)
    return [_morphed_entry([key[place] for key in keys], alphas) for place in range(len(keys[0]))]


def key_conditionings(conditionings: Sequence[list], keyframes: int) -> list[list]:
    """One CONDITIONING a key picture, each with the same number of entries of one row."""
    given = [require_conditioning(one, f"The prompt of key picture {place}") for place, one in enumerate(conditionings)]
    keys = [row for one in given for row in _split(one)]
    if len(keys) == 1:
        keys = keys * keyframes
    if len(keys) != keyframes:
        raise ValueError(
            f"The morph has {keyframes} key pictures, but {len(keys)} prompts came in: connect one CONDITIONING a key "
            "picture, or a single one for all."
        )
    if len({len(key) for key in keys}) > 1:
        raise ValueError(
            "The prompts of the key pictures have different numbers of parts (combined or regional prompts): build all "
            "of them in the same way."
        )
    return keys


def _split(conditioning: list) -> list[list]:
    """A CONDITIONING of several rows as one CONDITIONING a row."""
    count = max(entry[0].shape[0] for entry in conditioning)
    pick = lambda tensor, row: tensor[row % tensor.shape[0]][None]
    split = []
    for row in range(count):
        entries = []
        for tokens, options in conditioning:
            options = {name: value for name, value in options.items() if name != KEYS}
            if isinstance(options.get(POOLED), Tensor):
                options[POOLED] = pick(options[POOLED], row)
            entries.append([pick(tokens, row), options])
        split.append(entries)
    return split


def _morphed_entry(entries: Sequence[list], alphas: Alphas) -> list:
    width = entries[0][0].shape[-1]
    repeatable = width <= _WIDEST_OF_CROSS_ATTENTION
    tokens = torch.cat(same_length([entry[0] for entry in entries], repeatable=repeatable))
    options = dict(entries[0][1])
    keys = {"cross_attn": tokens}
    pooled = [entry[1].get(POOLED) for entry in entries]
    if all(isinstance(one, Tensor) for one in pooled):
        keys[POOLED] = torch.cat(pooled)
        options[POOLED] = morph_rows(keys[POOLED], alphas)
    if len({entry[0].shape[1] for entry in entries}) > 1:
        options.pop("attention_mask", None)
    return [morph_rows(tokens, alphas), {**options, KEYS: keys}]
