"""Papercut-DiT and its autoencoder as fp16 files: Flux's and TAESD's layout, for the host's own loaders.

`train_vae --publish FILE` and `train_flow_transformer --publish` write them. Load Checkpoint reads the first with
the companion; Load VAE reads the second as it is.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .configs import TRANSFORMER, TransformerConfig
from .flow_transformer_layout import PREFIX, to_flux
from .layout import TEXT_PREFIX, VAE_PREFIX, inverse, rename, vae_prefixes
from .networks import WEIGHTS

FILE = WEIGHTS / "papercut-dit.safetensors"
AUTOENCODER = WEIGHTS / "papercut-dit-vae.safetensors"
# The host's Flux latents are (raw - shift) * scale; TAESD's wrapper undoes it before the decoder.
FLUX_SCALE, FLUX_SHIFT = 0.3611, 0.1159


def autoencoder_state(vae: AutoencoderTiny, prefix: str = "") -> dict[str, Tensor]:
    """The autoencoder's weights under TAESD's names, and the two numbers between raw latents and those of unit size."""
    state = {prefix + key: value for key, value in rename(vae.state_dict(), vae_prefixes()).items()}
    return state | {prefix + "vae_scale": torch.tensor(FLUX_SCALE), prefix + "vae_shift": torch.tensor(FLUX_SHIFT)}


def checkpoint_state(
    model: nn.Module, text_encoder: nn.Module, vae: AutoencoderTiny, config: TransformerConfig = TRANSFORMER
) -> dict[str, Tensor]:
    """Transformer, text encoder and autoencoder under the single file's names, still in their own type.

    The text encoder keeps the positions that the transformer reads: the host pads every prompt to all of them.
    """
    state = {PREFIX + key: value for key, value in to_flux(model.state_dict(), config).items()}
    for key, value in text_encoder.state_dict().items():
        if key.endswith("position_embedding.weight"):
            value = value[: config.text_tokens]
        if not key.endswith("position_ids"):
            state[TEXT_PREFIX + key.removeprefix("text_model.")] = value
    return state | autoencoder_state(vae, VAE_PREFIX)


def write(state: Mapping[str, Tensor], path: Path, title: str) -> Path:
    """In fp16, single numbers in fp32; a file half written never bears the final name.

    Raises ValueError for weights that are not finite or do not fit into fp16.
    """
    found = {}
    for key, value in state.items():
        found[key] = value.detach().to("cpu", torch.float16 if value.ndim else torch.float32).contiguous()
        if not torch.isfinite(found[key]).all():
            raise ValueError(f"The weight '{key}' is not finite in fp16; the training has diverged.")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    save_file(found, unfinished, metadata={"format": "pt", "title": title})
    os.replace(unfinished, path)
    return path


def autoencoder_file(folder: Path) -> Path:
    """The autoencoder that a folder of training runs brings along, or else the shipped one."""
    own = folder / AUTOENCODER.name
    return own if own.exists() else AUTOENCODER


def load_autoencoder(path: Path = AUTOENCODER) -> AutoencoderTiny:
    """The 16-channel autoencoder, float32, ready for evaluation; its latents are of unit size.

    Raises RuntimeError (torch's) where the file lacks a weight or has one too many.
    """
    vae = AutoencoderTiny(latent_channels=TRANSFORMER.latent_channels, scaling_factor=1.0)
    state = {key: value.float() for key, value in load_file(path).items() if value.ndim}
    vae.load_state_dict(rename(state, inverse(vae_prefixes())))
    return vae.eval().requires_grad_(False)
