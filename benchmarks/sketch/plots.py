"""The trade-off between lines that are met and prompts that are painted, as an SVG beside the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..plots import FOLDER, INK, line, text, written
from .fixtures import Judged

FILE = FOLDER / "sketch_tradeoff.svg"
WIDTH, HEIGHT, EDGE = 640, 440, 64
COLOURS = ("#30638e", "#d1495b")
BESIDE = ((8, -8), (8, 18))
"""Where the words of each curve stand beside its points: above, below."""
TITLE = "Lines met and prompts painted; the numbers are strengths"


class Curve(NamedTuple):
    """found: by strength."""

    name: str
    found: Mapping[float, Judged]


def draw(curves: Sequence[Curve], plain: Judged) -> Path:
    """Edge F1 to the right, caption success upwards; each point bears its strength. plain: without guidance."""
    parts = [*_axes(), *_legend(["no guidance", *(curve.name for curve in curves)]), *_point(plain, "", INK)]
    for curve, colour, beside in zip(curves, COLOURS, BESIDE):
        points = " ".join("{:.1f},{:.1f}".format(*_place(found)) for found in curve.found.values())
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for strength, found in curve.found.items():
            parts += _point(found, f"{strength:g}", colour, beside)
    return written(FILE, parts, WIDTH, HEIGHT)


def _place(found: Judged) -> tuple[float, float]:
    return EDGE + (WIDTH - 2 * EDGE) * found.f1, HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * found.caption


def _point(found: Judged, label: str, colour: str, beside: tuple[int, int] = BESIDE[0]) -> list[str]:
    x, y = _place(found)
    dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}" stroke="white" stroke-width="1.5"/>'
    return [dot, text(x + beside[0], y + beside[1], label, colour=colour)]


def _legend(names: Sequence[str]) -> list[str]:
    """A dot and a name for each colour, in the lower right corner."""
    parts = []
    for number, (name, colour) in enumerate(zip(names, (INK, *COLOURS))):
        x, y = WIDTH - EDGE - 110, HEIGHT - EDGE - 70 + 22 * number
        parts += [f'<circle cx="{x}" cy="{y}" r="4.5" fill="{colour}"/>', text(x + 12, y + 4.5, name, colour=colour)]
    return parts


def _axes() -> list[str]:
    parts = []
    for tick in (0, 20, 40, 60, 80, 100):
        x, y = _place(Judged(0, 0, tick / 100, tick / 100))
        for x1, y1, x2, y2 in ((x, EDGE, x, HEIGHT - EDGE), (EDGE, y, WIDTH - EDGE, y)):
            parts.append(line(x1, y1, x2, y2))
        parts += [text(x, HEIGHT - EDGE + 18, tick, anchor="middle"), text(EDGE - 8, y + 4, tick, anchor="end")]
    below = text(WIDTH / 2, HEIGHT - 16, "edge F1 at two pixels, %", anchor="middle")
    above = text(EDGE, EDGE - 26, "caption success (shape and colour), %")
    return [*parts, below, above, text(EDGE, 20, TITLE, 17)]
