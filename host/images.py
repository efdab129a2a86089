"""How pictures and prompts pair up in a batch, and where a latent lies in its picture."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from ..guidance.diffedit.masks import Frame
from .family import latent_format

# Pixels a side of a latent's cell, at most, in the families of the host that encode whole pictures.
LARGEST_CELL = 16


def prompt_rows(conditionings: list) -> int:
    """The number of rows of the longest prompt batch among CONDITIONINGs (None where not connected)."""
    entries = [entry for conditioning in conditionings if conditioning is not None for entry in conditioning]
    return max((entry[0].shape[0] for entry in entries if isinstance(entry[0], Tensor)), default=1)


def batch_items(latent: dict, samples: Tensor, conditionings: list) -> tuple[Tensor, list[int]]:
    """Pictures (B, C, h, w) and their numbers; a single picture serves a batch of prompts.

    The numbers are the host's `batch_index` where the LATENT has one. Raises ValueError with a sentence.
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

    picture: IMAGE (B, H, W, C), or None if no side was cropped. Raises ValueError with a sentence.
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


def as_pictures(image: Tensor) -> Tensor:
    """IMAGE (B, H, W, C) -> (B, 3, H, W) float32 on the CPU; an alpha channel is dropped."""
    return rearrange(image[..., :3].float().cpu(), "b h w c -> b c h w").contiguous()


def as_image(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) -> IMAGE (B, H, W, 3) in 0..1."""
    return rearrange(pictures, "b c h w -> b h w c").clamp(0, 1).contiguous()
