"""Prompt-to-Prompt as one straight line, written from the paper's algorithm 1 and its published code's settings.

diffusers' UNet, scheduler and attention weights; the maps are built in full, edited and multiplied. Row 0 is the
source, row 1 the edit; the unconditional halves come first and are never touched.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class LocalBlend:
    """The published code's: cross maps of the layers at a quarter of the latent's size, summed over the words, layers
    and steps so far (mean over heads), the largest of 3x3 neighbours, over the maximum, above a threshold; the place of
    either text's words. Differs from it as Palimpsest says it does: maps are enlarged smoothly.

    columns: of the words, for the source and for the edit; start: the fraction of the steps before it takes hold.
    """

    def __init__(self, columns: tuple, start: float, threshold: float):
        self.columns, self.start, self.threshold = columns, start, threshold
        self.total: Tensor | float = 0.0
        self.mask: Tensor | None = None

    def look(self, maps: Tensor, side: int) -> None:
        """maps: (2, heads, cells, keys), as they are after the edit; side: of the latent."""
        if maps.shape[2] == (side // 4) ** 2:
            self.total = self.total + maps.mean(1)

    def __call__(self, z: Tensor) -> Tensor:
        place = torch.zeros(z.shape[-2:], dtype=torch.bool)
        for maps, columns in zip(self.total, self.columns):
            heat = maps[:, list(columns)].sum(-1).reshape(1, 1, z.shape[-2] // 4, -1)
            heat = F.interpolate(F.max_pool2d(heat, 3, 1, 1), size=z.shape[-2:], mode="bilinear")
            place |= (heat / heat.max() > self.threshold)[0, 0]
        self.mask = place
        return torch.stack((z[0], z[0] + place * (z[1] - z[0])))


class Controller:
    """Which maps are replaced in this step. mapper: (77, 77), from the source's columns to the edit's; new: (77,), 1
    where a column keeps the edit's own map; equalizer: (77,), the columns' weights."""

    def __init__(self, mapper: Tensor, new: Tensor, equalizer: Tensor, blend: LocalBlend | None = None):
        self.mapper, self.new, self.equalizer, self.blend = mapper, new, equalizer, blend
        self.cross = self.own = False
        self.side = 0

    def __call__(self, maps: Tensor, is_cross: bool) -> Tensor:
        """maps: (2, heads, cells, keys), the conditional half."""
        source, edit = maps
        if is_cross and self.cross:
            edit = (source @ self.mapper + edit * self.new) * self.equalizer
        elif not is_cross and self.own:
            edit = source
        maps = torch.stack((source, edit))
        if is_cross and self.blend is not None:
            self.blend.look(maps, self.side)
        return maps


class Processor:
    """diffusers' attention with its maps in the open."""

    def __init__(self, controller: Controller):
        self.controller = controller

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_) -> Tensor:
        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            layer(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, x in ((attn.to_q, hidden_states), (attn.to_k, keys), (attn.to_v, keys))
        )
        maps = (q @ k.transpose(-1, -2) * attn.scale).softmax(-1)
        maps = torch.cat((maps[:2], self.controller(maps[2:], encoder_hidden_states is not None)))
        return attn.to_out[0]((maps @ v).transpose(1, 2).flatten(2))


@torch.no_grad()
def prompt_to_prompt_reference(
    unet,
    scheduler,
    controller: Controller,
    z: Tensor,
    text: Tensor,
    empty: Tensor,
    *,
    cfg: float,
    cross: float,
    own: float,
) -> Tensor:
    """z: (1, 4, h, w) at the noisiest step; text: (2, 77, D); empty: (1, 77, D) -> (2, 4, h, w), clean."""
    before = unet.attn_processors
    unet.set_attn_processor(Processor(controller))
    try:
        z, count = z.expand(2, -1, -1, -1), len(scheduler.timesteps)
        controller.side = z.shape[-1]
        context = torch.cat((empty.expand(2, -1, -1), text))
        for i, t in enumerate(scheduler.timesteps):
            controller.cross, controller.own = i < int(cross * count), i < int(own * count)
            uncond, cond = unet(torch.cat((z, z)), t, encoder_hidden_states=context).sample.chunk(2)
            z = scheduler.step(uncond + cfg * (cond - uncond), t, z).prev_sample
            if controller.blend is not None and i >= int(controller.blend.start * count):
                z = controller.blend(z)
    finally:
        unet.set_attn_processor(before)
    return z
