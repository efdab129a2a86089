"""Pictures of any size brought to one size without squeezing them."""

from __future__ import annotations

from collections.abc import Sequence

import comfy.utils
import torch
from torch import Tensor

from .validation import require_finite


def same_size(images: Sequence[Tensor], width: int = 0, height: int = 0, multiple: int = 8) -> tuple[Tensor, list[str]]:
    """IMAGE batches (B_i, H_i, W_i, C) -> one batch (K, H, W, 3), and a sentence for each picture that was changed.

    width, height: in pixels, rounded down to multiples of `multiple`; 0 is the first picture's own. Each picture is
    scaled until it covers that size, its proportions kept, and what stands out is cut off on both sides alike.
    """
    for place, image in enumerate(images):
        require_finite(image, f"Picture {place}", "load it again")
    wanted = [size or own for size, own in zip((width, height), (images[0].shape[2], images[0].shape[1]))]
    width, height = (max(multiple, size // multiple * multiple) for size in wanted)
    fitted, notes = [], []
    for picture in (row for image in images for row in image[..., :3]):
        own = (picture.shape[1], picture.shape[0])
        if own != (width, height):
            notes.append(_note(len(fitted), own, (width, height)))
            scaled = comfy.utils.common_upscale(picture.movedim(-1, 0)[None], width, height, "lanczos", "center")
            picture = scaled[0].movedim(0, -1)
        fitted.append(picture.float())
    return torch.stack(fitted), notes


def _note(place: int, own: tuple[int, int], new: tuple[int, int]) -> str:
    scale = max(new[0] / own[0], new[1] / own[1])
    cut = [round(100 * (1 - wanted / (size * scale))) for size, wanted in zip(own, new)]
    lost = [f"{fraction} % of its {side}" for fraction, side in zip(cut, ("width", "height")) if fraction > 0]
    tail = f", and {' and '.join(lost)} cut off" if lost else ""
    return f"Picture {place} is {own[0]} x {own[1]}: scaled to {new[0]} x {new[1]} in proportion{tail}."
