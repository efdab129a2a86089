"""Input checks of several nodes: each raises ValueError with one sentence that names the input and the remedy."""

from __future__ import annotations

import torch
from torch import Tensor

from .family import (
    Family,
    diffusion_model,
    is_unet,
    latent_format,
    latent_format_name,
    model_class,
    model_family,
    prediction,
)

__all__ = [
    "Family",
    "latent_format_name",
    "model_family",
    "prediction",
    "require_conditioning",
    "require_finite",
    "require_latent",
    "require_latent_of",
    "require_picture",
    "require_prompt_of",
    "require_same_batch",
    "require_same_size",
    "require_sigmas",
    "require_unconditional",
    "require_unet",
    "require_vae_of",
]


def require_finite(tensor: Tensor, name: str, remedy: str = "") -> Tensor:
    """The tensor. Raises ValueError where it holds NaN or infinity."""
    if not torch.isfinite(tensor).all():
        remedy = remedy or "decode it to view it, and make it again (a VAE in fp16 is the usual cause: use fp32)"
        raise ValueError(f"{name} holds values that are not numbers (NaN or infinity): {remedy}.")
    return tensor


def require_latent(latent: dict, name: str = "The latent", model=None, *, one_frame: bool = False) -> Tensor:
    """LATENT -> its samples (B, C, h, w), finite; with `model`, also of that model's latent format.

    one_frame: (B, C, 1, h, w) serves as well, the picture of a model that is built like a video model."""
    samples = latent.get("samples") if isinstance(latent, dict) else None
    if not isinstance(samples, Tensor) or getattr(samples, "is_nested", False):
        raise ValueError(f"{name} is not a picture's latent: connect the output of a VAE Encode node.")
    frame = one_frame and samples.ndim == 5 and samples.shape[2] == 1
    if samples.ndim == 5 and not frame:
        raise ValueError(
            f"{name} is a video's, or that of an image model built like a video model (Qwen-Image, Wan): Palimpsest "
            "edits with models whose latents are single pictures: load Stable Diffusion, SDXL, SD3 or Flux, say."
        )
    if not (frame or samples.ndim == 4) or 0 in samples.shape:
        shape = "x".join(str(size) for size in samples.shape)
        raise ValueError(
            f"{name} has the shape {shape}, which is not that of pictures (batch x channels x height x width): "
            "connect the output of a VAE Encode node."
        )
    require_finite(samples, name)
    if model is not None:
        require_latent_of(model, samples, name)
    return samples


def require_latent_of(model, samples: Tensor, name: str = "The latent") -> None:
    """samples (B, C, h, w) must have the channels of the model's latents. Raises ValueError."""
    wanted = latent_format(model).latent_channels
    if samples.shape[1] != wanted:
        raise ValueError(
            f"{name} has {samples.shape[1]} channels, but the model ({model_class(model)}) works on {wanted}: encode "
            "the picture with the VAE that belongs to this model."
        )


def require_prompt_of(model, conditioning: list, name: str = "The prompt") -> None:
    """Raises ValueError where a prompt was encoded for another family of UNets: its tokens have another length, or what
    SDXL reads beside them is missing."""
    if not is_unet(model):
        return
    wanted = (getattr(model.model.model_config, "unet_config", None) or {}).get("context_dim")
    for embedding, options in conditioning:
        bare = model_family(model) == "sdxl" and options.get("pooled_output") is None
        if bare or (isinstance(wanted, int) and embedding.shape[-1] != wanted):
            raise ValueError(
                f"{name} was encoded for another family of models than this one ({model_class(model)}): encode it with "
                "the CLIP of this model's checkpoint."
            )


def require_vae_of(model, vae, name: str = "The VAE") -> None:
    """Raises ValueError unless the VAE's latents have the model's channels, scale and size."""
    form = latent_format(model)
    channels, ratio = vae.latent_channels, vae.spacial_compression_decode()
    if channels != form.latent_channels or ratio != form.spacial_downscale_ratio:
        raise ValueError(
            f"{name} is of another family than the model: its latents have {channels} channels at 1/{ratio} of the "
            f"picture's size, the model ({model_class(model)}) works on {form.latent_channels} at "
            f"1/{form.spacial_downscale_ratio}: load the VAE that belongs to this model."
        )
    scale = getattr(vae.first_stage_model, "vae_scale", None)
    wanted = getattr(form, "scale_factor", None)
    scale = scale.item() if isinstance(scale, Tensor) else None
    if scale is not None and isinstance(wanted, float) and abs(scale / wanted - 1) > 0.01:
        raise ValueError(
            f"{name} is of another family than the model: it scales its latents by {scale:.5g}, the model "
            f"({model_class(model)}) by {wanted:.5g}: load the VAE that belongs to this model."
        )


