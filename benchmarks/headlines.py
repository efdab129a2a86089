"""The fifteen rows that the README shows, in words that need no paper, each with its spread where there is one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .results import Row, number

Z = 1.96  # 95 % of a normal distribution


@dataclass(frozen=True, kw_only=True)
class Headline:
    """What the README says of one row, beside that of another mode of the same measure.

    technique, measure, mode: the row. words: its line. beside: the other mode, "" for none.
    error: the measure of its standard error, "" for none. count: how many cases a rate is of, 0 for what is no rate.
    """

    technique: str
    measure: str
    mode: str
    words: str
    beside: str = ""
    error: str = ""
    count: int = 0


HEADLINES = (
    Headline(
        technique="NullText Optimize after the papers' inversion",
        measure="faithful's time over fast's, 50 levels, Papercut",
        mode="fast",
        words="Null text: times as fast as the paper's steps",
    ),
    Headline(
        technique="NullText Optimize after the papers' inversion",
        measure="behind faithful",
        mode="fast",
        words="... and how far behind them the picture comes back (below 0: ahead)",
    ),
    Headline(
        technique="Prompt-to-Prompt",
        measure="edit success, 105 edits, CFG 4",
        mode="anchored source, local blend",
        words="Prompt-to-Prompt: edits that come out as the new caption says",
        count=105,
    ),
    Headline(
        technique="Prompt-to-Prompt",
        measure="background outside the true mask",
        mode="anchored source, local blend",
        words="... and PSNR of what was to stay (through the autoencoder alone: 36.1 dB)",
    ),
    Headline(
        technique="DiffEdit Mask",
        measure="IoU, objects",
        mode="adaptive",
        words="DiffEdit: overlap (IoU) of the found mask with the true one",
        beside="diffusers",
    ),
    Headline(
        technique="DiffEdit",
        measure="edits with the whole caption right, depth 0.65",
        mode="fast",
        words="... edits that come out as the whole new caption says, depth 0.65",
        beside="SDEdit",
        count=200,
    ),
    Headline(
        technique="DiffEdit",
        measure="background PSNR outside the true mask, at most 60, depth 0.65",
        mode="fast",
        words="... and PSNR of what was to stay",
        beside="SDEdit",
    ),
    Headline(
        technique="DiffEdit",
        measure="times as fast as diffusers, the whole edit",
        mode="fast",
        words="... and times as fast as diffusers' pipeline",
    ),
    Headline(
        technique="Motion Guidance",
        measure="at the goal within 3 px",
        mode="fast",
        words="Motion: things that arrive within 3 pixels of their goal",
        beside="instant",
        count=100,
    ),
    Headline(
        technique="Motion Guidance",
        measure="ghosts at the old place",
        mode="fast",
        words="... things that are still seen where they were",
        beside="instant",
        count=71,
    ),
    Headline(
        technique="Motion Guidance",
        measure="flow error, same motions",
        mode="fast",
        words="... and error of the motion, beside the paper's recipe cut to 80 evaluations",
        beside="faithful",
    ),
    Headline(
        technique="Sketch guidance",
        measure="all sketches: edge F1",
        mode="guided",
        words="Sketch: how well the picture's edges are those of the sketch (F1)",
        beside="no guidance",
    ),
    Headline(
        technique="Sketch guidance",
        measure="all sketches: caption success lost",
        mode="guided",
        words="... and what that costs in pictures that fit their caption, 576 sketches",
        error="all sketches: caption success lost, standard error",
    ),
    Headline(
        technique="DiffMorpher",
        measure="variation of the steps, saved, 40 pairs",
        mode="+ reschedule over + AdaIN",
        words="Morph: unevenness of the pace (0: even) that Reschedule takes away",
        error="variation of the steps, saved, 40 pairs: standard error",
    ),
    Headline(
        technique="DiffMorpher",
        measure="16 frames, rescheduled: faster than as published",
        mode="fast",
        words="... and times as fast as published, 16 frames",
    ),
)


def wilson(fraction: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a rate in 0..1 that was seen in `count` independent cases (Wilson, 1927)."""
    shrink = 1 + Z * Z / count
    middle = (fraction + Z * Z / (2 * count)) / shrink
    reach = Z * math.sqrt(fraction * (1 - fraction) / count + Z * Z / (4 * count * count)) / shrink
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def found(rows: Iterable[Row], technique: str, measure: str, mode: str) -> Row:
    """The row of that key. Raises ValueError where there is none: a suite has renamed what the README shows."""
    for row in rows:
        if row.key == (technique, measure, mode):
            return row
    raise ValueError(f"No row '{technique} | {measure} | {mode}' for the README: correct benchmarks/headlines.py.")


def spread(headline: Headline, rows: Sequence[Row]) -> str:
    """ "+- error" where the error was measured, the 95 % interval of a rate, else nothing."""
    if headline.error:
        return f"+- {number(found(rows, headline.technique, headline.error, headline.mode).value)}"
    row = found(rows, headline.technique, headline.measure, headline.mode)
    if not headline.count or row.value is None:
        return ""
    whole = 100 if row.unit == "%" else 1
    low, high = (whole * edge for edge in wilson(row.value / whole, headline.count))
    return f"{low:.3g} to {high:.3g}, n = {headline.count}"


def headline_cells(headline: Headline, rows: Sequence[Row]) -> tuple[str, str, str, str]:
    """words, value with unit, spread, value of the other mode: a line of the README's table."""
    row = found(rows, headline.technique, headline.measure, headline.mode)
    other = found(rows, headline.technique, headline.measure, headline.beside) if headline.beside else None
    value = f"{number(row.value)} {row.unit}".strip()
    beside = f"{headline.beside}: {number(other.value)} {other.unit}".strip() if other else ""
    return headline.words, value, spread(headline, rows), beside
