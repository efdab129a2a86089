"""The Papercut model in diffusers' own modules, read from the one shipped file: the reference of the parity tests.

Development only: the pack itself needs neither diffusers nor this file.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .configs import SCHEDULE
from .layout import TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX, inverse, rename, unet_prefixes, vae_prefixes
from .networks import FILE, new_text_encoder, new_unet, new_vae
from .text import tokenizer


class Reference(NamedTuple):
    """diffusers' and transformers' modules, ready for evaluation, without gradients."""

    unet: nn.Module
    vae: nn.Module
    text_encoder: nn.Module
    tokenizer: object
    scheduler: object

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def embed(self, captions: str | list[str]) -> Tensor:
        """Captions -> (B, 77, 192), as the host's CLIP Text Encode gives them."""
        from .text import encode

        return self.text_encoder(encode(captions).to(self.device)).last_hidden_state

    def pictures(self, latents: Tensor) -> Tensor:
        """Latents (B, 4, h, w) of unit size -> pictures (B, 3, 8h, 8w) in 0..1."""
        return (self.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)

    def latents(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1 -> latents (B, 4, H/8, W/8) of unit size."""
        return self.vae.encode(pictures * 2 - 1).latents


def load_reference(path: Path = FILE, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Reference:
    """Read the single file back into diffusers' layout.

    Raises RuntimeError (torch's) where the file lacks a weight or has one too many.
    """
    state = load_file(path)

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    unet, text_encoder, vae = new_unet(), new_text_encoder(), new_vae()
    unet.load_state_dict(rename(part(UNET_PREFIX), inverse(unet_prefixes())))
    first = "text_model." if any(k.startswith("text_model.") for k in text_encoder.state_dict()) else ""
    text_encoder.load_state_dict({first + k: v for k, v in part(TEXT_PREFIX).items()})
    scalars = ("vae_scale", "vae_shift")
    vae_state = {k: v for k, v in part(VAE_PREFIX).items() if k not in scalars}
    vae.load_state_dict(rename(vae_state, inverse(vae_prefixes())))
    modules = [nn.Module.to(m, device, dtype).eval().requires_grad_(False) for m in (unet, vae, text_encoder)]
    return Reference(*modules, tokenizer(), new_scheduler())


def new_scheduler(**changes):
    """diffusers' `DDIMScheduler`: time steps 1, 51, ... at 20 steps as in Stable Diffusion 1, and a clean end."""
    from diffusers import DDIMScheduler

    usual = {"clip_sample": False, "set_alpha_to_one": True, "steps_offset": 1, "timestep_spacing": "leading"}
    return DDIMScheduler(**SCHEDULE.diffusers(), **{**usual, **changes})


def text_weights() -> dict[str, Tensor]:
    """The text encoder's weights from the cache folder, or else the shipped ones."""
    from .data import CACHE

    path = CACHE / "text.pt"
    if path.exists():
        return torch.load(path, weights_only=True, map_location="cpu")["encoder"]
    return load_reference().text_encoder.state_dict()
