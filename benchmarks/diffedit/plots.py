"""DiffEdit's thresholds as pictures: what they find, and the paper's figure, what edits gain against what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..plots import COLOURS, FOLDER, Curve, line, line_plot, text, written
from .batch_edits import Judged
from .methods import Scores

LEVELS = [round(0.05 * i, 2) for i in range(21)]
TRADEOFF = FOLDER / "diffedit_tradeoff.svg"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 460, 60, 30, 78, 56
LEAST, MOST = 20.0, 60.0
"""dB of the background at the two ends."""


def draw_sweep(count: int, swept: Sequence[Scores], rules: Mapping[str, Scores]) -> Path:
    """IoU and recall over the fixed threshold at LEVELS, beside the rules that have none."""
    curves = [Curve("recall, fixed", [float(s.recall.mean()) for s in swept])]
    curves.append(Curve("IoU, fixed", [float(s.iou.mean()) for s in swept]))
    for name, scores in rules.items():
        curves.append(Curve(f"IoU, {name}", [float(scores.iou.mean())] * len(LEVELS), flat=True))
    title = f"DiffEdit Mask on {count} Papercut edits: the threshold"
    return line_plot("diffedit_threshold", title, "fixed threshold, in the map from 0 to 1", LEVELS, curves)


class Line(NamedTuple):
    """found: by what is written beside the point. above: whether it is written above or below."""

    name: str
    found: Mapping[str, Judged]
    above: bool = True


def draw_tradeoff(count: int, lines: Sequence[Line]) -> Path:
    """What is kept of the background to the right, the edits that succeed upwards."""
    parts = [*_axes(), text(LEFT, 24, f"What {count} edits gain and what they cost, by threshold and depth", 17)]
    across = LEFT
    for colour, one in zip(COLOURS, lines):
        places = {label: _place(found) for label, found in one.found.items()}
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places.values())
        parts.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for label, (x, y) in places.items():
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>')
            parts.append(text(x, y - 10 if one.above else y + 20, label, 12, "middle", colour))
        parts += [f'<circle cx="{across}" cy="44" r="4.5" fill="{colour}"/>']
        parts.append(text(across + 9, 48, one.name, 12, colour=colour))
        across += 26 + 6.4 * len(one.name)
    return written(TRADEOFF, parts, WIDTH, HEIGHT)


def _place(found: Judged) -> tuple[float, float]:
    right, kept = float(found.right.mean()), float(found.kept.mean())
    x = LEFT + (WIDTH - LEFT - RIGHT) * (kept - LEAST) / (MOST - LEAST)
    return min(max(x, LEFT), WIDTH - RIGHT), HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * right


def _axes() -> list[str]:
    parts = []
    for fraction in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * fraction
        parts += [line(LEFT, y, WIDTH - RIGHT, y), text(LEFT - 8, y + 4, f"{fraction:.1f}", 12, "end")]
    for level in range(int(LEAST), int(MOST) + 1, 5):
        x = LEFT + (WIDTH - LEFT - RIGHT) * (level - LEAST) / (MOST - LEAST)
        parts += [line(x, TOP, x, HEIGHT - BOTTOM), text(x, HEIGHT - BOTTOM + 18, level, 12, "middle")]
    below = "background PSNR outside the true mask, dB (at most 60: nothing has changed)"
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, below, 13, "middle"))
    return [*parts, text(LEFT + 6, HEIGHT - BOTTOM - 8, "upwards: edits that the classifier confirms", 13)]
