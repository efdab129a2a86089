"""Prompt-to-Prompt without an anchor, editors that are too slow, or too weak, for all edits: two edits of each kind.

Faithful null text, to see whether fast mode costs an edit anything; and Proximal Guidance with the source's prompt as
the negative of every row, as its paper has it."""

from __future__ import annotations

from collections.abc import Iterable

from ..rows import Row
from ..word_edits import KINDS
from ._words_world import Negative, known, mean
from .prompt_to_prompt_negative import CFG, SELF_STEPS, measured

TECHNIQUE = "Prompt-to-Prompt without an anchor, a few edits"
TECHNIQUES = (TECHNIQUE,)
EDITS = 2 * len(KINDS)
# As the example workflow of Proximal Guidance has it.
CFG_PROXIMAL = 3.0
EDITORS = {
    "null text, local blend": (Negative("null text", self_steps=SELF_STEPS), CFG),
    "faithful null text, local blend": (Negative("faithful null text", self_steps=SELF_STEPS), CFG),
    "negative-prompt in every row, proximal, local blend": (
        Negative("source", every_row=True, proximal=True), CFG_PROXIMAL
    ),
}  # fmt: skip


def rows(context) -> Iterable[Row]:
    found = measured(EDITS, EDITORS) if known() else {name: [] for name in EDITORS}
    for name, judgements in found.items():
        negative, cfg = EDITORS[name]
        measure = f"edit success, {EDITS} edits, CFG {cfg:g}, self_steps {negative.self_steps:g}"
        yield context.row(TECHNIQUE, measure, name, mean(one.success for one in judgements), "%")
        value = mean(one.background for one in judgements)
        yield context.row(TECHNIQUE, f"background outside the true mask, {EDITS} edits", name, value, "dB")
