"""The text side of the Papercut model: a narrow CLIP text encoder (arXiv 2103.00020, section 2.4) and its tokenizer."""

import json
from functools import cache
from typing import Sequence

import torch

from .configs import TEXT
from .make_tokenizer import END, FOLDER, MAX_LENGTH, START


def tokenizer():
    """transformers' own `CLIPTokenizer` with the Papercut vocabulary, padding to 77 with <|endoftext|>."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(FOLDER, model_max_length=MAX_LENGTH)


@cache
def shared_tokenizer():
    """One tokenizer for the whole process; reading the files takes longer than a caption."""
    return tokenizer()


@cache
def vocabulary() -> dict[str, int]:
    """Token -> id, read from the shipped file without transformers."""
    return json.loads((FOLDER / "vocab.json").read_text(encoding="utf-8"))


def text_config():
    """transformers' `CLIPTextConfig` of the Papercut text encoder; its pooled output is the first <|endoftext|>'s."""
    from transformers import CLIPTextConfig

    ids = vocabulary()
    return CLIPTextConfig(
        vocab_size=len(ids),
        hidden_size=TEXT.width,
        intermediate_size=TEXT.intermediate,
        projection_dim=TEXT.width,
        num_hidden_layers=TEXT.layers,
        num_attention_heads=TEXT.heads,
        max_position_embeddings=TEXT.positions,
        hidden_act=TEXT.activation,
        layer_norm_eps=1e-5,
        bos_token_id=ids[START],
        eos_token_id=ids[END],
        pad_token_id=ids[END],
    )


def encode(captions: str | Sequence[str]) -> torch.Tensor:
    """Token ids (B, 77) int64: <|startoftext|>, the words, then <|endoftext|> to the end; longer captions are cut."""
    captions = [captions] if isinstance(captions, str) else list(captions)
    fill = {"padding": "max_length", "max_length": MAX_LENGTH, "truncation": True}
    return shared_tokenizer()(captions, **fill, return_tensors="pt")["input_ids"]
