"""Write the Papercut model as one fp16 file in Stable Diffusion 1's layout, for the host's Load Checkpoint node.

The trained modules are diffusers' `UNet2DConditionModel` and `AutoencoderTiny` and transformers' `CLIPTextModel`.
`reference.py` reads the file back into the same modules: one set of weights serves the host and its reference.

    python -m palimpsest.papercut.export
"""

import logging
import os
from pathlib import Path
from types import MappingProxyType
from typing import Mapping

import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn

from .configs import LATENT_SCALE, PREVIEW_COLOURS
from .layout import TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX, rename, unet_prefixes, vae_prefixes
from .networks import FILE, new_text_encoder, new_vae
from .reference import text_weights


def to_single_file(unet: nn.Module, text_encoder: nn.Module, vae: nn.Module) -> dict[str, Tensor]:
    """The three networks' weights under the single file's names, still in their own type.

    Raises ValueError for a weight that the layout has no place for.
    """
    state = {UNET_PREFIX + k: v for k, v in rename(unet.state_dict(), unet_prefixes()).items()}
    for key, value in text_encoder.state_dict().items():
        if not key.endswith("position_ids"):
            # Older transformers put `text_model.` before every name.
            state[TEXT_PREFIX + key.removeprefix("text_model.")] = value
    state |= {VAE_PREFIX + k: v for k, v in rename(vae.state_dict(), vae_prefixes()).items()}
    return state


@torch.no_grad()
def fit_preview_colours(vae: nn.Module, pictures: Tensor) -> Tensor:
    """The least-squares colours of the latent channels, for the host's quick previews.

    pictures: (B, 3, H, W) in -1..1. Returns (5, 3) in -1..1: one row a latent channel, the last the bias.
    """
    latents = vae.encode(pictures).latents.float()
    small = nn.functional.avg_pool2d(pictures.float(), pictures.shape[-1] // latents.shape[-1])
    known = rearrange(latents, "b c h w -> (b h w) c")
    known = torch.cat((known, torch.ones_like(known[:, :1])), 1)
    return torch.linalg.lstsq(known, rearrange(small, "b c h w -> (b h w) c")).solution


def export(
    unet: nn.Module,
    text_encoder: nn.Module,
    vae: nn.Module,
    path: Path = FILE,
    *,
    preview_colours: Tensor | None = None,
    about: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write the single file; `about` goes into its header. A file half written never bears the final name.

    preview_colours: (5, 3) from `fit_preview_colours`; without them the host's previews have the wrong colours.
    Raises ValueError for weights that are not finite or do not fit into fp16.
    """
    state = {}
    for key, value in to_single_file(unet, text_encoder, vae).items():
        state[key] = value.detach().to("cpu", torch.float16).contiguous()
        if not torch.isfinite(state[key]).all():
            raise ValueError(f"The weight '{key}' is not finite in fp16; the training has diverged.")
    # The host multiplies raw latents by this number before TAESD's decoder; fp32, as fp16 would shift every latent.
    state[VAE_PREFIX + "vae_scale"] = torch.tensor(LATENT_SCALE)
    state[VAE_PREFIX + "vae_shift"] = torch.tensor(0.0)
    if preview_colours is not None:
        state[PREVIEW_COLOURS] = preview_colours.detach().cpu().float().contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    save_file(state, unfinished, metadata={"format": "pt", "title": "Papercut", **about})
    os.replace(unfinished, path)
    return path


def trained() -> tuple[nn.Module, nn.Module, nn.Module]:
    """UNet (averaged weights), text encoder and autoencoder as the training scripts left them in the cache folder."""
    from .data import CACHE
    from .train_diffusion import Trainer

    def checkpoint(name: str) -> dict:
        path = CACHE / name
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: run the training script that makes it first.")
        return torch.load(path, weights_only=True, map_location="cpu")

    text_encoder, vae, diffusion = new_text_encoder(), new_vae(), Trainer(0.0)
    text_encoder.load_state_dict(text_weights())
    vae.load_state_dict(checkpoint("vae-settle.pt")["vae"])
    checkpoint("diffusion.pt")
    diffusion.resume()
    return diffusion.averaged(), text_encoder, vae


def main() -> None:
    from .scenes import SPLITS, sample_scene

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    unet, text_encoder, vae = trained()
    pictures = torch.stack([sample_scene(seed).render() for seed in SPLITS["train"][:64]])
    path = export(unet, text_encoder, vae, preview_colours=fit_preview_colours(vae, pictures * 2 - 1))
    logging.info("%s: %.1f MB", path, path.stat().st_size / 1e6)


if __name__ == "__main__":
    main()
