"""CONDITIONING of a morph: one entry whose rows are the frames' prompts, which the host hands out row by row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...morphing.conditioning import morph_rows, same_length, united_masks
from ...morphing.schedule import Alphas
from ..validation import require_conditioning

# The key pictures' own embeddings stand beside the frames', for the extra key pictures of Attention Blend.
KEYS = "palimpsest_keys"
POOLED = "pooled_output"
MASK = "attention_mask"
# What a conditioning has row by row, beside its tokens.
OF_ROWS = (POOLED, MASK)
# Wider embeddings belong to models that read text and picture in one attention, where a repeated prompt weighs more.
_WIDEST_OF_CROSS_ATTENTION = 2048


def morphed(conditionings: Sequence[list], alphas: Alphas) -> list:
    """CONDITIONING of N rows from one CONDITIONING a key picture (or one, of K rows or for all of them).

    Tokens and pooled outputs lie on straight lines between the key pictures' own, and a frame reads each token that one
    of its two prompts reads; everything else (areas, ControlNets, sizes, hooks) is the first one's. Raises ValueError
    for prompts that cannot be mixed.
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
            for name in OF_ROWS:
                if isinstance(options.get(name), Tensor):
                    options[name] = pick(options[name], row)
            entries.append([pick(tokens, row), options])
        split.append(entries)
    return split


def _morphed_entry(entries: Sequence[list], alphas: Alphas) -> list:
    repeatable = entries[0][0].shape[-1] <= _WIDEST_OF_CROSS_ATTENTION
    tokens = torch.cat(same_length([entry[0] for entry in entries], repeatable=repeatable))
    options = dict(entries[0][1])
    keys = {"cross_attn": tokens}
    pooled = [entry[1].get(POOLED) for entry in entries]
    if all(isinstance(one, Tensor) for one in pooled):
        keys[POOLED] = torch.cat(pooled)
        options[POOLED] = morph_rows(keys[POOLED], alphas)
    masks = _masks(entries, repeatable)
    if masks is not None and bool((masks != masks[0]).any()):
        keys[MASK] = masks
        options[MASK] = united_masks(masks, alphas)
    elif masks is not None:
        options[MASK] = masks[:1]
    elif len({entry[0].shape[1] for entry in entries}) > 1:
        options.pop(MASK, None)
    return [morph_rows(tokens, alphas), {**options, KEYS: keys}]


def _masks(entries: Sequence[list], repeatable: bool) -> Tensor | None:
    """(K, T), which tokens of each key prompt are read, brought to the tokens' common length.

    A prompt without a mask is read whole. None where no prompt has one, or one has a mask of another kind.
    """
    given = [entry[1].get(MASK) for entry in entries]
    masked = [one for one in given if one is not None]
    fits = lambda one, tokens: isinstance(one, Tensor) and one.shape == tokens.shape[:2]
    if not masked or not all(one is None or fits(one, tokens) for one, (tokens, _) in zip(given, entries)):
        return None
    whole = [masked[0].new_ones(tokens.shape[:2]) if one is None else one for one, (tokens, _) in zip(given, entries)]
    return torch.cat(same_length([one[..., None].to(masked[0]) for one in whole], repeatable=repeatable))[..., 0]
