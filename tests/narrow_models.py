"""The public model files that the examples load, as narrow random networks under the same names.

The stock loaders read them as they read the real ones: host_pack registers a narrow class for each family, with its
text encoder. This is the one place where such classes stand. Tokenizers, noise schedules and latent formats are the
host's.
"""

from __future__ import annotations

from pathlib import Path

import comfy.supported_models
import comfy.utils
import torch
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel
from comfy.sdxl_clip import SDXLClipModel, SDXLTokenizer
from comfy.supported_models_base import ClipTarget
from safetensors.torch import save_file

from .tiny_models import UNET, fill

WEIGHTS = Path(__file__).resolve().parent.parent / "papercut" / "weights"
WIDTH = 32  # of each text encoder
SD1 = {
    "context_dim": WIDTH, "model_channels": 32, "use_linear_in_transformer": False, "adm_in_channels": None,
    "use_temporal_attention": False,
}  # fmt: skip
SDXL = {**SD1, "context_dim": 2 * WIDTH, "use_linear_in_transformer": True, "adm_in_channels": WIDTH + 6 * 256}


class NarrowText(SDClipModel):
    """CLIP with three thin layers."""

    def __init__(self, device="cpu", dtype=None, model_options={}, **settings):
        config = {
            "num_hidden_layers": 3, "hidden_size": WIDTH, "num_attention_heads": 2, "intermediate_size": 2 * WIDTH,
            "hidden_act": "quick_gelu", "max_position_embeddings": 77, "eos_token_id": 49407,
        }  # fmt: skip
        super().__init__(
            device=device, dtype=dtype, textmodel_json_config=config, model_options=model_options, **settings
        )


class NarrowTexts(SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):
        super().__init__(device, dtype, model_options, clip_model=NarrowText)


class NarrowTextsXL(SDXLClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):
        torch.nn.Module.__init__(self)
        hidden = {"layer": "hidden", "layer_idx": -2, "layer_norm_hidden_state": False}
        self.clip_l = NarrowText(device, dtype, model_options, **hidden)
        special = {"start": 49406, "end": 49407, "pad": 0}
        self.clip_g = NarrowText(device, dtype, model_options, special_tokens=special, **hidden)
        self.dtypes = {dtype}


class _Plain:
    """The file keeps the text encoders under the host's own names."""

    unet_extra_config = {"num_heads": 2, "num_head_channels": -1}

    def process_clip_state_dict(self, state_dict):
        return comfy.utils.state_dict_prefix_replace(state_dict, {"cond_stage_model.": ""}, filter_keys=True)


class NarrowSD1(_Plain, comfy.supported_models.SD15):
    unet_config = SD1

    def clip_target(self, state_dict={}):
        return ClipTarget(SD1Tokenizer, NarrowTexts)


class NarrowSDXL(_Plain, comfy.supported_models.SDXL):
    unet_config = SDXL

    def clip_target(self, state_dict={}):
        return ClipTarget(SDXLTokenizer, NarrowTextsXL)


FILES = {
    "checkpoints/v1-5-pruned-emaonly-fp16.safetensors": (NarrowSD1, NarrowTexts, UNET | SD1),
    "checkpoints/sd_xl_base_1.0.safetensors": (NarrowSDXL, NarrowTextsXL, UNET | SDXL | {"num_classes": "sequential"}),
}
FLOW = "optical_flow/raft_large_C_T_SKHT_V2-ff5fadd5.safetensors"


def register() -> None:
    """Makes the host know the narrow classes, before its own."""
    comfy.supported_models.models[:0] = [kind for kind, *_ in FILES.values()]


def write_models(folder: Path) -> Path:
    """Writes every file under `folder`, a host's models folder, and returns it."""
    papercut = comfy.utils.load_torch_file(str(WEIGHTS / "papercut.safetensors"), safe_load=True)
    vae = {key: value for key, value in papercut.items() if key.startswith("first_stage_model.")}
    for seed, (name, (kind, texts, layout)) in enumerate(FILES.items()):
        config = kind(dict(layout))
        config.set_inference_dtype(torch.float32, None)
        with torch.no_grad():
            network = fill(config.get_model({}, "", device=torch.device("cpu")).diffusion_model, seed)
            text = fill(texts(dtype=torch.float32), seed)
        weights = {f"model.diffusion_model.{key}": value for key, value in network.state_dict().items()}
        weights |= {f"cond_stage_model.{key}": value for key, value in text.state_dict().items()} | vae
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.clone().contiguous() for key, value in weights.items()}, folder / name)
    (folder / FLOW).parent.mkdir(parents=True, exist_ok=True)
    (folder / FLOW).symlink_to(WEIGHTS / "papercut-flow.safetensors")
    return folder
