"""Prompts cut into words by spaces and punctuation, as a tokenizer would, without a vocabulary."""

from __future__ import annotations

import re

from palimpsest.guidance.prompt_to_prompt.token_alignment import Prompt, Token

PIECE = 5


def pieces(word: str) -> list[str]:
    """Words of more than five letters have several pieces, as rare words do."""
    cut = [word[i : i + PIECE] for i in range(0, len(word), PIECE)]
    return [*cut[:-1], cut[-1] + "</w>"]


def prompt(text: str, chunk: int = 16) -> Prompt:
    """Weights are written as {word:1.3}."""
    tokens: list[list[Token]] = [[]]
    for match in re.finditer(r"\{(\w+):([\d.]+)\}|(\w+)|([^\w\s])", text):
        word, weight = (match[1], float(match[2])) if match[1] else (match[3] or match[4], 1.0)
        group = [Token(piece, piece, weight) for piece in pieces(word.lower())]
        if len(tokens[-1]) + len(group) > chunk - 2:
            tokens.append([])
        tokens[-1] += group
    columns = []
    for group in tokens:
        padding = [Token("end", "", 1.0, "pad")] * (chunk - 2 - len(group))
        columns += [Token("start", "", 1.0, "start"), *group, Token("end", "", 1.0, "end"), *padding]
    return Prompt(text, tuple(columns), chunk)
