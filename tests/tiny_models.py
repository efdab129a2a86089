"""One tiny random model of each family, built from the host's own classes: real ModelPatchers that take milliseconds.

    model = tiny_model("sd1"); cond = tiny_cond("sd1", batch=2); vae = tiny_vae()

Call them under `torch.inference_mode()` to get the weights that the host's loader nodes make. Weights depend on the
family and the seed alone. `tiny_file` writes the flow models as files that the stock Load Diffusion Model node knows
(the stock UNet families have fixed widths); `tiny_lora_file` and `tiny_control_file` serve the stock loaders too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models
import torch
from comfy.cldm.cldm import ControlNet
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.model_base import ModelType
from safetensors.torch import save_file

Family = Literal["sd1", "sd2", "sdxl", "sd3", "flux"]
FAMILIES: tuple[Family, ...] = ("sd1", "sd2", "sdxl", "sd3", "flux")
CHANNELS = {"sd1": 4, "sd2": 4, "sdxl": 4, "sd3": 16, "flux": 16}
CONTEXT = {"sd1": 32, "sd2": 48, "sdxl": 40, "sd3": 32, "flux": 32}
POOLED = 1280
TOKENS = 7

UNET = dict(
    image_size=32,
    in_channels=4,
    out_channels=4,
    model_channels=32,
    num_res_blocks=[1, 1],
    channel_mult=[1, 2],
    use_spatial_transformer=True,
    transformer_depth=[1, 1],
    transformer_depth_middle=1,
    transformer_depth_output=[1, 1, 1, 1],
    legacy=False,
    use_temporal_attention=False,
)


class TinySD1(comfy.supported_models.SD15):
    unet_extra_config = {"num_heads": 2, "num_head_channels": -1}


class TinySD2(comfy.supported_models.SD20):
    unet_extra_config = {"num_heads": -1, "num_head_channels": 16, "attn_precision": torch.float32}

    def model_type(self, state_dict, prefix=""):
        return ModelType.V_PREDICTION


class TinySDXL(comfy.supported_models.SDXL):
    unet_extra_config = {"num_heads": -1, "num_head_channels": 16, "attn_precision": torch.float32}

    def model_type(self, state_dict, prefix=""):
        return ModelType.EPS


def _config(family: Family):
    if family == "sd1":
        return TinySD1(dict(UNET, context_dim=CONTEXT[family], use_linear_in_transformer=False, adm_in_channels=None))
    if family == "sd2":
        return TinySD2(dict(UNET, context_dim=CONTEXT[family], use_linear_in_transformer=True, adm_in_channels=None))
    if family == "sdxl":
        label = dict(num_classes="sequential", adm_in_channels=POOLED + 6 * 256)
        return TinySDXL(dict(UNET, context_dim=CONTEXT[family], use_linear_in_transformer=True, **label))
    if family == "sd3":
        embed = {"target": "torch.nn.Linear", "params": {"in_features": CONTEXT[family], "out_features": 128}}
        return comfy.supported_models.SD3(
            dict(
                input_size=None,
                patch_size=2,
                in_channels=16,
                depth=2,
                adm_in_channels=64,
                qk_norm="rms",
                context_embedder_config=embed,
                pos_embed_scaling_factor=None,
                pos_embed_max_size=24,
                num_patches=576,
            )
        )
    return comfy.supported_models.Flux(
        dict(
            image_model="flux",
            in_channels=16,
            out_channels=16,
            vec_in_dim=64,
            context_in_dim=CONTEXT[family],
            hidden_size=128,
            mlp_ratio=4.0,
            num_heads=1,
            depth=1,
            depth_single_blocks=1,
            axes_dim=[16, 56, 56],
            theta=10000,
            patch_size=2,
            qkv_bias=True,
            guidance_embed=True,
            txt_ids_dims=[],
        )
    )


def fill(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Every weight from its name and the seed: fan-in scaled matrices, norms about one, small biases."""
    for index, (name, tensor) in enumerate(sorted(module.state_dict().items())):
        generator = torch.Generator().manual_seed(seed * 100003 + index)
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim < 2:
            value = 0.1 * noise + (1.0 if name.endswith(("weight", "scale")) else 0.0)
        else:
            value = noise / tensor[0].numel() ** 0.5
        tensor.copy_(value.to(tensor.dtype))
    return module


