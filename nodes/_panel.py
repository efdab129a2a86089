"""Pictures side by side with readable words, as an IMAGE: what a check or a report shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

BACKGROUND, TEXT, QUIET = (24, 24, 27), (236, 236, 240), (160, 160, 170)
# A picture of the little sizes that tests and small models use is enlarged until words fit beneath it.
TILE = 320
# Black, violet, red, orange, white: rising lightness, so that it reads in grey as well.
HEAT = torch.tensor([[0, 0, 0], [80, 18, 123], [182, 55, 84], [251, 136, 38], [252, 255, 200]]) / 255


def error_map(a: Tensor, b: Tensor, *, full: float = 0.25) -> Tensor:
    """(B, H, W, C) twice -> (B, H, W, 3): the mean difference of the channels, black for none, white from `full`."""
    value = ((a - b).abs().mean(-1) / full).clamp(0, 1) * (len(HEAT) - 1)
    low = value.floor().clamp_max(len(HEAT) - 2)
    heat = HEAT.to(value.device)
    return torch.lerp(heat[low.long()], heat[low.long() + 1], (value - low).unsqueeze(-1))


def panel(tiles: Sequence[tuple[str, Tensor]], lines: Sequence[str]) -> Tensor:
    """tiles: titles and pictures (H, W, 3) of one size, in 0..1; lines: words beneath -> (1, H', W', 3) in 0..1."""
    pictures = [_picture(tile) for _, tile in tiles]
    width, height = pictures[0].size
    size = max(13, min(width // 22, 28))
    font, gap = ImageFont.load_default(size), size // 2
    total = len(pictures) * (width + gap) + gap
    wrapped = [part for line in lines for part in _wrapped(line, font, total - 2 * gap)]
    row = int(size * 1.5)
    canvas = Image.new("RGB", (total, row + height + gap + row * len(wrapped) + gap), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for i, ((title, _), picture) in enumerate(zip(tiles, pictures)):
        left = gap + i * (width + gap)
        draw.text((left, gap // 2), title, TEXT, font)
        canvas.paste(picture, (left, row))
    for i, line in enumerate(wrapped):
        draw.text((gap, row + height + gap + i * row), line, TEXT if i == 0 else QUIET, font)
    return torch.from_numpy(np.array(canvas)).float().div_(255).unsqueeze(0)


def _picture(tile: Tensor) -> Image.Image:
    pixels = (tile.detach().cpu().float().clamp(0, 1) * 255).round().byte().numpy()
    picture = Image.fromarray(pixels)
    factor = -(-TILE // picture.width)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _wrapped(line: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The line in parts of at most `width` pixels, broken between words."""
    parts = [""]
    for word in line.split():
        longer = f"{parts[-1]} {word}".strip()
        if parts[-1] and font.getlength(longer) > width:
            parts.append(word)
        else:
            parts[-1] = longer
    return parts
