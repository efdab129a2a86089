"""The scores of an edit that need a vision model which the artist connects: structure distance and CLIP score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..guidance.report import EditMeasures, cosine_score, structure_distance


def with_scores(
    found: Sequence[EditMeasures], source: Tensor, edit: Tensor, clip_vision, clip, text: str
) -> list[EditMeasures]:
    """The measures with what `clip_vision` and `clip` add; without them as they are. source, edit: (B, H, W, 3).

    Raises ValueError with a sentence where text and pictures cannot be compared.
    """
    if clip_vision is None:
        if clip is not None:
            raise ValueError(
                "A CLIP score needs the pictures read as well: connect a CLIP vision model of the same kind."
            )
        return list(found)
    before, after = (clip_vision.encode_image(image, crop=False) for image in (source, edit))
    distance = structure_distance(*(_patches(one) for one in (before, after))).tolist()
    scores = [None] * len(found) if clip is None else _clip_scores(before, after, clip, text, len(found))
    return [replace(one, structure=distance[i], clip=scores[i]) for i, one in enumerate(found)]


def _patches(seen) -> Tensor:
    """(B, N, D): what the vision model makes of each patch, without its token for the whole."""
    before_last = seen["penultimate_hidden_states"]
    hidden = before_last if before_last is not None else seen["last_hidden_state"]
    return hidden[:, 1:]


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
    """(1, D): the text in the space that it shares with pictures."""
    asked = clip.clone()
    clip_model = asked.cond_stage_model
    clip_model.reset_clip_options()
    clip_model.set_clip_options({"projected_pooled": True})
    try:
        asked.load_model()
        return clip_model.encode_token_weights(asked.tokenize(text))[1]
    finally:
        clip_model.reset_clip_options()
