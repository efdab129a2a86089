"""The trade-off between lines that are met and prompts that are painted, as an SVG beside the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from ._sketch_world import Judged

FILE = Path(__file__).resolve().parent.parent / "figures" / "sketch_tradeoff.svg"
WIDTH, HEIGHT, EDGE = 640, 440, 64
INK, *COLOURS = "#222222", "#30638e", "#d1495b"
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
        line = " ".join("{:.1f},{:.1f}".format(*_place(found)) for found in curve.found.values())
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for strength, found in curve.found.items():
            parts += _point(found, f"{strength:g}", colour, beside)
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">'
    FILE.parent.mkdir(exist_ok=True)
    paper = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    FILE.write_text("\n".join([head, paper, *parts, "</svg>", ""]), encoding="ascii")
    return FILE


def _place(found: Judged) -> tuple[float, float]:
    return EDGE + (WIDTH - 2 * EDGE) * found.f1, HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * found.caption


def _point(found: Judged, words: str, colour: str, beside: tuple[int, int] = BESIDE[0]) -> list[str]:
    x, y = _place(found)
    dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}" stroke="white" stroke-width="1.5"/>'
    return [dot, _text(x + beside[0], y + beside[1], words, colour=colour)]


def _legend(names: Sequence[str]) -> list[str]:
    """A dot and a name for each colour, in the lower right corner."""
    parts = []
    for number, (name, colour) in enumerate(zip(names, (INK, *COLOURS))):
        x, y = WIDTH - EDGE - 110, HEIGHT - EDGE - 70 + 22 * number
        parts += [f'<circle cx="{x}" cy="{y}" r="4.5" fill="{colour}"/>', _text(x + 12, y + 4.5, name, colour=colour)]
    return parts


def _axes() -> list[str]:
    parts = []
    for tick in (0, 20, 40, 60, 80, 100):
        x, y = _place(Judged(0, 0, tick / 100, tick / 100))
        for x1, y1, x2, y2 in ((x, EDGE, x, HEIGHT - EDGE), (EDGE, y, WIDTH - EDGE, y)):
            parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>')
        parts += [_text(x, HEIGHT - EDGE + 18, tick, "middle"), _text(EDGE - 8, y + 4, tick, "end")]
    below = _text(WIDTH / 2, HEIGHT - 16, "edge F1 at two pixels, %", "middle")
    above = _text(EDGE, EDGE - 26, "caption success (shape and colour), %")
    return [*parts, below, above, f'<text x="{EDGE}" y="20" font-size="17" fill="{INK}">{TITLE}</text>']


def _text(x: float, y: float, words: object, anchor: str = "start", colour: str = INK) -> str:
    halo = 'stroke="white" stroke-width="4" paint-order="stroke"'
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" {halo}>{escape(str(words))}</text>'
