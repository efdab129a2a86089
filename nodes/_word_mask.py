"""What Word Attention Mask shows: the mask and the heat map of words, or the mask that a blend used."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..guidance.prompt_to_prompt.local_blend import heat, outline
from ..guidance.prompt_to_prompt.plan import chosen_columns
from ..host.attention.transformer import padding_of
from ..host.compatibility import require_same_kind
from ..host.progress import Interruptible
from ..host.prompt_to_prompt.attention_record import Record
from ..host.prompt_to_prompt.text_encoders import in_context
from ..host.prompt_to_prompt.tokens import encode_tokens, read_prompt
from ..host.prompt_to_prompt.word_maps import maps_of_picture, maps_of_trajectory
from ..host.prompts import FROM_CLIP
from ..host.validation import require_latent, require_prompt_of
from ._panel import HEAT


def maps_of_prompt(model, clip, text, chosen, trajectory, samples, levels, seed):
    """Maps of every row, the words' columns in them, and the latent's height and width."""
    prompt, tokens = read_prompt(clip, text)
    chosen_columns([prompt], chosen, name="The words")
    positive = encode_tokens(clip, tokens)
    require_prompt_of(model, positive, FROM_CLIP)
    prompt = prompt if padding_of(model) is None else in_context(prompt, positive, model)
    columns = chosen_columns([prompt], chosen, name="The words")
    if trajectory is not None:
        require_same_kind(trajectory, model)
        maps = maps_of_trajectory(model, prompt, positive, trajectory, levels)
        size = trajectory.latents.shape[-2:]
    else:
        raw = require_latent(samples, "The samples", model, one_frame=True)
        latent = {**samples, "samples": raw}
        maps, size = maps_of_picture(model, prompt, positive, latent, levels, seed), raw.shape[-2:]
    return maps, columns * len(maps), tuple(size)


def shown(maps, columns, size: tuple[int, int], threshold: float, scale: int) -> tuple[Tensor, Tensor]:
    """MASK (B, H, W) and heat map (B, H, W, 3) of each row's columns; size: of the latent, cells of `scale` pixels."""
    heats = [heat(rows, places) for rows, places in zip(maps, columns)]
    picture = tuple(side * scale for side in size)
    with Interruptible():
        mask = torch.stack([outline(one, picture, threshold) for one in heats])
        return mask, coloured(torch.stack(heats), picture)


def of_run(record: Record, chosen: list, threshold: float, scale: int) -> tuple[Tensor, Tensor]:
    """The same of a run's own maps; without words the mask that its blend used, cell by cell, and its words' heat."""
    size = tuple(record.samples.shape[-2:])
    if chosen:
        columns = chosen_columns(record.prompts, chosen, name="The words")
        return shown(record.maps, columns, size, threshold, scale)
    if record.mask is None:
        raise ValueError(
            "There are no words to find, and this run had no blend whose mask could be shown: write words, or give "
            "Prompt-to-Prompt words to blend or to keep."
        )
    mask = record.mask.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    return mask, shown(record.maps, record.columns, size, threshold, scale)[1]


def coloured(heats: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h, w) in 0..1 -> (B, H, W, 3)."""
    large = F.interpolate(heats[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    value = large.clamp(0, 1) * (len(HEAT) - 1)
    low = value.floor().clamp_max(len(HEAT) - 2)
    return torch.lerp(HEAT[low.long()], HEAT[low.long() + 1], (value - low).unsqueeze(-1))
