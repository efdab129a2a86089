"""The README's table of what techniques cost, from the rows of the suite."""

from __future__ import annotations

from collections.abc import Sequence

from ..results import Row, number

TECHNIQUE = "Cost beside plain sampling"
PAPERCUT, SD1 = "Papercut", "SD1 size, random weights"
SIZES = (512, 1024)
STEPS = 20
PLACES = tuple(f"{kind}, {size} x {size}" for kind in (SD1, PAPERCUT) for size in SIZES)
TIME, MEMORY = f"time of {STEPS} steps, computed", "peak memory, measured"
HEAD = """| | time: SD1 512 | 1024 | Papercut 512 | 1024 | memory: SD1 512 | 1024 | Papercut 512 | 1024 |
|---|---|---|---|---|---|---|---|---|
"""


def cost_table(rows: Sequence[Row]) -> str:
    """A line a technique, of ratios to plain sampling; a dash for what was not measured."""
    values = {(row.mode, row.measure): row.value for row in rows if row.technique == TECHNIQUE}
    names = dict.fromkeys(name for name, measure in values if measure == f"{PLACES[0]}: {TIME}")
    if not names:
        return "Nothing has been measured yet."
    cells = lambda name, what: [_ratio(values.get((name, f"{place}: {what}"))) for place in PLACES]
    return HEAD + "\n".join(f"| {' | '.join([name, *cells(name, TIME), *cells(name, MEMORY)])} |" for name in names)


def _ratio(value: float | None) -> str:
    return "-" if value is None else number(round(value, 1 if value < 10 else 0))
