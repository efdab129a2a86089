"""When each word has its place from the source: the cross-replace windows of the code published with Prompt-to-Prompt
(arXiv 2208.01626), a fraction of the steps with a start and an end for single words, and one end for all others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .token_alignment import Alignment, Prompt

NUMBER = r"(\d*\.?\d+)"
# "star: 0.4" or "star: 0.1 to 0.4", between commas or on lines.
LINE = rf"(.+?)\s*:\s*(?:{NUMBER}\s*(?:to|-)\s*)?{NUMBER}"


@dataclass(frozen=True)
class WordWindow:
    """phrase: words of an edit; start, end: fractions (0..1) of the run's steps."""

    phrase: Prompt
    start: float
    end: float


def parse_windows(text: str) -> list[tuple[str, float, float]]:
    """The words, start and end of every window in a text; raises ValueError for what is none."""
    found = []
    for part in (one.strip() for one in text.replace("\n", ",").split(",")):
        if not part:
            continue
        match = re.fullmatch(LINE, part)
        words, start, end = (match[1], float(match[2] or 0), float(match[3])) if match else ("", 1.0, 0.0)
        if not 0 <= start <= end <= 1:
            raise ValueError(
                f"'{part}' in word_steps is no window: write a word and fractions of the steps from 0 to 1, as in "
                "'star: 0.4' or 'star: 0.1 to 0.4'."
            )
        found.append((words, start, end))
    return found


def windows_of(edits: Sequence[Prompt], words: Sequence[WordWindow], cross_steps: float) -> tuple[Tensor, ...]:
    """For each edit the start and end of every column (K, 2); nothing without words of their own.

    Raises ValueError for words that none of the edits has.
    """
    for one in words:
        if not any(edit.find(one.phrase) for edit in edits):
            raise ValueError(
                f"word_steps has '{one.phrase.text.strip()}', which is in none of the edited texts: take words of them."
            )
    return tuple(_windows(edit, words, cross_steps) for edit in edits) if words else ()


def _windows(edit: Prompt, words: Sequence[WordWindow], cross_steps: float) -> Tensor:
    found = torch.tensor([0.0, cross_steps]).repeat(len(edit), 1)
    for one in words:
        found[list(edit.find(one.phrase))] = torch.tensor([one.start, one.end])
    return found


def within(alignment: Alignment, window: Tensor, step: int, steps: int) -> Alignment:
    """The alignment in a step (from 0) of a run of `steps`: columns outside their window (K, 2) are its own."""
    start, end = (window * steps + 1e-4).int().unbind(1)
    inside = ((start <= step) & (step < end)).to(alignment.new)
    return replace(
        alignment,
        take=alignment.take * inside,
        new=alignment.new * inside + (1 - inside),
        scale=alignment.scale * inside + (1 - inside),
    )
