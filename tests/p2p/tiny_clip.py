"""The host's own CLIP with a tiny text encoder: its tokenizer, its weights syntax, its chunks of 77."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.sd
import torch
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel

from ..tiny_models import fill


class TinyEncoder(SDClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):
        config = {
            "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32,
            "hidden_act": "quick_gelu", "max_position_embeddings": 77, "eos_token_id": 49407,
        }  # fmt: skip
        super().__init__(
            device=device, dtype=dtype, textmodel_json_config=config, return_projected_pooled=False,
            model_options=model_options,
        )  # fmt: skip


class TinyEncoders(SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):
        super().__init__(device, dtype, model_options, clip_model=TinyEncoder)


def tiny_clip(seed: int = 0) -> comfy.sd.CLIP:
    """A CLIP whose embeddings have the width of the tiny SD1 model (32)."""
    clip = comfy.sd.CLIP(SimpleNamespace(params={}, clip=TinyEncoders, tokenizer=SD1Tokenizer))
    with torch.no_grad():
        fill(clip.cond_stage_model, seed + 31)
    return clip
