"""Pictures: how they pair up with prompts in a batch, where a latent lies in one, and one size for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import comfy.utils
import torch
from einops import rearrange
from torch import Tensor

from ..guidance.diffedit.masks import Frame
from ..guidance.edit_measures import fit_mask
from .family import latent_format
from .validation import require_finite

# Pixels a side of a latent's cell, at most, in the families of the host that encode whole pictures.
LARGEST_CELL = 16


def prompt_rows(conditionings: list) -> int:
    """The number of rows of the longest prompt batch among CONDITIONINGs (None where not connected)."""
    entries = [entry for conditioning in conditionings if conditioning is not None for entry in conditioning]
    return max((entry[0].shape[0] for entry in entries if isinstance(entry[0], Tensor)), default=1)


def batch_items(latent: dict, samples: Tensor, conditionings: list) -> tuple[Tensor, list[int]]:
    """Pictures (B, C, h, w) and their numbers; a single picture serves a batch of prompts.

    The numbers are the host's `batch_index` where the LATENT has one. Raises ValueError where they do not pair up.
    """
    pictures, prompts = samples.shape[0], prompt_rows(conditionings)
    index = latent.get("batch_index")
    items = list(index) if index is not None and len(index) == pictures else list(range(pictures))
    if prompts in (1, pictures):
        return samples, items
    if pictures == 1:
        return samples.expand(prompts, *samples.shape[1:]).contiguous(), items * prompts
    raise ValueError(
        f"There are {pictures} pictures and {prompts} prompts: connect one prompt, or one for each picture."
    )


def middle(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """IMAGE (B, H, W, C) or MASK (B, H, W) -> its middle of this size (h, w), which is what VAE Encode keeps of it."""
    top, left = ((whole - part) // 2 for whole, part in zip(picture.shape[1:3], size))
    return picture[:, top : top + size[0], left : left + size[1]]


def is_crop(size: tuple[int, int], whole: tuple[int, int]) -> bool:
    """Whether pictures of this size (h, w) are what VAE Encode keeps of whole ones, by their sizes."""
    return size != whole and all(0 <= w - s < LARGEST_CELL for s, w in zip(size, whole))


def picture_frame(model, samples: Tensor, picture: Tensor | None) -> Frame:
    """The size of the picture that a latent (B, C, h, w) came from; VAE Encode crops the middle of it.

    picture: IMAGE (B, H, W, C), or None if no side was cropped. Raises ValueError where the sizes do not fit.
    """
    ratio = latent_format(model).spacial_downscale_ratio
    inner = [side * ratio for side in samples.shape[-2:]]
    if picture is None:
        return Frame(*inner)
    outer = list(picture.shape[1:3])
    if any(not 0 <= whole - part < ratio for whole, part in zip(outer, inner)):
        raise ValueError(
            f"The picture is {outer[1]} x {outer[0]}, but the latent belongs to one of {inner[1]} x {inner[0]}: "
            "connect the picture that was encoded."
        )
    return Frame(*inner, *outer)


def count_of_rows(batches: dict) -> int:
    """How many pictures there will be. Raises ValueError where the batches do not pair up."""
    counts = {name: len(batch) for name, batch in batches.items() if batch is not None}
    rows = max(counts.values())
    if any(count not in (1, rows) for count in counts.values()):
        said = ", ".join(f"{count} of '{name}'" for name, count in counts.items())
        raise ValueError(f"There are {said}: connect one of each, or as many of one as of the other.")
    return rows


def fitted_mask(mask: Tensor, source: Tensor) -> Tensor:
    """mask (B, h, w) at the size of the IMAGE `source`. Raises ValueError where its proportions are others."""
    height, width = source.shape[1:3]
    high, wide = height / mask.shape[1], width / mask.shape[2]
    if max(high, wide) > 1.05 * min(high, wide):
        raise ValueError(
            f"The mask is {mask.shape[2]} x {mask.shape[1]}, but the source {width} x {height}: paint the mask on the "
            "source, or connect the mask that belongs to it."
        )
    return fit_mask(mask, (height, width), len(mask)).clamp(0, 1)


def as_pictures(image: Tensor) -> Tensor:
    """IMAGE (B, H, W, C) -> (B, 3, H, W) float32 on the CPU; an alpha channel is dropped."""
    return rearrange(image[..., :3].float().cpu(), "b h w c -> b c h w").contiguous()


def as_image(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) -> IMAGE (B, H, W, 3) in 0..1."""
    return rearrange(pictures, "b c h w -> b h w c").clamp(0, 1).contiguous()


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
