"""Prompts as the host's text encoders cut them: columns of the attention maps, words, weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ...guidance.prompt_to_prompt.token_alignment import Prompt, Token
from ...guidance.prompt_to_prompt.token_spans import WORD_END
from ...inversion.negative_prompt import same_length
from ..attention.family import Padding
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


# In an entry of CONDITIONING: how many tokens each of its rows had before they were filled up.
LENGTHS = "palimpsest_lengths"
# What some encoders leave beside the embedding: for a single text alone (Anima), and with a row a text (HiDream).
ONE_TEXT, MORE_ROWS = "t5xxl_ids", "conditioning_llama3"


def encode_tokens(clip, tokens: Tokens) -> list:
    """CONDITIONING, as the host's CLIP Text Encode makes it."""
    return clip.encode_from_tokens_scheduled(tokens)


def as_rows(conditionings: Sequence[list], padding: Padding | None = None) -> list:
    """CONDITIONINGs of one picture each -> one CONDITIONING with a row for each.

    padding: how shorter prompts come to one length, so that nothing changes for the model: None for repetition, else
    an entry says how long each was. Raises ValueError where its text encoder leaves more than an embedding
    of a text.
    """
    if len({len(entries) for entries in conditionings}) != 1:
        raise ValueError("The texts were encoded in different numbers of parts: take scheduled hooks off the CLIP.")
    return [_joined(parts, padding) for parts in zip(*conditionings)]


def _joined(parts: Sequence[list], padding: Padding | None) -> list:
    embeddings = _of_one_length([part[0] for part in parts], padding)
    options = dict(parts[0][1])
    if padding is not None:
        options[LENGTHS] = tuple(part[0].shape[1] for part in parts)
    if ONE_TEXT in options and len(parts) > 1:
        raise ValueError(
            "The text encoder of this model (Anima) gives tokens beside its embedding, which rows of a batch cannot "
            "have: load a model of another family."
        )
    if MORE_ROWS in options:
        more = [part[1].get(MORE_ROWS) for part in parts]
        if len({one.shape for one in more if isinstance(one, Tensor)}) != 1:
            raise ValueError("The texts have different numbers of tokens for this model: shorten the longer ones.")
        options[MORE_ROWS] = torch.cat(more)
    options.pop("attention_mask", None)  # of one text; the rows' own lengths are known
    pooled = [part[1].get("pooled_output") for part in parts]
    if all(isinstance(one, Tensor) for one in pooled):
        options["pooled_output"] = torch.cat(pooled)
    return [torch.cat(embeddings), options]


def _of_one_length(embeddings: list[Tensor], padding: Padding | None) -> list[Tensor]:
    """embeddings: (1, L, D) each."""
    if padding is None:
        for i in range(1, len(embeddings)):
            embeddings[0], embeddings[i] = same_length(embeddings[0], embeddings[i])
        return [same_length(embeddings[0], one)[1] for one in embeddings]
    lengths = [one.shape[1] for one in embeddings]
    if len(set(lengths)) == 1:
        return embeddings
    unit = padding.multiple
    longest = -(-max(lengths) // unit) * unit
    # On the left a prompt keeps the room behind it that the model fills up itself.
    behind = [-length % unit if padding.side == "left" else longest - length for length in lengths]
    sides = [(0, 0, longest - length - after, after) for length, after in zip(lengths, behind)]
    return [torch.nn.functional.pad(one, side) for one, side in zip(embeddings, sides)]
