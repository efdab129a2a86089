"""Prompts as the host's text encoders cut them: columns of the attention maps, words, weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ...guidance.prompt_to_prompt.token_alignment import Prompt, Token
from ...guidance.prompt_to_prompt.token_spans import WORD_END
from ...inversion.negative_prompt import same_length
from .text_encoders import Tokens, blank_of, other_weights, read_columns, tokenizer_of


def read_prompt(clip, text: str, **options) -> tuple[Prompt, Tokens]:
    """The prompt by columns of its conditioning, and the host's own tokens with their weights.

    options: the tokenizer's own, such as `images`. Raises ValueError for encoders whose words cannot be separated.
    """
    tokens: Tokens = clip.tokenize(text, **options)
    tokenizer = _clip_tokenizer(clip, tokens)
    if tokenizer is None:
        return read_columns(clip, text, **options)
    chunks = next(iter(tokens.values()))
    columns = [token for chunk in chunks for token in _columns(chunk, tokenizer)]
    return Prompt(text, tuple(columns), len(chunks[0])), tokens


def _clip_tokenizer(clip, tokens: Tokens):
    """The first tokenizer where all of them cut text as CLIP does."""
    found = [tokenizer_of(clip, name) for name in tokens]
    return found[0] if found and all(one is not None and blank_of(one) == WORD_END for one in found) else None


def _columns(chunk: Sequence[tuple], tokenizer) -> list[Token]:
    """One chunk: the start, words, the end, and padding to its length."""
    found, ended = [], False
    for place, (token, weight, *_) in enumerate(chunk):
        if isinstance(token, Tensor) or not isinstance(token, int):
            # A learned word (textual inversion) or anything else that is no number.
            found.append(Token(_digest(token), f"<embedding>{WORD_END}", float(weight)))
        elif ended:
            found.append(Token(token, "", 1.0, "pad"))
        elif place == 0 and token == tokenizer.start_token:
            found.append(Token(token, "", 1.0, "start"))
        elif token == tokenizer.end_token:
            ended = True
            found.append(Token(token, "", 1.0, "end"))
        else:
            found.append(Token(token, str(tokenizer.inv_vocab.get(token, "")), float(weight)))
    return found


def _digest(token) -> str:
    values = token.detach().float().cpu().contiguous() if isinstance(token, Tensor) else None
    return hashlib.sha256(values.numpy().tobytes() if values is not None else repr(token).encode()).hexdigest()


def reweighted(clip, tokens: Tokens, weights: Sequence[float]) -> Tokens:
    """The same tokens with other weights, one a column. Raises ValueError where a CLIP counts otherwise."""
    if _clip_tokenizer(clip, tokens) is None:
        return other_weights(clip, tokens, weights)
    changed: Tokens = {}
    for name, chunks in tokens.items():
        if sum(len(chunk) for chunk in chunks) != len(weights):
            raise ValueError(
                "The model's text encoders cut this text into different numbers of tokens: leave out what only one of "
                "them knows, such as an embedding."
            )
        left = iter(weights)
        changed[name] = [[(token, next(left), *rest) for token, _, *rest in chunk] for chunk in chunks]
    return changed


def encode_tokens(clip, tokens: Tokens) -> list:
    """CONDITIONING, as the host's CLIP Text Encode makes it."""
    return clip.encode_from_tokens_scheduled(tokens)


def as_rows(conditionings: Sequence[list]) -> list:
    """CONDITIONINGs of one picture each -> one CONDITIONING with a row for each.

    Shorter prompts are repeated to the common length, which changes nothing for the model.
    """
    if len({len(entries) for entries in conditionings}) != 1:
        raise ValueError("The texts were encoded in different numbers of parts: take scheduled hooks off the CLIP.")
    return [_joined(parts) for parts in zip(*conditionings)]


def _joined(parts: Sequence[list]) -> list:
    embeddings = [part[0] for part in parts]
    for i in range(1, len(embeddings)):
        embeddings[0], embeddings[i] = same_length(embeddings[0], embeddings[i])
    embeddings = [same_length(embeddings[0], one)[1] for one in embeddings]
    options = dict(parts[0][1])
    pooled = [part[1].get("pooled_output") for part in parts]
    if all(isinstance(one, Tensor) for one in pooled):
        options["pooled_output"] = torch.cat(pooled)
    return [torch.cat(embeddings), options]
