"""Where a model attends to each word of a prompt: its cross-attention maps along a trajectory, or around a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...guidance.prompt_to_prompt.attention_control import word_maps
from ...guidance.prompt_to_prompt.local_blend import map_factor
from ...guidance.prompt_to_prompt.map_sums import MapSums
from ...guidance.prompt_to_prompt.token_alignment import Prompt
from ...inversion.trajectory import Trajectory
from ..attention.blocks import attention_blocks
from ..attention.parts import Place, places
from ..attention.patching import Attend, AttentionPatch, cells, with_attention
from ..attention.sequence import Attention, ModelCall
from ..attention.transformer import attention_of_call, middle_blocks, transformer_blocks
from ..family import diffusion_model, is_unet, latent_format
from ..session import Session, with_denoiser

KEY = "palimpsest_word_maps"
TECHNIQUE = "Word Attention Mask"
# Fractions of the model's schedule between which a picture is read: before it is all noise, after it is all there.
EARLIEST, LATEST = 0.1, 0.9


def maps_of_trajectory(model, prompt: Prompt, positive: list, trajectory: Trajectory, count: int) -> Tensor:
    """(B, K, h, w) mean maps over `count` of the trajectory's levels, evenly spread."""
    steps = len(trajectory) - 1
    chosen = sorted({1 + round(i * (steps - 1) / max(count - 1, 1)) for i in range(min(count, steps))})
    levels = [float(trajectory.sigmas[i]) for i in chosen]
    raw = latent_format(model).process_out(trajectory.latents[0])
    latents = [trajectory.latents[i] for i in chosen]
    return _read(model, prompt, positive, raw, levels, latents, trajectory.noise_mask)


def maps_of_picture(model, prompt: Prompt, positive: list, latent: Mapping, count: int, seed: int) -> Tensor:
    """(B, K, h, w) mean maps of a LATENT, noised to `count` levels."""
    raw = latent["samples"]
    sampling = model.get_model_object("model_sampling")
    fractions = [EARLIEST + (LATEST - EARLIEST) * (i + 0.5) / count for i in range(count)]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(raw.shape, generator=generator)
    levels = [float(sampling.percent_to_sigma(p)) for p in fractions]
    return _read(model, prompt, positive, raw, levels, noise, latent.get("noise_mask"))


class _Reader:
    """Reads the maps of every model call of a run, whole or in parts. blocks: of the network, and how many times
    smaller than the latent their maps are; latent: (B, C, H, W), what the run asks about."""

    def __init__(self, blocks: Mapping, size: tuple[int, int], prompt: Prompt):
        self.maps = MapSums(size, map_factor(blocks.values(), *size))
        self.blocks = [block for block, factor in blocks.items() if factor == self.maps.factor]
        self.prompt = prompt
        self.latent: Tensor | None = None

    def _places(self, x: Tensor) -> list[list[Place]]:
        """For each row of the call, all places in the batch that it shows."""
        if x.shape == self.latent.shape:
            return [[(row, 0, 0)] for row in range(len(x))]
        found = [places(row.flatten(0, -3), self.latent.flatten(1, -3)) for row in x]
        if not all(found):
            raise _cut_apart()
        return found

    def _add(self, maps: Sequence[Tensor], where: Sequence[list[Place]], size: tuple[int, int]) -> None:
        """maps: for each row of the call (K, h, w), from a part of the latent of this size."""
        for one, found in zip(maps, where):
            for row, top, left in found:
                self.maps.add(row, one, size, top, left)


class _UNetReader(_Reader):
    def apply_model(self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **kw):
        where = self._places(x)

        def around(attend: Attend, q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
            if q.shape[0] != x.shape[0] or tuple(options["original_shape"][-2:]) != tuple(x.shape[-2:]):
                raise _cut_apart()
            self._keep(q, k, options, where, tuple(x.shape[-2:]))
            return attend(q, k, v)

        patch = AttentionPatch("attn2", self.blocks, around=around)
        options = with_attention(transformer_options, [patch], TECHNIQUE)
        return executor(x, t, c_concat, c_crossattn, control, options, **kw)

    def _keep(self, q: Tensor, k: Tensor, options: dict, where: Sequence[list[Place]], size: tuple[int, int]) -> None:
        height, width = cells(options)
        if height * width != q.shape[1]:
            return
        maps = word_maps(q, k, options["n_heads"], len(self.prompt)).cpu().unflatten(-1, (height, width))
        self._add(maps, where, size)


class _TransformerReader(_Reader):
    """Reads where picture tokens attend to the words, in the middle blocks; start, end and padding are left out."""

    def apply_model(self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **kw):
        where, columns = self._places(x), [column for word in self.prompt.words for column in word.columns]

        def around(attention: Attention) -> Tensor:
            if attention.kind != "self":
                maps = [attention.word_maps(row, columns, len(self.prompt)).cpu() for row in range(len(x))]
                self._add(maps, where, tuple(x.shape[-2:]))
            return attention.attend(attention.q, attention.k, attention.v)

        call = ModelCall(tuple(x.shape), 0 if c_crossattn is None else c_crossattn.shape[1], kw)
        network, blocks = executor.class_obj.diffusion_model, middle_blocks(self.blocks)
        with attention_of_call(network, call, transformer_options, around, TECHNIQUE, blocks=blocks) as options:
            return executor(x, t, c_concat, c_crossattn, control, options, **kw)


def _read(model, prompt: Prompt, positive: list, raw: Tensor, levels: list[float], latents, mask) -> Tensor:
    """latents: one for each level in the scaled form, or the noise to add to `raw`; mask: of an inpainting model."""
    if raw.ndim == 5 and raw.shape[2] > 1:
        raise ValueError(
            f"{TECHNIQUE} reads single pictures, and this latent is a video: connect the latent of a picture."
        )
    size = tuple(raw.shape[-2:])
    if is_unet(model):
        reader: _Reader = _UNetReader(attention_blocks(diffusion_model(model)), size, prompt)
    else:
        reader = _TransformerReader(transformer_blocks(model, TECHNIQUE), size, prompt)
    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, reader.apply_model)

    def body(session: Session) -> None:
        for i, sigma in enumerate(levels):
            reader.latent = _at(session, latents, i, sigma)
            session.report(i, len(levels), session.denoise(reader.latent, sigma))

    order = torch.tensor(sorted(levels, reverse=True))
    with_denoiser(clone, {"positive": positive}, raw, order, body, noise_mask=mask)
    if len(found := reader.maps.means()) != len(raw) or not reader.maps.whole():
        raise _cut_apart()
    return torch.stack(found)


def _at(session: Session, latents: Sequence[Tensor] | Tensor, i: int, sigma: float) -> Tensor:
    if not isinstance(latents, Tensor):
        return latents[i].to(session.device)
    level = torch.tensor(sigma, device=session.device)
    return session.model.model_sampling.noise_scaling(level, latents.to(session.device), session.latent)


def _cut_apart() -> ValueError:
    return ValueError(
        f"{TECHNIQUE} does not know which part of the picture the model was given, because another node cuts it: take "
        "that node off the model."
    )
