"""The fifteen rows that the README shows, in words that need no paper: those whose spread was recorded."""

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
    error: the measure of its standard error, "" for a rate. count: how many cases a rate is of, 0 for what is no rate.
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
        technique="Prompt-to-Prompt without an anchor",
        measure="edit success, 105 edits, CFG 5, self_steps 0.4",
        mode="negative-prompt, local blend",
        words="Negative-Prompt Inversion with Prompt-to-Prompt: edits that come out as the new caption says",
        count=105,
    ),
    Headline(
        technique="Prompt-to-Prompt without an anchor",
        measure="edit success, 105 edits, CFG 5, self_steps 0.4",
        mode="null text, local blend",
        words="... with NullText Optimize",
        count=105,
    ),
    Headline(
        technique="Prompt-to-Prompt",
        measure="edit success, 105 edits, CFG 4",
        mode="anchored source, local blend",
        words="... with Trajectory Anchor",
        beside="plain DDIM",
        count=105,
    ),
    Headline(
        technique="DiffEdit",
        measure="edits with the whole caption right, depth 0.65",
        mode="fast",
        words="DiffEdit: edits that come out as the whole new caption says, depth 0.65",
        beside="SDEdit",
        count=200,
    ),
    Headline(
        technique="DiffEdit",
        measure="edits with the whole caption right, depth 0.8",
        mode="fast",
        words="... depth 0.8",
        beside="diffusers",
        count=200,
    ),
    Headline(
        technique="Pixel-True Finish",
        measure="photographs: registered within 1 px",
        mode="automatic",
        words="Pixel-True Finish: moved photographs that are laid back within a pixel",
        beside="no registration",
        count=36,
    ),
    Headline(
        technique="Pixel-True Finish",
        measure="photographs: edited pixels inside the mask",
        mode="automatic",
        words="... edited pixels that its mask covers",
        error="photographs: edited pixels inside the mask: standard error",
    ),
    Headline(
        technique="Pixel-True Finish",
        measure="photographs: IoU of the mask, edits of 2 % and more",
        mode="automatic",
        words="... overlap (IoU) of its mask with the edit, 2 % of the picture and more",
        beside="no registration",
        error="photographs: IoU of the mask, edits of 2 % and more: standard error",
    ),
    Headline(
        technique="Pixel-True Finish",
        measure="photographs: colour cast left outside the edit",
        mode="automatic",
        words="... colour cast that it leaves",
        beside="Reinhard in Lab",
        error="photographs: colour cast left outside the edit: standard error",
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
        technique="Sketch guidance",
        measure="all sketches: caption success",
        mode="guided",
        words="Sketch: pictures that still fit their caption, 576 sketches",
        beside="SDEdit",
        count=576,
    ),
    Headline(
        technique="Sketch guidance",
        measure="all sketches: caption success lost",
        mode="guided",
        words="... points of that which the guidance costs",
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
        measure="way over the direct distance, saved, 40 pairs",
        mode="+ attention over + LoRA",
        words="... detour (0: none) that Attention Blend takes away",
        error="way over the direct distance, saved, 40 pairs: standard error",
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
    """ "+- error" where the error was measured, else the 95 % interval of a rate; nothing for what was not measured."""
    if headline.error:
        return f"+- {number(found(rows, headline.technique, headline.error, headline.mode).value)}"
    row = found(rows, headline.technique, headline.measure, headline.mode)
    if row.value is None:
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
