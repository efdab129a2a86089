"""Losses over the steps of a guided run, as an IMAGE."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ._panel import BACKGROUND, QUIET, TEXT

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 640, 240, 72, 34, 30
COLOURS = ((251, 136, 38), (92, 169, 255), (140, 211, 120))


def plot(curves: Sequence[tuple[str, Sequence[float | None]]]) -> Tensor:
    """Titled curves, one panel each, over their common steps (None = not measured) -> (1, H, W, 3) in 0..1."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT * max(len(curves), 1)), BACKGROUND)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for i, (title, values) in enumerate(curves):
        _panel(draw, font, i * HEIGHT, title, values, COLOURS[i % len(COLOURS)])
    return torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255).unsqueeze(0)


def _panel(draw: ImageDraw.ImageDraw, font, top: int, title: str, values: Sequence[float | None], colour) -> None:
    known = [(i, v) for i, v in enumerate(values) if v is not None]
    draw.text((LEFT, top + 8), title if known else f"{title}: not measured", TEXT, font)
    low, high = top + HEIGHT - BOTTOM, top + TOP
    draw.line([(LEFT, high), (LEFT, low), (WIDTH - 16, low)], QUIET)
    if not known:
        return
    largest = max(max(v for _, v in known), 1e-9)
    span = max(len(values) - 1, 1)
    place = lambda i, v: (LEFT + (WIDTH - LEFT - 24) * i / span, low - (low - high - 6) * v / largest)
    points = [place(i, v) for i, v in known]
    if len(points) > 1:
        draw.line(points, colour, 2)
    for x, y in points:
        draw.ellipse([x - 2.5, y - 2.5, x + 2.5, y + 2.5], colour)
    draw.text((6, high - 4), f"{largest:.3g}", QUIET, font)
    draw.text((6, low - 12), "0", QUIET, font)
    draw.text((LEFT, low + 8), "step 1", QUIET, font)
    draw.text((WIDTH - 24, low + 8), str(len(values)), QUIET, font, anchor="ra")
