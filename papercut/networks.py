"""The three networks of Papercut, untrained, and where the shipped weights lie."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from .configs import UNET, UNetConfig

WEIGHTS = Path(__file__).resolve().parent / "weights"
FILE = WEIGHTS / "papercut.safetensors"


def new_unet(config: UNetConfig = UNET) -> nn.Module:
    """An untrained UNet: latents (B, 4, h, w), time step (B,), text (B, 77, 192) -> noise (B, 4, h, w)."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**config.diffusers())


def new_vae() -> nn.Module:
    """An untrained autoencoder in TAESD's layout: pictures (B, 3, H, W) in -1..1 <-> latents (B, 4, H/8, W/8)."""
    from diffusers import AutoencoderTiny

    # Latents of unit size go to the UNet as they are.
    return AutoencoderTiny(scaling_factor=1.0)


def new_text_encoder() -> nn.Module:
    """An untrained text encoder: token ids (B, 77) -> last hidden layer (B, 77, 192)."""
    from transformers import CLIPTextModel

    from .text import text_config

    return CLIPTextModel(text_config())