def require_conditioning(conditioning, name: str = "The conditioning") -> list:
    """The CONDITIONING as a list. Raises ValueError where it has no entry."""
    entries = conditioning if isinstance(conditioning, (list, tuple)) else []
    well_formed = all(isinstance(entry, (list, tuple)) and len(entry) == 2 for entry in entries)
    if not entries or not well_formed or not all(isinstance(entry[1], dict) for entry in entries):
        raise ValueError(f"{name} is empty: connect a CLIP Text Encode node (its text may be empty).")
    for entry in entries:
        if isinstance(entry[0], Tensor):
            require_finite(entry[0], name, "encode the prompt again")
    return list(conditioning)


def require_same_batch(one: Tensor, other: Tensor, name_one: str, name_other: str) -> None:
    """Both batches are as long as each other, or one of them is a single picture for all."""
    a, b = one.shape[0], other.shape[0]
    if a != b and 1 not in (a, b):
        raise ValueError(
            f"{name_one} holds {a} pictures and {name_other} {b}: give both the same number, or one of them a single "
            "picture that serves for all."
        )


def require_same_size(one: Tensor, other: Tensor, name_one: str, name_other: str) -> None:
    """Raises ValueError unless two (..., h, w) latents, or (B, H, W, C) images, have the same height and width."""
    sizes = [tensor.shape[1:3] if _is_image(tensor) else tensor.shape[-2:] for tensor in (one, other)]
    if sizes[0] != sizes[1]:
        (h1, w1), (h2, w2) = sizes
        raise ValueError(
            f"{name_one} is {w1} x {h1} and {name_other} {w2} x {h2}: bring both to one size with an Upscale Image or "
            "Upscale Latent node."
        )


def _is_image(tensor: Tensor) -> bool:
    return tensor.ndim == 4 and tensor.shape[-1] in (1, 3, 4) and tensor.shape[1] > 4


def require_picture(image: Tensor, name: str = "The picture", multiple: int = 8) -> Tensor:
    """The IMAGE (B, H, W, C). Raises ValueError unless its sides are multiples of `multiple`: the VAE would crop it."""
    if not isinstance(image, Tensor) or image.ndim != 4 or 0 in image.shape:
        raise ValueError(f"{name} is not a batch of pictures: connect an IMAGE, such as the output of Load Image.")
    require_finite(image, name, "load it again")
    height, width = image.shape[1:3]
    if height % multiple or width % multiple:
        fit_h, fit_w = max(multiple, height // multiple * multiple), max(multiple, width // multiple * multiple)
        raise ValueError(
            f"{name} is {width} x {height}, but its sides must be multiples of {multiple} (the VAE would crop it and "
            f"nothing would line up): resize or crop it to {fit_w} x {fit_h} before encoding."
        )
    return image


def require_sigmas(sigmas: Tensor, name: str = "The schedule", least: int = 2) -> Tensor:
    """The SIGMAS. Raises ValueError unless they are at least `least` levels, finite and not negative."""
    if not isinstance(sigmas, Tensor) or sigmas.ndim != 1 or sigmas.numel() < least:
        raise ValueError(f"{name} has too few noise levels: connect a scheduler node with at least one step.")
    require_finite(sigmas, name, "check the scheduler's settings")
    if (sigmas < 0).any():
        raise ValueError(f"{name} holds negative noise levels: check the scheduler's settings.")
    return sigmas


def require_unet(model, technique: str) -> None:
    """Raises ValueError unless the model is a UNet (Stable Diffusion 1, 2, SDXL)."""
    if not is_unet(model):
        raise ValueError(
            f"{technique} works inside the UNet of Stable Diffusion 1, 2 and SDXL, which this model "
            f"({model_class(model)}) does not have: load a model of one of those families."
        )


def require_unconditional(model, technique: str) -> None:
    """Raises ValueError where the model has no unconditional prediction (distilled to a guidance number)."""
    network = diffusion_model(model)
    params = getattr(network, "params", None)
    if getattr(params, "guidance_embed", False) or getattr(network, "guidance_embed", False) is True:
        raise ValueError(
            f"{technique} needs a model with an unconditional prediction, and this one ({model_class(model)}) was "
            "distilled to work without it: use a model that is sampled with a CFG above 1."
        )
