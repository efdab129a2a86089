"""Arrows of a flow on a picture: light lines on a dark outline, to be seen on anything."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..guidance.flow.colour_wheel import arrow_points
from ..host.progress import check_interrupt

OUTLINE, LINE = (24, 24, 27), (255, 90, 46)


def arrows(picture: Tensor, flow: Tensor, *, every: int = 24) -> Tensor:
    """Arrows on a picture (B, H, W, 3) in 0..1, one every `every` pixels where the flow (B, H, W, 2) moves anything."""
    drawn = []
    for image, item in zip(picture.float().cpu(), flow.float().cpu(), strict=True):
        canvas = Image.fromarray((image.clamp(0, 1) * 255).round().byte().numpy())
        draw = ImageDraw.Draw(canvas)
        for points in arrow_points(item, every).tolist():
            check_interrupt()
            _arrow(draw, [tuple(point) for point in points], every // 12 | 1)
        drawn.append(torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255))
    return torch.stack(drawn)


def _arrow(draw: ImageDraw.ImageDraw, points: list[tuple[float, float]], width: int) -> None:
    """One arrow, its outline first; a dot marks where it begins."""
    tail, head, *barbs = points
    for more, colour in ((2, OUTLINE), (0, LINE)):
        for line in ((tail, head), *((head, barb) for barb in barbs)):
            draw.line(line, colour, width + more)
        reach = (width + 1 + more) / 2
        draw.ellipse([tail[0] - reach, tail[1] - reach, tail[0] + reach, tail[1] + reach], colour)
