"""The host's own text encoders of every family of transformers, narrow and with random weights, with their tokenizers.

Tokenizers that the host ships are the real ones. Those that come inside a checkpoint are trained here, on a few
sentences: SentencePiece (Lumina 2, Wan) and Mistral's byte pairs (Flux.2 dev).
"""

from __future__ import annotations

import io
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from unittest import mock

import comfy.sd
import comfy.text_encoders.anima
import comfy.text_encoders.cosmos
import comfy.text_encoders.flux
import comfy.text_encoders.hidream
import comfy.text_encoders.hunyuan_video
import comfy.text_encoders.krea2
import comfy.text_encoders.lumina2
import comfy.text_encoders.pixart_t5
import comfy.text_encoders.qwen3vl
import comfy.text_encoders.qwen_image
import comfy.text_encoders.qwen_vl
import comfy.text_encoders.sd3_clip
import comfy.text_encoders.wan
import comfy.text_encoders.z_image
import sentencepiece
import tokenizers
import torch
import transformers

from ..tiny_models import fill

te = comfy.text_encoders
WIDTH = 8
T5 = dict(d_model=WIDTH, d_ff=WIDTH, d_kv=4, num_heads=2, num_layers=1)
NARROW = dict(hidden_size=WIDTH, intermediate_size=WIDTH, num_attention_heads=1)
CLIP = dict(NARROW, num_hidden_layers=3)
SENTENCES = (
    "a red heart on grey paper", "a blue star, and a yellow moon.", "the checked ground: a café; (a leaf)",
    "红色的心在灰色的纸上", "赤いハートと灰色の紙", "two big stars on a dotted ground", "an image with a red moon",
)  # fmt: skip


def spiece_model(**ids: int) -> torch.Tensor:
    """A SentencePiece model as checkpoints hold it; ids: of its special tokens."""
    return torch.frombuffer(bytearray(_trained(tuple(ids.items()))), dtype=torch.uint8)


@cache
def _trained(ids: tuple[tuple[str, int], ...]) -> bytes:
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=file,
        vocab_size=420,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
        **dict(ids),
    )
    return file.getvalue()


class MistralTokenizer:
    """In the place of the host's class of this role, which newer versions of transformers do not serve."""

    SPECIAL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]

    @classmethod
    def from_pretrained(cls, path, **options):
        special = cls.SPECIAL + [f"<SPECIAL_{i}>" for i in range(len(cls.SPECIAL), 12)]
        made = tokenizers.ByteLevelBPETokenizer()
        made.train_from_iterator(
            SENTENCES * 20, vocab_size=420, min_frequency=1, show_progress=False, special_tokens=special
        )
        made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        return transformers.PreTrainedTokenizerFast(tokenizer_object=made)


def language(layers: int) -> dict[str, int]:
    return dict(NARROW, num_key_value_heads=1, num_hidden_layers=layers)


