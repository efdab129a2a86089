"""A mixture of LoRAs for each row of a batch, beside the frozen weights: DiffMorpher (arXiv 2312.07409), eq. 4.

The paper mixes the *products*, dW(alpha) = (1 - alpha) B0 A0 + alpha B1 A1. Its official code mixes the *factors*,
dW(alpha) = ((1 - alpha) B0 + alpha B1) ((1 - alpha) A0 + alpha A1), whose cross terms B0 A1 and B1 A0 mean something
only where both LoRAs were fitted from one start. Both are exact here for K LoRAs and a mixture of its own per row:
with the factors of all LoRAs stacked, a row's weights scale the narrow vector between the two,

    product:  y_i += [B_0 ... B_{K-1}] (w_i0 A_0 x_i, ..., w_iK A_{K-1} x_i)
    factor:   y_i += [B_0 ... B_{K-1}] (w_i0 u_i, ..., w_iK u_i),   u_i = sum_k w_ik A_k x_i

so no weight is changed and no matrix is built per row. Other kinds of change (LoHa, LoKr) are kept as their factors;
the matrix of one layer is built when the layer is called, and let go after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

Mixing = Literal["product", "factor"]
MIXINGS: tuple[Mixing, ...] = get_args(Mixing)


@dataclass(frozen=True, eq=False)
class LowRank:
    """One LoRA's change of one layer, dW = up @ down.

    down: (r, in), or (r, in, kh, kw) for a convolution (of as many dimensions as the layer has); up: (out, r), with the
    LoRA's scale (alpha / r) in it.
    """

    down: Tensor
    up: Tensor


@dataclass(frozen=True, eq=False)
class Composed:
    """One LoRA's change of one layer as factors of any kind, and how its matrix is made of them.

    compose: (factors, device) -> the change in the weight's own shape, float32 on that device; it is not kept.
    """

    factors: tuple[Tensor, ...]
    compose: Callable[[Sequence[Tensor], torch.device], Tensor]

    def matrix(self, like: Tensor) -> Tensor:
        """The whole change, on the device and in the precision of `like`."""
        return self.compose(self.factors, like.device).to(like.dtype)

    def scaled(self, scale: float) -> Composed:
        return Composed(self.factors, lambda factors, device: scale * self.compose(factors, device))

    def plus(self, other: Composed) -> Composed:
        """The sum of two changes of one layer."""
        mine = len(self.factors)
        both = lambda factors, device: self.compose(factors[:mine], device) + other.compose(factors[mine:], device)
        return Composed((*self.factors, *other.factors), both)

    def to(self, device: torch.device) -> Composed:
        """A copy elsewhere. The factors keep their precision, since their product loses what each of them loses."""
        return Composed(tuple(factor.to(device, copy=True) for factor in self.factors), self.compose)


# The change of a layer that is no low-rank product.
Full = Tensor | Composed


@dataclass(frozen=True)
class Operation:
    """What a layer does with its weight, so that the same can be done with a change of it.

    apply: (x, weight) -> output, without the bias; expand: (u, up) -> output, from the narrow vector to the features.
    axis: of the output's features, counted from the end.
    """

    apply: Callable[[Tensor, Tensor], Tensor]
    expand: Callable[[Tensor, Tensor], Tensor] | None
    axis: int

    def per_row(self, weights: Tensor, like: Tensor) -> Tensor:
        """(B, F) shaped to multiply the features of (B, ..., F, ...)."""
        shape = [1] * like.ndim
        shape[0], shape[self.axis] = weights.shape
        return weights.reshape(shape).to(like.dtype)


LINEAR = Operation(F.linear, F.linear, -1)


def convolution(dimensions: int = 2, **geometry) -> Operation:
    """A convolution over 1 to 3 dimensions with `stride`, `padding`, `dilation` of the layer; the factor up is 1x1."""
    function = (F.conv1d, F.conv2d, F.conv3d)[dimensions - 1]
    expand = lambda u, up: function(u, up.reshape(*up.shape, *[1] * dimensions))
    return Operation(partial(function, **geometry), expand, -1 - dimensions)


def layer_norm(shape: Sequence[int], eps: float) -> Operation:
    """The gain of a layer norm over the last axis."""
    return Operation(lambda x, gain: F.layer_norm(x, tuple(shape), eps=eps) * gain.to(x.dtype), None, -1)


def rms_norm(shape: Sequence[int], eps: float | None) -> Operation:
    """The gain of a root-mean-square norm over the last axis."""
    return Operation(lambda x, gain: F.rms_norm(x, tuple(shape), eps=eps) * gain.to(x.dtype), None, -1)


def group_norm(groups: int, eps: float) -> Operation:
    """The gain of a group norm over (B, C, h, w)."""
    return Operation(lambda x, gain: F.group_norm(x, groups, eps=eps) * gain[:, None, None].to(x.dtype), None, -3)


class LayerMixture:
    """K LoRAs of one layer, mixed for each row.

    low, full, bias: K entries each, None where a LoRA leaves that part of the layer alone. `full` changes have the
    weight's own shape; `bias` changes are (out,). Raises ValueError for `factor` if the ranks of two LoRAs differ or
    one of them leaves out this layer.
    """

    def __init__(
        self,
        operation: Operation,
        *,
        low: Sequence[LowRank | None] = (),
        full: Sequence[Full | None] = (),
        bias: Sequence[Tensor | None] = (),
        mixing: Mixing = "product",
    ):
        self.operation, self.mixing = operation, mixing
        self.low, self.full, self.bias = tuple(low), tuple(full), tuple(bias)
        shapes = {branch.down.shape if branch else None for branch in self.low}
        if mixing == "factor" and len(shapes) > 1:
            raise ValueError(
                "Factor mixing needs LoRAs of one rank that change the same layers, such as LoRA Fit makes: choose "
                "`product`, which is right for any LoRAs."
            )

    def select(self, keys: Sequence[int]) -> StackedLayer:
        """The LoRAs of the given key pictures, stacked for use; the weights of a call are in this order."""
        low = [self.low[key] for key in keys] if self.low else []
        present = [(place, branch) for place, branch in enumerate(low) if branch is not None]
        owner = [place for place, branch in present for _ in range(branch.down.shape[0])]
        return StackedLayer(
            operation=self.operation,
            down=torch.cat([branch.down for _, branch in present]) if present else None,
            up=torch.cat([branch.up for _, branch in present], dim=1) if present else None,
            owner=torch.tensor(owner, dtype=torch.long, device=present[0][1].down.device) if present else None,
            full=_chosen(self.full, keys),
            bias=_chosen(self.bias, keys),
            mixing=self.mixing,
        )

    def stored_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of all LoRAs of the layer once they are moved to a device for a model of this precision."""
        branches = [part for branch in self.low if branch is not None for part in (branch.down, branch.up)]
        changes = [change for change in (*self.full, *self.bias) if change is not None]
        factors = [factor for change in changes if isinstance(change, Composed) for factor in change.factors]
        plain = [*branches, *(change for change in changes if isinstance(change, Tensor))]
        return sum(one.numel() for one in plain) * dtype.itemsize + sum(factor.nbytes for factor in factors)


