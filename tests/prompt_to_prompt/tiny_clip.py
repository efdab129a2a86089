"""The host's own CLIP with tiny text encoders: the family's tokenizers, their weights syntax, their chunks of 77."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import comfy.sd
import torch
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel
from comfy.sdxl_clip import SDXLClipModel, SDXLTokenizer
from comfy.text_encoders.sd2_clip import SD2Tokenizer

from ..tiny_models import CONTEXT, POOLED, fill


class TinyEncoder(SDClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}, width=CONTEXT["sd1"]):
        config = {
            "num_hidden_layers": 1, "hidden_size": width, "num_attention_heads": 2, "intermediate_size": 32,
            "hidden_act": "quick_gelu", "max_position_embeddings": 77, "eos_token_id": 49407,
        }  # fmt: skip
        super().__init__(
            device=device,
            dtype=dtype,
            textmodel_json_config=config,
            return_projected_pooled=False,
            model_options=model_options,
        )


class TinyEncoders(SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):
        super().__init__(device, dtype, model_options, clip_model=TinyEncoder)


class TinyOpenEncoders(SD1ClipModel):
    """Stable Diffusion 2's, which has another name."""

    def __init__(self, device="cpu", dtype=None, model_options={}):
        wide = partial(TinyEncoder, width=CONTEXT["sd2"])
        super().__init__(device, dtype, model_options, clip_name="h", clip_model=wide)


class TinyTwoEncoders(SDXLClipModel):
    """SDXL's two, side by side; the second one's pooled output goes to the model as well."""

    def __init__(self, device="cpu", dtype=None, model_options={}):
        torch.nn.Module.__init__(self)
        self.clip_l, self.clip_g = (TinyEncoder(device, dtype, model_options, width) for width in (16, 24))
        self.dtypes = {dtype}

    def encode_token_weights(self, token_weight_pairs):
        rows, pooled = super().encode_token_weights(token_weight_pairs)
        return rows, torch.nn.functional.pad(pooled, (0, POOLED - pooled.shape[1]))


PARTS = {
    "sd1": (TinyEncoders, SD1Tokenizer), "sd2": (TinyOpenEncoders, SD2Tokenizer),
    "sdxl": (TinyTwoEncoders, SDXLTokenizer),
}  # fmt: skip


def tiny_clip(family: str = "sd1", seed: int = 0) -> comfy.sd.CLIP:
    """A CLIP whose embeddings have the width of the family's tiny model."""
    encoders, tokenizer = PARTS[family]
    clip = comfy.sd.CLIP(SimpleNamespace(params={}, clip=encoders, tokenizer=tokenizer))
    with torch.no_grad():
        fill(clip.cond_stage_model, seed + 31)
    return clip
