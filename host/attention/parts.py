"""Which rows of the batch a model call holds, and where in the picture they lie.

The host asks for several conditionings in one call, and areas, tiled diffusion and context windows cut the batch or the
picture into parts. What the parts are is known to the node that cuts alone; but they are cut out of one latent, and so
the place of each is found by its values.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# (row of the batch, top, left), in cells of the latent.
Place = tuple[int, int, int]


@dataclass(frozen=True)
class Part:
    """The batch in one part of a model call. rows: for each row of the batch, its row in the call; top, left: the
    part's place in the latent."""

    rows: tuple[int, ...]
    top: int = 0
    left: int = 0


def places(part: Tensor, whole: Tensor) -> list[Place]:
    """part: (C, h, w) -> every place in `whole` (B, C, H, W) where its values stand, none if it was not cut from it."""
    (height, width), (rows, columns) = part.shape[-2:], whole.shape[-2:]
    if height > rows or width > columns:
        return []
    corners = whole[:, :, : rows - height + 1, : columns - width + 1]
    found = (corners == part[:, :1, :1].to(whole)).all(1).nonzero().tolist()
    return [
        (row, top, left)
        for row, top, left in found
        if torch.equal(whole[row, :, top : top + height, left : left + width], part.to(whole))
    ]


def parts_of_call(x: Tensor, whole: Tensor, count: int, wanted: Collection[int]) -> list[Part] | None:
    """The parts of a model call that answer the conditionings `wanted`, out of the `count` that it asks for.

    x: (b, C, h, w), what the model is given, or (b, C, frames, h, w); whole: the same of the B rows that it was cut
    from. None where x does not hold
    every row of the batch for every conditioning, or was not cut from `whole`.
    """
    x, whole = x.flatten(1, -3), whole.flatten(1, -3)  # frames, if any, beside channels
    batch = whole.shape[0]
    if x.shape[0] % (count * batch):
        return None
    tiles = x.shape[0] // (count * batch)
    if tiles == 1 and x.shape[-2:] == whole.shape[-2:]:
        return [Part(tuple(range(i * batch, (i + 1) * batch))) for i in wanted]
    # A node that cuts the picture joins all rows of a tile, or all tiles of a row; where it stands shows which.
    for order in ("tiles first", "rows first"):
        found = [_found(x, whole, _rows(order, i, tile, count, batch, tiles)) for tile in range(tiles) for i in wanted]
        if all(part is not None for part in found):
            return found
    return None


def _rows(order: str, wanted: int, tile: int, count: int, batch: int, tiles: int) -> list[int]:
    """Where the rows of the batch stand in the call, for one conditioning and one tile."""
    if order == "tiles first":
        return [(tile * count + wanted) * batch + row for row in range(batch)]
    return [(wanted * batch + row) * tiles + tile for row in range(batch)]


def _found(x: Tensor, whole: Tensor, rows: Sequence[int]) -> Part | None:
    """The part that these rows of the call are, if they were all cut from one place."""
    common: set[tuple[int, int]] | None = None
    for row, place in enumerate(rows):
        here = {(top, left) for _, top, left in places(x[place], whole[row : row + 1])}
        common = here if common is None else common & here
        if not common:
            return None
    top, left = min(common)
    return Part(tuple(rows), top, left)