@dataclass(frozen=True, eq=False)
class StackedLayer:
    """Some LoRAs of one layer, ready to be applied. `owner[r]`: the place of the LoRA that narrow component r is of."""

    operation: Operation
    down: Tensor | None
    up: Tensor | None
    owner: Tensor | None
    full: tuple[tuple[int, Full], ...]
    bias: tuple[tuple[int, Tensor], ...]
    mixing: Mixing

    def to(self, device: torch.device, dtype: torch.dtype) -> StackedLayer:
        """A copy elsewhere; a copy in any case, so that one made where gradients are on may serve them."""
        copied: Callable[[Tensor], Tensor] = lambda one: one.to(device, dtype, copy=True)
        return replace(
            self,
            down=None if self.down is None else copied(self.down),
            up=None if self.up is None else copied(self.up),
            owner=None if self.owner is None else self.owner.to(device, copy=True),
            full=tuple((at, one.to(device) if isinstance(one, Composed) else copied(one)) for at, one in self.full),
            bias=tuple((at, copied(one)) for at, one in self.bias),
        )

    def __call__(self, x: Tensor, output: Tensor, weights: Tensor) -> Tensor:
        """The layer's output with each row's mixture added.

        x: the layer's input; output: what it makes of x; both with rows first. weights: (rows, keys), on x's device.
        Where the layer sees n times as many rows (frames folded into the batch), each row counts for n in a row.
        """
        weights = rows_for(weights, x.shape[0])
        for place, change in self.full:
            matrix = change.matrix(x) if isinstance(change, Composed) else change.to(x.dtype)
            delta = self.operation.apply(x, matrix)
            output = output + delta * self.operation.per_row(weights[:, place : place + 1], delta)
        for place, change in self.bias:
            output = output + self.operation.per_row(weights[:, place : place + 1] * change, output)
        return output if self.down is None else output + self._low_rank(x, weights)

    def _low_rank(self, x: Tensor, weights: Tensor) -> Tensor:
        expand = self.operation.expand
        assert self.down is not None and self.up is not None and self.owner is not None and expand is not None
        narrow = self.operation.apply(x, self.down.to(x.dtype))
        spread = self.operation.per_row(weights.index_select(1, self.owner), narrow)
        narrow = narrow * spread
        if self.mixing == "factor":
            rank = len(self.owner) // weights.shape[1]
            last = narrow.movedim(self.operation.axis, -1)
            summed = rearrange(last, "... (k r) -> ... k r", r=rank).sum(-2)
            copies = summed.repeat((1,) * (summed.ndim - 1) + (weights.shape[1],))
            narrow = copies.movedim(-1, self.operation.axis) * spread
        return expand(narrow, self.up.to(x.dtype))


def rows_for(weights: Tensor, rows: int) -> Tensor:
    """The weights of `rows` rows, each of ours for one or several neighbours. ValueError if they do not fit."""
    times, rest = divmod(rows, len(weights))
    if rest or not times:
        raise ValueError(
            f"The model works on {rows} rows, but the LoRA mixture was made for {len(weights)}: give the latents, the "
            "prompts and the LoRAs of the morph the same ALPHAS."
        )
    return weights if times == 1 else weights.repeat_interleave(times, dim=0)


def _chosen(changes: Sequence, keys: Sequence[int]) -> tuple[tuple, ...]:
    if not changes:
        return ()
    return tuple((place, one) for place, key in enumerate(keys) if (one := changes[key]) is not None)
