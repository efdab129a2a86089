"""The scores of an edit that need a vision model which the artist connects: structure distance and CLIP score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import comfy.model_management as management
import torch
from safetensors import safe_open
from torch import Tensor

from ..guidance.edit_measures import EditMeasures, cosine_score, structure_distance


def with_scores(
    found: Sequence[EditMeasures], source: Tensor, edit: Tensor, clip_vision, clip, text: str
) -> list[EditMeasures]:
    """The measures with what `clip_vision` and `clip` add; without them as they are. source, edit: (B, H, W, 3).

    Raises ValueError where text and pictures cannot be compared.
    """
    if clip_vision is None:
        if clip is not None:
            raise ValueError(
                "A CLIP score needs the pictures read as well: connect a CLIP vision model of the same kind."
            )
        return list(found)
    before, after = (clip_vision.encode_image(image, crop=False) for image in (source, edit))
    distance = structure_distance(*(_patches(clip_vision, one) for one in (before, after))).tolist()
    scores = [None] * len(found) if clip is None else _clip_scores(before, after, clip, text, len(found))
    return [replace(one, structure=distance[i], clip=scores[i]) for i, one in enumerate(found)]


def _patches(clip_vision, seen) -> Tensor:
    """(B, N, D): what the vision model makes of each patch, without the tokens for the whole, which come first.

    CLIP and DINOv2 have one of them, models with registers some more, SigLIP none.
    """
    before_last = seen["penultimate_hidden_states"]
    hidden = before_last if before_last is not None else seen["last_hidden_state"]
    if str(getattr(clip_vision, "model_type", "")).startswith("siglip"):
        return hidden
    patch = clip_vision.config["patch_size"]
    height, width = (side // patch for side in seen["image_sizes"][0][-2:])
    if hidden.shape[1] < height * width:
        raise ValueError(
            f"The vision model gives {hidden.shape[1]} features for {height} x {width} patches, and which belongs to "
            "which is not known: connect a CLIP vision model, DINOv2 or SigLIP."
        )
    return hidden[:, hidden.shape[1] - height * width :]


def _clip_scores(before, after, clip, text: str, rows: int) -> list[tuple[float, float]]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) not in (1, rows):
        raise ValueError(
            f"There are {len(lines)} texts for {rows} edited pictures: write one for all, or a line for each."
        )
    texts = torch.cat([projected(clip, line) for line in lines]).expand(rows, -1)
    pictures = [seen["image_embeds"] for seen in (before, after)]
    if pictures[0].shape[-1] != texts.shape[-1]:
        raise ValueError(
            f"CLIP gives {texts.shape[-1]} numbers for a text and the vision model {pictures[0].shape[-1]} for a "
            "picture: connect two that were trained together."
        )
    return list(zip(*(cosine_score(picture.cpu(), texts.cpu()).tolist() for picture in pictures)))


def projected(clip, text: str) -> Tensor:
    """(1, D): the text in the space of pictures."""
    require_projection(clip)
    asked = clip.clone()
    encoder = asked.cond_stage_model
    encoder.reset_clip_options()
    try:
        tokens = asked.tokenize(text)
        asked.load_model(tokens)
        device = asked.patcher.load_device
        encoder.set_clip_options({"projected_pooled": True, "execution_device": device})
        with management.cuda_device_context(device):
            return encoder.encode_token_weights(tokens)[1]
    finally:
        encoder.reset_clip_options()


def require_projection(clip) -> None:
    """A projection of the text into the space of pictures that comes from a file. Raises ValueError where none does.

    Where a file has none, as checkpoints of Stable Diffusion 1, the host leaves in its place what was in memory.
    """
    holder = clip.cond_stage_model
    encoder = getattr(holder, getattr(holder, "clip", "-"), None)
    # Models whose prompts go through it (Stable Diffusion 2, XL) always come with it.
    if encoder is None or encoder.options_default[2]:
        return
    layer = getattr(encoder.transformer, "text_projection", None)
    weight = getattr(layer, "weight", None)
    usable = weight is not None and bool(torch.isfinite(weight).all()) and bool(weight.any())
    if not usable or not _in_its_files(clip):
        raise ValueError(
            "This CLIP comes without the part that joins text and pictures, as in checkpoints of Stable Diffusion 1: "
            "load it from its own file with Load CLIP, or take clip off Edit Report."
        )


def _in_its_files(clip) -> bool:
    """Whether the files that the CLIP was loaded from have the projection; True where that is unknown."""
    _, (source, *_) = getattr(clip.patcher, "cached_patcher_init", None) or (None, ((),))[:2]
    if isinstance(source, str):
        return False  # a checkpoint: the host takes over none from those of this family
    files = [file for file in source if str(file).endswith((".safetensors", ".sft"))]
    return len(files) < len(source) or not files or any(map(_has_projection, files))


def _has_projection(file: str) -> bool:
    with safe_open(file, framework="pt") as opened:
        return any("text_projection" in key for key in opened.keys())
