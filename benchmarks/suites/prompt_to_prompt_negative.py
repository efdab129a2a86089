"""Prompt-to-Prompt on Papercut's test split where the source's row is sampled and not anchored: what the two negative
prompts that bring a picture back, NullText Optimize's and the source prompt itself, are worth for edits."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ..context import every_core
from ..rows import Row
from ..word_edits import word_edits
from ._words_world import Found, by_words, cases, judged, known, load_world, mean

TECHNIQUE = "Prompt-to-Prompt without an anchor"
TECHNIQUES = (TECHNIQUE,)
EDITS, SUCCESS, BACKGROUND = 105, ">= 80", ">= 30"
# Against the source prompt a step of guidance goes further than against the empty one.
CFG = 2.0
EDITORS = {"null text, local blend": "null text", "negative-prompt, local blend": "source"}


def measured(count: int, split: str = "test") -> dict[str, list[Found]]:
    """Both editors' pictures, judged. One evaluation more a level brings the inversion nearer to what sampling does."""
    found: dict[str, list[Found]] = {name: [] for name in EDITORS}
    with torch.inference_mode(), every_core():
        world = load_world()
        for case in cases(world, word_edits(count, split), refinement=1):
            for name, negative in EDITORS.items():
                (made,) = by_words(world, case, negative=negative, anchor=False, blend=True, cfg=CFG)
                found[name].append(judged(world, case, made))
    return found


def rows(context) -> Iterable[Row]:
    found = measured(EDITS) if known() else {name: [] for name in EDITORS}
    for name, judgements in found.items():
        value = mean(one.success for one in judgements)
        yield context.row(TECHNIQUE, f"edit success, {EDITS} edits, CFG {CFG:g}", name, value, "%", SUCCESS)
    for name, judgements in found.items():
        value = mean(one.background for one in judgements)
        yield context.row(TECHNIQUE, "background outside the true mask", name, value, "dB", BACKGROUND)