def tiny_model(
    family: Family, seed: int = 0, *, dtype: torch.dtype = torch.float32
) -> comfy.model_patcher.ModelPatcher:
    """A MODEL of the family; 16 x 16 latents and smaller are meant to be used with it."""
    config = _config(family)
    cast = None if dtype == torch.float32 else torch.float32
    config.set_inference_dtype(dtype, cast)
    model = config.get_model({}, "", device=torch.device("cpu"))
    with torch.no_grad():
        fill(model.diffusion_model, seed + 7 * FAMILIES.index(family))
    model.eval()
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.CoreModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))


def tiny_latent(family: Family, batch: int = 1, size: tuple[int, int] = (8, 8), seed: int = 0) -> torch.Tensor:
    """Raw LATENT samples (B, C, h, w), about as large as those of pictures."""
    generator = torch.Generator().manual_seed(seed + 11)
    return 2 * torch.randn(batch, CHANNELS[family], *size, generator=generator)


def tiny_cond(family: Family, batch: int = 1, seed: int = 0) -> list:
    """A CONDITIONING as CLIP Text Encode makes it: one entry, `batch` rows, pooled output where the family has one."""
    generator = torch.Generator().manual_seed(seed + 23)
    values = torch.randn(batch, TOKENS, CONTEXT[family], generator=generator)
    extra = {}
    if family == "sdxl":
        extra = {"pooled_output": torch.randn(batch, POOLED, generator=generator), "width": 64, "height": 64}
    elif family in ("sd3", "flux"):
        extra = {"pooled_output": torch.randn(batch, 64, generator=generator)}
    return [[values, extra]]


def tiny_vae(channels: int = 4, seed: int = 0) -> comfy.sd.VAE:
    """A VAE of the KL kind with 1/8 latents of `channels` channels (4: SD1, SD2, SDXL; 16: SD3, Flux)."""
    parts = dict(
        double_z=True,
        z_channels=channels,
        resolution=64,
        in_channels=3,
        out_ch=3,
        ch=32,
        ch_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        attn_resolutions=[],
        dropout=0.0,
    )
    config = {"params": {"ddconfig": parts, "embed_dim": channels}}
    with torch.no_grad():
        weights = fill(AutoencoderKL(**config["params"]), seed + 91).state_dict()
        vae = comfy.sd.VAE(sd=weights, config=config, dtype=torch.float32)
    vae.latent_channels = channels
    return vae


def tiny_file(family: Family, path: Path, seed: int = 0) -> Path:
    """tiny_model(family, seed) as a file for the stock Load Diffusion Model node; "sd3" or "flux"."""
    weights = tiny_model(family, seed).model.diffusion_model.state_dict()
    save_file({key: value.clone().contiguous() for key, value in weights.items()}, path)
    return path


def tiny_lora(family: Family, rank: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """A LORA_MODEL on every attention projection of tiny_model(family), strong enough to be seen."""
    generator = torch.Generator().manual_seed(seed + 57)
    weights = tiny_model(family).model.state_dict()
    chosen = ("attn1.to_", "attn2.to_", "qkv.weight", "attn.proj.weight")
    found = {}
    for key, weight in sorted(weights.items()):
        if weight.ndim == 2 and any(part in key for part in chosen):
            name = key.removesuffix(".weight")
            found[f"{name}.lora_up.weight"] = torch.randn(weight.shape[0], rank, generator=generator) / rank
            found[f"{name}.lora_down.weight"] = torch.randn(rank, weight.shape[1], generator=generator) * 0.06
            found[f"{name}.alpha"] = torch.tensor(float(rank))
    return found


def tiny_lora_file(family: Family, path: Path, seed: int = 0) -> Path:
    save_file(tiny_lora(family, seed=seed), path)
    return path


def tiny_control_file(family: Family, path: Path, seed: int = 0) -> Path:
    """A ControlNet for a tiny UNet family that the stock ControlNet loader knows; its output layers are not zero."""
    # The loader takes 64 channels a head for a UNet that it does not know: no attention where there are 32.
    layout = dict(UNET, transformer_depth=[0, 1], transformer_depth_middle=1, context_dim=CONTEXT[family])
    layout.pop("out_channels"), layout.pop("transformer_depth_output"), layout.pop("use_temporal_attention")
    if family == "sdxl":
        layout.update(num_classes="sequential", adm_in_channels=POOLED + 6 * 256)
    linear = family != "sd1"
    network = ControlNet(
        **layout,
        hint_channels=3,
        num_heads=-1,
        num_head_channels=64,
        use_linear_in_transformer=linear,
        operations=comfy.ops.disable_weight_init,
    )
    with torch.no_grad():
        fill(network, seed + 131)
    save_file({key: value.clone().contiguous() for key, value in network.state_dict().items()}, path)
    return path