# Family: encoders, tokenizer, narrow configurations, what its checkpoint holds of the tokenizer.
FAMILIES = {
    "flux": (te.flux.flux_clip, te.flux.FluxTokenizer, {"clip_l": CLIP, "t5xxl": T5}, {}),
    "chroma": (te.pixart_t5.pixart_te, te.pixart_t5.PixArtTokenizer, {"t5xxl": T5}, {}),
    "flux2": (te.flux.flux2_te, te.flux.Flux2Tokenizer, {"mistral3_24b": language(31)}, {}),
    "klein": (te.flux.klein_te, te.flux.KleinTokenizer, {"qwen3_4b": language(28)}, {}),
    "sd3": (te.sd3_clip.sd3_clip, te.sd3_clip.SD3Tokenizer, {"clip_l": CLIP, "clip_g": CLIP, "t5xxl": T5}, {}),
    "qwen_image": (te.qwen_image.te, te.qwen_image.QwenImageTokenizer, {"qwen25_7b": language(1)}, {}),
    "krea2": (te.krea2.te, te.krea2.Krea2Tokenizer, {"qwen3vl_4b": language(36)}, {}),
    "z_image": (te.z_image.te, te.z_image.ZImageTokenizer, {"qwen3_4b": language(3)}, {}),
    "lumina2": (te.lumina2.te, te.lumina2.LuminaTokenizer, {"gemma2_2b": language(3)}, "gemma"),
    "wan": (te.wan.te, te.wan.WanT5Tokenizer, {"umt5xxl": T5}, "umt5"),
    "anima": (te.anima.te, te.anima.AnimaTokenizer, {"qwen3_06b": language(1)}, {}),
    "cosmos": (te.cosmos.te, te.cosmos.CosmosT5Tokenizer, {"t5xxl": T5}, {}),
    "hidream": (
        te.hidream.hidream_clip, te.hidream.HiDreamTokenizer,
        {"clip_l": CLIP, "clip_g": CLIP, "t5xxl": T5, "llama": language(3)}, {},
    ),
}  # fmt: skip
DATA = {
    "gemma": lambda: {"spiece_model": spiece_model(pad_id=0, eos_id=1, bos_id=2, unk_id=3)},
    "umt5": lambda: {"spiece_model": spiece_model(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)},
}


def text_encoder(family: str, seed: int = 0, **loaded: bool) -> comfy.sd.CLIP:
    """A CLIP of the family as the host's loader makes it. loaded: False for encoders whose files were not chosen."""
    encoders, tokenizer, configs, data = FAMILIES[family]
    target = SimpleNamespace(params={}, clip=encoders(**loaded), tokenizer=tokenizer)
    options = {"dtype": torch.float32, **{f"{name}_model_config": dict(config) for name, config in configs.items()}}
    data = DATA[data]() if data else {}
    with small_eyes(), served_tokenizers():
        clip = comfy.sd.CLIP(target, tokenizer_data=data, model_options=options)
    with torch.no_grad():
        fill(clip.cond_stage_model, seed + 31)
    if family == "sd3" and loaded.get("t5", True):
        _as_wide_as_the_context(clip.cond_stage_model.t5xxl)
    return clip


@contextmanager
def served_tokenizers():
    """Tokenizers of which the host's own class is not served by newer versions of transformers: Llama's file, which
    loses its blanks there, is read as it stands."""
    mistral = dict(MistralTokenizerClass=MistralTokenizer, load_mistral_tokenizer=lambda data: {})
    llama = dict(LlamaTokenizerFast=transformers.PreTrainedTokenizerFast)
    with mock.patch.multiple(te.flux, **mistral), mock.patch.multiple(te.hunyuan_video, **llama):
        yield


@contextmanager
def small_eyes():
    """Qwen's vision towers with one narrow layer; the host gives no way to set their width."""
    tower = te.qwen_vl.Qwen2VLVisionTransformer

    def small(hidden_size, output_hidden_size, **options):
        return tower(16, output_hidden_size, 16, 1, 1, **options)

    common = dict(te.qwen3vl.QWEN3VL_VISION_COMMON, num_heads=1)
    sizes = {"qwen3vl_4b": dict(hidden_size=16, intermediate_size=16, depth=1, deepstack_visual_indexes=[0])}
    with (
        mock.patch.object(te.qwen_vl, "Qwen2VLVisionTransformer", small),
        mock.patch.multiple(te.qwen3vl, QWEN3VL_VISION_COMMON=common, QWEN3VL_VISION=sizes),
    ):
        yield


def _as_wide_as_the_context(encoder) -> None:
    """SD3 joins T5's columns to CLIP's, which it has made 4096 wide."""
    encode = encoder.encode_token_weights

    def wide(tokens):
        out, *rest = encode(tokens)
        return torch.nn.functional.pad(out, (0, 4096 - out.shape[-1])), *rest

    encoder.encode_token_weights = wide
