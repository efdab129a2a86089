"""diffusers' DiffEdit pipeline on the Papercut weights, fed with latents or pictures and embeddings; and its calls."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch import Tensor

from ...papercut.reference import Reference


def diffedit_pipeline(reference: Reference):
    """`StableDiffusionDiffEditPipeline` with the reference's UNet and encoder, in the AutoencoderKL it insists on."""
    from diffusers import AutoencoderKL, DDIMInverseScheduler, DDIMScheduler, StableDiffusionDiffEditPipeline

    config = dict(reference.scheduler.config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = StableDiffusionDiffEditPipeline(
            vae=AutoencoderKL(
                block_out_channels=(32, 32, 32, 32),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                scaling_factor=1.0,
            ),
            text_encoder=reference.text_encoder,
            tokenizer=reference.tokenizer,
            unet=reference.unet,
            scheduler=DDIMScheduler.from_config(config),
            inverse_scheduler=DDIMInverseScheduler.from_config(config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.set_progress_bar_config(disable=True)

    def encode(pictures: Tensor) -> SimpleNamespace:
        latents = reference.vae.encode(pictures).latents
        return SimpleNamespace(latent_dist=SimpleNamespace(sample=lambda generator: latents))

    pipeline.vae.encode = encode
    return pipeline


@contextmanager
def counted(network: torch.nn.Module) -> Iterator[list[int]]:
    """The number of rows of every call of the network inside the block."""
    rows: list[int] = []
    hook = network.register_forward_pre_hook(lambda m, args, kwargs: rows.append(args[0].shape[0]), with_kwargs=True)
    try:
        yield rows
    finally:
        hook.remove()


def their_mask(pipeline, image: Tensor, reference: Tensor, query: Tensor, negative: Tensor, seed: int) -> Tensor:
    """`generate_mask` with its defaults: (1, h, w) bool. texts: (1, T, D).

    image: a latent (1, C, h, w) of unit size, or a picture (1, 3, H, W) in 0..1, which it encodes once for each noise.

    Its swapped pair of prompt and negative does no harm where the negatives are equal, as here.
    """
    found = pipeline.generate_mask(
        image=image,
        target_prompt_embeds=query,
        target_negative_prompt_embeds=negative,
        source_prompt_embeds=reference,
        source_negative_prompt_embeds=negative,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    )
    return torch.from_numpy(found).bool()


def their_edit(
    pipeline, image: Tensor, mask: Tensor, reference: Tensor, query: Tensor, negative: Tensor, cfg: float
) -> Tensor:
    """`invert` and the masked decode with their defaults (50 steps, depth 0.8, CFG in both): latents (B, C, h, w).

    image: as in `their_mask`, but B of them; mask: (B, h, w); reference, query: (B, T, D); negative: (1, T, D). Rows
    do not see each other here, unlike in `generate_mask`.
    """
    negative = negative.expand_as(query)
    inverted = pipeline.invert(
        image=image, prompt_embeds=reference, negative_prompt_embeds=negative, guidance_scale=cfg
    ).latents
    return pipeline(
        mask_image=mask.float(),
        image_latents=inverted,
        prompt_embeds=query,
        negative_prompt_embeds=negative,
        guidance_scale=cfg,
        output_type="latent",
    ).images
