"""One tiny random model of each family of transformers, of the host's own classes, with prompts made by hand.

    model = tiny_transformer("flux"); prompt = prompt_of("flux", "a heart"); cond = conditioning_of("flux", "a heart")
"""  # fmt: skip

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models as models
import torch
from palimpsest.guidance.prompt_to_prompt.token_alignment import Prompt, Token

from .tiny_models import fill

LENGTH = 12  # tokens of a prompt; 0 for as many as it has by itself
WIDTH = 8  # of a token's embedding, as the narrow text encoders of the tests make it


@dataclass(frozen=True)
class Kind:
    """channels: of the latent; frames: whether it has a time axis; pooled: width of the pooled output, 0 without one;
    patch: cells of the latent along a side of a token; columns: what the model fills prompts up to a multiple of,
    before them (left) or behind them; references: whether reference latents are tokens of the sequence; copies: how
    many times a prompt stands there, from the second one on as layers of another encoder."""

    make: Callable[[], comfy.model_patcher.ModelPatcher]
    channels: int = 16
    frames: bool = False
    pooled: int = 0
    patch: int = 2
    columns: int = 1
    left: bool = False
    references: bool = False
    copies: int = 1


def model_of(kind: type, **config) -> comfy.model_patcher.ModelPatcher:
    """A MODEL of one of the host's classes of models with random weights."""
    chosen = kind(config)
    chosen.set_inference_dtype(torch.float32, None)
    model = chosen.get_model({}, "", device=torch.device("cpu"))
    with torch.no_grad():
        fill(model.diffusion_model, 5)
    model.eval()
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.CoreModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))


FLUX = dict(
    hidden_size=128, num_heads=1, depth=1, depth_single_blocks=1, context_in_dim=WIDTH, theta=10000, vec_in_dim=None,
)  # fmt: skip
FLUX1 = FLUX | dict(
    image_model="flux", in_channels=16, out_channels=16, mlp_ratio=4.0, axes_dim=[16, 56, 56], patch_size=2,
    qkv_bias=True, guidance_embed=True, txt_ids_dims=[], vec_in_dim=WIDTH,
)  # fmt: skip
FLUX2 = FLUX | dict(
    image_model="flux2", in_channels=128, out_channels=128, mlp_ratio=3.0, axes_dim=[32, 32, 32, 32], patch_size=1,
    qkv_bias=False, guidance_embed=True, txt_ids_dims=[3], global_modulation=True, mlp_silu_act=True, ops_bias=False,
    default_ref_method="index",
)  # fmt: skip
CHROMA = FLUX | dict(
    image_model="chroma", in_channels=64, out_channels=64, mlp_ratio=4.0, axes_dim=[16, 56, 56], patch_size=2,
    qkv_bias=True, in_dim=64, out_dim=128, hidden_dim=64, n_layers=1, txt_ids_dims=[],
)  # fmt: skip
SD3 = dict(
    input_size=None, patch_size=2, in_channels=16, depth=2, adm_in_channels=64, qk_norm="rms", num_patches=576,
    context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": WIDTH, "out_features": 128}},
    pos_embed_scaling_factor=None, pos_embed_max_size=24, x_block_self_attn_layers=[0],
)  # fmt: skip
QWEN_IMAGE = dict(
    image_model="qwen_image", in_channels=64, out_channels=16, num_layers=2, attention_head_dim=16,
    num_attention_heads=2, joint_attention_dim=WIDTH, axes_dims_rope=(4, 6, 6),
)  # fmt: skip
KREA2 = dict(
    image_model="krea2", features=64, heads=2, kvheads=1, layers=2, channels=16, tdim=32, txtdim=4, txtlayers=2,
    txtheads=2, txtkvheads=2,
)  # fmt: skip
LUMINA = dict(
    image_model="lumina2", patch_size=2, in_channels=16, n_layers=2, n_refiner_layers=1, n_heads=2, qk_norm=True,
    cap_feat_dim=WIDTH, multiple_of=32, axes_lens=[300, 512, 512],
)  # fmt: skip
LUMINA2 = LUMINA | dict(dim=64, n_kv_heads=1, axes_dims=[8, 12, 12], ffn_dim_multiplier=4.0)
Z_IMAGE = LUMINA | dict(
    dim=256, n_kv_heads=2, axes_dims=[32, 48, 48], z_image_modulation=True, time_scale=1000.0, pad_tokens_multiple=32,
    ffn_dim_multiplier=1.0,
)  # fmt: skip
WAN = dict(
    image_model="wan2.1", model_type="t2v", patch_size=(1, 2, 2), text_len=512, in_dim=16, out_dim=16, dim=32,
    ffn_dim=64, freq_dim=32, text_dim=WIDTH, num_heads=2, num_layers=2,
)  # fmt: skip
COSMOS = dict(
    image_model="cosmos_predict2", max_img_h=64, max_img_w=64, max_frames=8, in_channels=16, out_channels=16,
    patch_spatial=2, patch_temporal=1, model_channels=32, num_blocks=2, num_heads=2, crossattn_emb_channels=WIDTH,
    pos_emb_cls="rope3d", pos_emb_learnable=True, use_adaln_lora=True, adaln_lora_dim=16,
)  # fmt: skip

