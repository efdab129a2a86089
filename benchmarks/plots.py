"""Plots of the benchmarks as SVG, in `benchmarks/figures/`: text, so that a new measurement is a readable change.

A suite draws them where it has just measured; the demo's gallery shows whatever lies there.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent / "figures"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 56, 216, 48, 52
INK = "#222222"
COLOURS = ("#d1495b", "#edae49", "#30638e", "#00798c", "#6c4f77", "#6b705c")


class Curve(NamedTuple):
    """values: in 0..1, one for each place. flat: a level beside the curves, drawn dashed."""

    name: str
    values: Sequence[float]
    flat: bool = False


def line_plot(name: str, title: str, axis: str, places: Sequence[float], curves: Sequence[Curve]) -> Path:
    """Curves over rising places, both in 0..1; returns the file `benchmarks/figures/<name>.svg`."""
    parts = [text(LEFT, 26, title, 17), *_grid(axis)]
    # Names beside the ends of the curves, pushed apart where ends lie close together.
    taken = -1e9
    for i, curve in sorted(enumerate(curves), key=lambda pair: _y(pair[1].values[-1])):
        colour = COLOURS[i % len(COLOURS)]
        points = " ".join(f"{_x(p):.1f},{_y(v):.1f}" for p, v in zip(places, curve.values, strict=True))
        dashes = ' stroke-dasharray="6 4"' if curve.flat else ""
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        taken = max(_y(curve.values[-1]) + 4, taken + 16)
        parts.append(text(WIDTH - RIGHT + 10, taken, curve.name, 13, colour=colour))
    return written(FOLDER / f"{name}.svg", parts)


def _x(place: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * place


def _y(value: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(max(value, 0.0), 1.0)


def _grid(axis: str) -> list[str]:
    """The levels 0, 0.2, ... 1 and the same places below them."""
    parts = []
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        parts.append(line(LEFT, _y(tick), WIDTH - RIGHT, _y(tick)))
        parts.append(text(LEFT - 8, _y(tick) + 4, f"{tick:.1f}", 12, "end"))
        parts.append(text(_x(tick), HEIGHT - BOTTOM + 18, f"{tick:.1f}", 12, "middle"))
    return [*parts, text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, axis, 13, "middle")]


def written(path: Path, parts: Sequence[str], width: int = WIDTH, height: int = HEIGHT) -> Path:
    """Writes the parts of a plot on white paper; returns the path."""
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">'
    paper = f'<rect width="{width}" height="{height}" fill="white"/>'
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([head, paper, *parts, "</svg>", ""]), encoding="ascii")
    return path


def text(x: float, y: float, label: object, size: int = 13, anchor: str = "start", colour: str = INK) -> str:
    """Words with a white rim, so that they can be read across lines."""
    rim = 'stroke="white" stroke-width="4" paint-order="stroke"'
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
    return f'<text {place} fill="{colour}" {rim}>{escape(str(label))}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str = "#dddddd") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'
