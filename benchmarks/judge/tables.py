"""The field's table: every technique's means beside the published rows, as text and for the report page."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..results import error_of_mean, mean, number
from .records import Record


class Column(NamedTuple):
    """A measure as the table shows it: times `factor`; up: whether more is better, None where neither is."""

    head: str
    factor: float = 1.0
    up: bool | None = None


COLUMNS = {
    "structure": Column("structure x 1e3", 1e3, False),
    "psnr": Column("PSNR", 1.0, True),
    "lpips": Column("LPIPS x 1e3", 1e3, False),
    "mse": Column("MSE x 1e4", 1e4, False),
    "ssim": Column("SSIM x 1e2", 1e2, True),
    "fidelity": Column("image fidelity", 1.0, True),
    "clip": Column("CLIP whole", 1.0, True),
    "clip_edited": Column("CLIP edited", 1.0, True),
    "psnr_own": Column("PSNR of the background alone", 1.0, True),
    "structure_unit": Column("structure x 1e3, of 0..1", 1e3, False),
    "seconds": Column("seconds"),
    "calls": Column("model calls"),
    "peak": Column("peak GB", 1e-9),
}
COSTS = ("seconds", "calls", "peak")


class Line(NamedTuple):
    """A row of the table. cells: by column, (mean, its standard error or None) in the column's own scale."""

    name: str
    cases: int
    cells: dict[str, tuple[float, float | None]]
    published: bool = False


def line_of(title: str, records: Iterable[Record]) -> Line:
    """A technique's means over the edits that came to an end; of seconds the median, for the first one loads models."""
    whole = [record for record in records if not record.error]
    cells = {}
    for name, column in COLUMNS.items():
        values = [getattr(one, name) if name in COSTS else one.measures.get(name) for one in whole]
        known = [column.factor * value for value in values if value is not None]
        if name == "peak" and known:
            cells[name] = max(known), None
        elif known:
            cells[name] = statistics.median(known) if name == "seconds" else mean(known), error_of_mean(known)
    return Line(title, len(whole), cells)


def columns_of(lines: Sequence[Line]) -> list[str]:
    """Those that any line of our own has."""
    return [name for name in COLUMNS if any(name in line.cells for line in lines if not line.published)]


def cell_text(line: Line, name: str) -> str:
    value, error = line.cells.get(name, (None, None))
    if value is None:
        return "-"
    return number(round(value, 2)) if error is None else f"{number(round(value, 2))} +- {number(float(f'{error:.2g}'))}"


def rows_of(lines: Sequence[Line]) -> list[list[str]]:
    """The head, and a list of cells for each line."""
    names = columns_of(lines)
    head = ["", "cases", *(COLUMNS[name].head for name in names)]
    body = [[line.name, str(line.cases or "-"), *(cell_text(line, name) for name in names)] for line in lines]
    return [head, *body]


def text_of(lines: Sequence[Line]) -> str:
    """Aligned columns for a terminal."""
    rows = rows_of(lines)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def published_line(name: str, values: Mapping[str, float]) -> Line:
    """values: as the papers print them."""
    return Line(name, 0, {key: (value, None) for key, value in values.items()}, published=True)