HIDREAM = dict(
    image_model="hidream", patch_size=2, in_channels=16, out_channels=16, num_layers=1, num_single_layers=1,
    attention_head_dim=16, num_attention_heads=2, caption_channels=[WIDTH, WIDTH], text_emb_dim=WIDTH,
    num_routed_experts=0, num_activated_experts=0, axes_dims_rope=(8, 4, 4), llama_layers=[0, 1],
)  # fmt: skip

KINDS: dict[str, Kind] = {
    "flux": Kind(lambda: model_of(models.Flux, **FLUX1), pooled=WIDTH, references=True),
    "flux 2": Kind(
        lambda: model_of(models.Flux2, **FLUX2), channels=128, patch=1, columns=512, left=True, references=True
    ),
    "chroma": Kind(lambda: model_of(models.Chroma, **CHROMA)),
    "sd3": Kind(lambda: model_of(models.SD3, **SD3), pooled=64),
    "qwen-image": Kind(lambda: model_of(models.QwenImage, **QWEN_IMAGE), frames=True, references=True),
    "krea 2": Kind(lambda: model_of(models.Krea2, **KREA2), frames=True),
    "lumina 2": Kind(lambda: model_of(models.Lumina2, **LUMINA2)),
    "z-image": Kind(lambda: model_of(models.ZImage, **Z_IMAGE), columns=32),
    "wan": Kind(lambda: model_of(models.WAN21_T2V, **WAN), frames=True),
    "wan i2v": Kind(lambda: model_of(models.WAN21_I2V, **WAN | dict(model_type="i2v", in_dim=36)), frames=True),
    "hidream": Kind(lambda: model_of(models.HiDream, **HIDREAM), pooled=WIDTH, copies=3),
    "cosmos": Kind(lambda: model_of(models.CosmosT2IPredict2, **COSMOS), frames=True),
}
FAMILIES = tuple(KINDS)


def tiny_transformer(family: str) -> comfy.model_patcher.ModelPatcher:
    return KINDS[family].make()


def noise_of(family: str, batch: int, size: tuple[int, int] = (8, 6), seed: int = 3) -> torch.Tensor:
    """The same noise in every row."""
    kind = KINDS[family]
    shape = (kind.channels, *([1] if kind.frames else []), *size)
    one = torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))
    return one.expand(batch, *one.shape[1:]).clone()


def encoded(text: str, length: int = LENGTH) -> Prompt:
    """A prompt as an encoder makes it: a token a word, an end, filled up to `length`."""
    tokens = [Token(word, word + "</w>") for word in text.split()] + [Token("</s>", "", kind="end")]
    tokens += [Token("<pad>", "", kind="pad")] * (length - len(tokens))
    return Prompt(text, tuple(tokens), len(tokens))


def prompt_of(family: str, text: str, length: int = LENGTH) -> Prompt:
    """The same as the model's attention reads it."""
    kind, prompt = KINDS[family], encoded(text, length)
    more = (Token("<more>", "", kind="pad"),) * (-len(prompt) % kind.columns)
    tokens = ((*more, *prompt.tokens) if kind.left else (*prompt.tokens, *more)) * kind.copies
    alone = Prompt(text, tokens[: len(tokens) // kind.copies])
    places = range(0, len(tokens), len(alone))
    known = [replace(word, columns=tuple(p + c for p in places for c in word.columns)) for word in alone.words]
    return Prompt(text, tokens, len(tokens), tuple(known))


def _embedding(key: str, width: int) -> torch.Tensor:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def conditioning_of(family: str, text: str, length: int = LENGTH) -> list:
    """CONDITIONING of one text; a token's embedding is its own wherever it stands."""
    kind = KINDS[family]
    row = torch.stack([_embedding(str(token.key), WIDTH) for token in encoded(text, length).tokens])
    pooled = {"pooled_output": _embedding(text, kind.pooled)[None]} if kind.pooled else {}
    layers = {"conditioning_llama3": torch.stack([row + 1, row - 1])[None]} if kind.copies > 1 else {}
    return [[row[None], {**pooled, **layers}]]
