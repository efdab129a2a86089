"""Text embeddings between key prompts: DiffMorpher (arXiv 2312.07409), eq. 6: a straight line, token by token.

Prompts of different length are brought to one length first. Where the model reads the text by cross-attention alone,
repeating a prompt changes nothing (each token's weight in the softmax is split among its copies), so the shorter one
is repeated and the ends of the morph stay exactly what each prompt alone gives. Where that would make the text many
times longer, zeros are appended instead, as the host's own Conditioning (Average) does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import repeat
from torch import Tensor
from torch.nn.functional import pad

from .schedule import Alphas

# Repeating prompts of T tokens to a common length is worth it up to this many times the longest.
_LONGEST = 4


def morph_rows(keys: Tensor, alphas: Alphas) -> Tensor:
    """(N, ...) rows on the lines between the key rows (K, ...); a frame on a key picture is that row to the bit."""
    rows = []
    for value in alphas.values:
        low, high, fraction = alphas.between(value)
        rows.append(torch.lerp(keys[low], keys[high], fraction) if fraction > 0 else keys[low])
    return torch.stack(rows)


def united_masks(keys: Tensor, alphas: Alphas) -> Tensor:
    """(N, T) from the key prompts' masks (K, T), not 0 where a token is read: a frame reads what either prompt reads.

    A frame on a key picture has that prompt's own mask.
    """
    pairs = [alphas.between(value)[:2] for value in alphas.values]
    return torch.stack([torch.maximum(keys[low], keys[high]) for low, high in pairs])


def same_length(texts: Sequence[Tensor], *, repeatable: bool = True) -> list[Tensor]:
    """Token embeddings (..., T_i, D) brought to one length T.

    repeatable: whether the model reads the text by cross-attention alone, so that a prompt may be repeated.
    Raises ValueError if the widths D differ: such embeddings belong to different text encoders.
    """
    widths = {text.shape[-1] for text in texts}
    if len(widths) > 1:
        sizes = " and ".join(str(width) for width in sorted(widths))
        raise ValueError(
            f"The prompts were encoded by different text encoders (embeddings of width {sizes}): encode all of them "
            "with one CLIP."
        )
    lengths = [text.shape[-2] for text in texts]
    common = math.lcm(*lengths)
    if repeatable and common <= _LONGEST * max(lengths):
        return [repeat(text, "... t d -> ... (n t) d", n=common // text.shape[-2]) for text in texts]
    return [pad(text, (0, 0, 0, max(lengths) - text.shape[-2])) for text in texts]
