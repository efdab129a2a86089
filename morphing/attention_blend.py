"""Self-attention that reads the key pictures: DiffMorpher (arXiv 2312.07409), section 4.2, and what came after it.

Frame i lies between key pictures; W_ik is the weight of key picture k in it (one-hot for a key picture itself). All
rows are of one batch, so a frame can read the key pictures' features of the same step.

    input:   (official code) keys and values are projected from sum_k W_ik n_k, the mixture of the key rows' attention
             inputs, by the frame's own (mixed) weights;
    values:  (the paper) sum_k W_ik K_k and sum_k W_ik V_k, the keys and values that the key rows made themselves;
    output:  (AID, arXiv 2403.17924; FreeMorph, arXiv 2507.01953) sum_k W_ik Attention(Q_i, K_k, V_k).

`strength` s blends with what the frame would have done alone, (1 - s) own + s mixed: 0 is no change, 1 the papers'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor

Blend = Literal["input", "values", "output"]
BLENDS: tuple[Blend, ...] = get_args(Blend)

# Attention over (B, tokens, heads * dim) queries, keys, values -> the same shape.
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def mix_rows(features: Tensor, weights: Tensor, key_rows: Sequence[int], strength: float, groups: int = 1) -> Tensor:
    """Each row blended with its mixture of the key rows.

    features: (groups * rows, T, C), group after group (the host's prompts); weights: (rows, keys); key_rows: which row
    of a group each key picture is. Returns features' shape; rows that are key pictures come back to the bit.
    """
    by_group = rearrange(features, "(g n) t c -> g n t c", g=groups)
    keys = by_group[:, list(key_rows)]
    mixed = torch.einsum("nk,gktc->gntc", weights.to(features), keys)
    blended = torch.lerp(by_group, mixed, strength)
    blended[:, list(key_rows)] = keys
    return rearrange(blended, "g n t c -> (g n) t c")


def mix_outputs(
    attention: Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor,
    key_rows: Sequence[int],
    strength: float,
    groups: int = 1,
) -> Tensor:
    """Attention outputs blended: (1 - s) of each row's own and s of its mixture over the key rows' keys and values.

    q, k, v: (groups * rows, T, C); the rest as in `mix_rows`. One attention a key picture, over the rows it is in.
    """
    own = attention(q, k, v)
    result = rearrange(own, "(g n) t c -> g n t c", g=groups) * (1.0 - strength)
    q, k, v = (rearrange(x, "(g n) t c -> g n t c", g=groups) for x in (q, k, v))
    for place, row in enumerate(key_rows):
        readers = _readers(weights, place)
        if not readers:
            continue
        count = len(readers)
        shared = (rearrange(x[:, [row] * count], "g n t c -> (g n) t c") for x in (k, v))
        read = attention(rearrange(q[:, readers], "g n t c -> (g n) t c"), *shared)
        fraction = weights[readers, place].to(read).reshape(1, count, 1, 1)
        result[:, readers] += strength * fraction * rearrange(read, "(g n) t c -> g n t c", n=count)
    return _keep_own(rearrange(result, "g n t c -> (g n) t c"), own, key_rows, groups)


def mix_tokens(
    attend: Attention,
    plain: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    picture: slice,
    *,
    weights: Tensor,
    key_rows: Sequence[int],
    strength: float,
    groups: int = 1,
) -> Tensor:
    """`mix_outputs` where the picture is a part of the sequence: of a key picture its tokens alone are read, and what
    else stands in the sequence is a row's own.

    q, k, v: (groups * rows, heads, T, C); picture: its tokens. plain: attention of some rows, whose numbers it gets,
    too.
    """
    own = attend(q, k, v)
    result, rows = own * (1.0 - strength), q.shape[0] // groups
    for place, row in enumerate(key_rows):
        for begin in range(0, groups * rows, rows):
            readers = [begin + reader for reader in _readers(weights, place)]
            if not readers:
                continue
            asked, values = k[readers], v[readers]
            asked[:, :, picture], values[:, :, picture] = k[begin + row, :, picture], v[begin + row, :, picture]
            fraction = weights[[reader - begin for reader in readers], place].to(own).reshape(-1, 1, 1, 1)
            result[readers] += strength * fraction * plain(q[readers], asked, values, readers)
    return _keep_own(result, own, key_rows, groups)


def active_until(sigmas: Tensor, until: float) -> float:
    """The noise level below which the blend rests.

    sigmas: (N+1,) the levels of the run, falling; until: the paper's lambda, the fraction of the N steps that
    are blended, 0 none, 1 all. A call is blended while its noise level is *above* the returned one (samplers that ask
    between two levels belong to the step that they are in).
    """
    steps = len(sigmas) - 1
    blended = min(max(round(until * steps), 0), steps)
    if blended == 0:
        return float("inf")
    # Halfway to the next level, since a model call may come with a rounded one.
    return float(sigmas[blended - 1] + sigmas[blended]) / 2 if blended < steps else -1.0


def _readers(weights: Tensor, place: int) -> list[int]:
    return [row for row, weight in enumerate(weights[:, place].tolist()) if weight > 0]


def _keep_own(result: Tensor, own: Tensor, key_rows: Sequence[int], groups: int) -> Tensor:
    """Key pictures read themselves alone: their own output to the bit, whatever the rounding of the sum."""
    rows = len(own) // groups
    kept = [group * rows + row for group in range(groups) for row in key_rows]
    result[kept] = own[kept]
    return result
