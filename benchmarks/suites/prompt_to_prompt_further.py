"""Prompt-to-Prompt without an anchor: the editors that are slow, or need a CFG of their own, on the same edits.

Faithful null text, to see whether fast mode costs an edit anything; and Proximal Guidance: with the negatives that
Prompt-to-Prompt's node gives out, and with the source's prompt as the negative of every row, as its paper has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from ..context import every_core
from ..rows import Row
from ..word_edits import word_edits
from ._words_world import (
    GROUP, Case, Found, Negative, by_words, edits_of, fitted, group_of_cases, judged, known, load_world, mean
)  # fmt: skip
from .prompt_to_prompt_negative import BACKGROUND, CFG, EDITS, SELF_STEPS, SUCCESS

TECHNIQUE = "Prompt-to-Prompt without an anchor, further editors"
TECHNIQUES = (TECHNIQUE, "Prompt-to-Prompt without an anchor, a few edits")
# As the example workflow of Proximal Guidance has it.
CFG_PROXIMAL = 3.0
PROXIMAL = "negative-prompt, proximal, local blend"
EDITORS = {
    "faithful null text, local blend": (Negative("fitted", self_steps=SELF_STEPS), CFG),
    PROXIMAL: (Negative("source", proximal=True, self_steps=SELF_STEPS), CFG),
    "negative-prompt in every row, proximal, local blend": (
        Negative("source", every_row=True, proximal=True), CFG_PROXIMAL
    ),
}  # fmt: skip


def fitted_cases(world, count: int, split: str) -> Iterator[Case]:
    """Every edit's picture with its faithful null text; several at a time."""
    edits = word_edits(count, split)
    for first in range(0, count, GROUP):
        yield from fitted(world, group_of_cases(world, edits[first : first + GROUP]), CFG)


def measured(count: int, split: str = "test") -> dict[str, list[Found]]:
    """Every editor's pictures, judged."""
    found: dict[str, list[Found]] = {name: [] for name in EDITORS}
    with torch.inference_mode(), every_core():
        world = load_world()
        for case in fitted_cases(world, count, split):
            for name, (negative, cfg) in EDITORS.items():
                latents = by_words(world, case, negative=negative, anchor=False, blend=True, cfg=cfg)
                found[name].append(judged(world, case, edits_of(world, latents)[0]))
    return found


def rows(context) -> Iterable[Row]:
    found = measured(EDITS) if known() else {name: [] for name in EDITORS}
    for name, judgements in found.items():
        (negative, cfg), targets = EDITORS[name], (SUCCESS, BACKGROUND) if name == PROXIMAL else ("", "")
        measure = f"edit success, {EDITS} edits, CFG {cfg:g}, self_steps {negative.self_steps:g}"
        yield context.row(TECHNIQUE, measure, name, mean(one.success for one in judgements), "%", targets[0])
        value = mean(one.background for one in judgements)
        yield context.row(TECHNIQUE, "background outside the true mask", name, value, "dB", targets[1])
