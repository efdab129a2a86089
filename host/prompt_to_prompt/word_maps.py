"""Where a model looks for each word of a prompt: its cross-attention maps along a trajectory, or round a picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...guidance.prompt_to_prompt.attention_control import word_maps
from ...guidance.prompt_to_prompt.local_blend import map_factor
from ...guidance.prompt_to_prompt.token_alignment import Prompt
from ...inversion.trajectory import Trajectory
from ..attention.blocks import attention_blocks
from ..attention.patching import cells, wrap_attention
from ..family import diffusion_model, latent_format
from ..session import Session, with_denoiser
from ..validation import require_unet

TECHNIQUE = "Word Attention Mask"
# Shares of the model's schedule between which a picture is looked at: before it is all noise, after it is all there.
EARLIEST, LATEST = 0.1, 0.9


def maps_of_trajectory(model, prompt: Prompt, positive: list, trajectory: Trajectory, count: int) -> Tensor:
    """(B, K, h, w) mean maps over `count` of the trajectory's levels, evenly spread."""
    steps = len(trajectory) - 1
    places = sorted({1 + round(i * (steps - 1) / max(count - 1, 1)) for i in range(min(count, steps))})
    levels = [float(trajectory.sigmas[i]) for i in places]
    raw = latent_format(model).process_out(trajectory.latents[0])
    return _maps_at(model, prompt, positive, raw, levels, [trajectory.latents[i] for i in places])


def maps_of_picture(model, prompt: Prompt, positive: list, raw: Tensor, count: int, seed: int) -> Tensor:
    """(B, K, h, w) mean maps of a latent (raw LATENT samples), noised to `count` levels."""
    sampling = model.get_model_object("model_sampling")
    fractions = [EARLIEST + (LATEST - EARLIEST) * (i + 0.5) / count for i in range(count)]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(raw.shape, generator=generator)
    return _maps_at(model, prompt, positive, raw, [float(sampling.percent_to_sigma(p)) for p in fractions], noise)


def _maps_at(model, prompt: Prompt, positive: list, raw: Tensor, levels: list[float], latents) -> Tensor:
    """latents: one for each level in the scaled form, or the noise to add to `raw`."""
    require_unet(model, TECHNIQUE)
    clone = model.clone()
    blocks = attention_blocks(diffusion_model(model))
    factor = map_factor(blocks.values(), *raw.shape[-2:])
    total, count = torch.zeros(()), 0

    def around(attend, q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        nonlocal total, count
        height, width = cells(options)
        if height * width == q.shape[1]:
            # A running sum: the maps of all layers and levels of a large picture would take gigabytes.
            maps = word_maps(q, k, options["n_heads"], len(prompt)).cpu()
            total, count = total + maps.unflatten(-1, (height, width)), count + 1
        return attend(q, k, v)

    wrap_attention(clone, "attn2", [block for block, size in blocks.items() if size == factor], around)

    def body(session: Session) -> None:
        for i, sigma in enumerate(levels):
            x = _at(session, latents, i, sigma)
            session.report(i, len(levels), session.denoise(x, sigma))

    with_denoiser(clone, {"positive": positive}, raw, torch.tensor(sorted(levels, reverse=True)), body)
    return total / count


def _at(session: Session, latents: Sequence[Tensor] | Tensor, i: int, sigma: float) -> Tensor:
    if not isinstance(latents, Tensor):
        return latents[i].to(session.device)
    level = torch.tensor(sigma, device=session.device)
    return session.model.model_sampling.noise_scaling(level, latents.to(session.device), session.latent)
