"""Attention maps of a run, added up row by row where they lie in the picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class MapSums:
    """Sums of maps of layers, steps and parts of a picture.

    size: of the latent; factor: how many times smaller the maps are. A row's map covers the whole picture; parts that
    overlap are averaged, and a place that no part has covered counts as not attended to.
    """

    def __init__(self, size: tuple[int, int], factor: int):
        self.factor = factor
        self.cells = self._cells(size)
        self._sums: dict[int, Tensor] = {}
        self._seen: dict[int, Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self._sums)

    def _cells(self, size: tuple[int, int]) -> tuple[int, int]:
        height, width = size
        return -(-int(height) // self.factor), -(-int(width) // self.factor)

    def add(self, row: int, maps: Tensor, size: tuple[int, int], top: int = 0, left: int = 0) -> None:
        """maps: (K, h, w) of a row of the batch, from a part of `size` cells of the latent that lies at (top, left)."""
        cells = self._cells(size)
        if tuple(maps.shape[-2:]) != cells:
            # A node that shrinks the features for a while, for example.
            maps = F.interpolate(maps[None], size=cells, mode="bilinear", align_corners=False)[0]
        if row not in self._sums:
            self._sums[row] = maps.new_zeros(maps.shape[0], *self.cells)
            self._seen[row] = maps.new_zeros(self.cells)
        begins = [min(round(at / self.factor), full - cut) for at, full, cut in zip((top, left), self.cells, cells)]
        place = tuple(slice(begin, begin + cut) for begin, cut in zip(begins, cells))
        self._sums[row][(slice(None), *place)] += maps
        self._seen[row][place] += 1

    def totals(self) -> list[Tensor]:
        """For each row (K, h, w): the sum of all its maps, as if every place had been covered as often as any."""
        found = []
        for row in sorted(self._sums):
            seen = self._seen[row]
            found.append(self._sums[row] * torch.where(seen > 0, seen.max() / seen.clamp_min(1), 0.0))
        return found

    def means(self) -> list[Tensor]:
        """For each row (K, h, w): the mean of its maps."""
        return [total / self._seen[row].max() for row, total in zip(sorted(self._sums), self.totals())]

    def whole(self) -> bool:
        """Whether every place of every row has been covered."""
        return all(bool((seen > 0).all()) for seen in self._seen.values())
