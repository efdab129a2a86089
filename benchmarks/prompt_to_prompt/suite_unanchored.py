"""Prompt-to-Prompt without an anchor: the editors that are slow, or need a CFG of their own, on the same edits.

Faithful null text, to see whether fast mode costs an edit anything; and Proximal Guidance: with the negatives that
Prompt-to-Prompt's node gives out, and with the source's prompt as the negative of every row, as its paper has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from ..context import every_core
from ..results import Row, mean
from .cases import word_edits
from .fixtures import (
    GROUP,
    Case,
    Found,
    Negative,
    by_prompt_to_prompt,
    edits_of,
    fitted,
    group_of_cases,
    judged,
    known,
    load_fixtures,
)
from .suite_negative_prompts import BACKGROUND, CFG, EDITS, SELF_STEPS, SUCCESS

TECHNIQUE = "Prompt-to-Prompt without an anchor, further editors"
TECHNIQUES = (TECHNIQUE, "Prompt-to-Prompt without an anchor, a few edits")
# As the example workflow of Proximal Guidance has it.
CFG_PROXIMAL = 3.0
PROXIMAL = "negative-prompt, proximal, local blend"
# Four of each kind: a faithful fit takes many times what its edit takes, and fast mode's fits are measured on all.
FITTED_EDITS = 28
EDITORS = {
    "faithful null text, local blend": (Negative("fitted", self_steps=SELF_STEPS), CFG, FITTED_EDITS),
    PROXIMAL: (Negative("source", proximal=True, self_steps=SELF_STEPS), CFG, EDITS),
    "negative-prompt in every row, proximal, local blend": (
        Negative("source", every_row=True, proximal=True), CFG_PROXIMAL, EDITS
    ),
}  # fmt: skip


def cases(fixtures, count: int, split: str) -> Iterator[Case]:
    """Every edit's picture, inverted several at a time; the first `FITTED_EDITS` with their faithful null text."""
    edits = word_edits(count, split)
    for first in range(0, count, GROUP):
        group = group_of_cases(fixtures, edits[first : first + GROUP])
        wanted = max(0, min(FITTED_EDITS - first, len(group)))
        yield from fitted(fixtures, group[:wanted], CFG) if wanted else ()
        yield from group[wanted:]


def measured(count: int, split: str = "test") -> dict[str, list[Found]]:
    """Every editor's pictures, judged."""
    found: dict[str, list[Found]] = {name: [] for name in EDITORS}
    with torch.inference_mode(), every_core():
        fixtures = load_fixtures()
        for i, case in enumerate(cases(fixtures, count, split)):
            for name, (negative, cfg, edits) in EDITORS.items():
                if i < edits:
                    latents = by_prompt_to_prompt(fixtures, case, negative=negative, anchor=False, blend=True, cfg=cfg)
                    found[name].append(judged(fixtures, case, edits_of(fixtures, latents)[0]))
    return found


def rows(context) -> Iterable[Row]:
    found = measured(EDITS) if known() else {name: [] for name in EDITORS}
    for name, judgements in found.items():
        (negative, cfg, edits), targets = EDITORS[name], (SUCCESS, BACKGROUND) if name == PROXIMAL else ("", "")
        measure = f"edit success, {edits} edits, CFG {cfg:g}, self_steps {negative.self_steps:g}"
        yield context.row(TECHNIQUE, measure, name, mean(one.success for one in judgements), "%", targets[0])
        value, measure = mean(one.background for one in judgements), f"background outside the true mask, {edits} edits"
        yield context.row(TECHNIQUE, measure, name, value, "dB", targets[1])
