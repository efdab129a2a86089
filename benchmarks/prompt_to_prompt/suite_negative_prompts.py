"""Prompt-to-Prompt on Papercut's test split where the source's row is sampled and not anchored: what the two negative
prompts that bring a picture back, NullText Optimize's and the source prompt itself, are worth for edits.

As Prompt-to-Prompt's node gives them out, they stand in the source's row, and the edits have the empty prompt. The
papers give them to the edits as well: an edit is then pushed away from all that the picture shows, also from what is to
stay, and loses its outline or its colour. That way is measured for comparison."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ..context import every_core
from ..results import Row, mean
from .cases import KINDS, word_edits
from .fixtures import Found, Negative, by_prompt_to_prompt, cases, edits_of, judged, known, load_fixtures

TECHNIQUE = "Prompt-to-Prompt without an anchor"
TECHNIQUES = (TECHNIQUE,)
EDITS, SUCCESS, BACKGROUND = 105, ">= 80", ">= 30"
# Where the blend keeps what lies beside an edit, shapes may be let go earlier than where nothing else keeps it.
SELF_STEPS, CFG = 0.4, 5.0
# Against the source prompt a step of guidance goes further than against the empty one.
CFG_EVERY_ROW = 2.0
NULL_TEXT, SOURCE, EVERY_ROW = (
    "null text, local blend",
    "negative-prompt, local blend",
    "negative-prompt in every row, local blend",
)
EDITORS = {
    NULL_TEXT: (Negative("null text", self_steps=SELF_STEPS), CFG),
    SOURCE: (Negative("source", self_steps=SELF_STEPS), CFG),
    EVERY_ROW: (Negative("source", every_row=True), CFG_EVERY_ROW),
}


def measured(count: int, split: str = "test") -> dict[str, list[Found]]:
    """Every editor's pictures, judged."""
    found: dict[str, list[Found]] = {name: [] for name in EDITORS}
    with torch.inference_mode(), every_core():
        fixtures = load_fixtures()
        for case in cases(fixtures, word_edits(count, split)):
            for name, (negative, cfg) in EDITORS.items():
                latents = by_prompt_to_prompt(fixtures, case, negative=negative, anchor=False, blend=True, cfg=cfg)
                (made,) = edits_of(fixtures, latents)
                found[name].append(judged(fixtures, case, made))
    return found


def rows(context) -> Iterable[Row]:
    found = measured(EDITS) if known() else {name: [] for name in EDITORS}
    for name, judgements in found.items():
        (negative, cfg), target = EDITORS[name], SUCCESS if name != EVERY_ROW else ""
        measure = f"edit success, {EDITS} edits, CFG {cfg:g}, self_steps {negative.self_steps:g}"
        yield context.row(TECHNIQUE, measure, name, mean(one.success for one in judgements), "%", target)
    for name in (NULL_TEXT, SOURCE):
        for kind in KINDS:
            value = mean(one.success for one in found[name] if one.kind == kind)
            yield context.row(TECHNIQUE, f"edit success, {kind}", name, value, "%")
    for name, judgements in found.items():
        value = mean(one.background for one in judgements)
        target = BACKGROUND if name != EVERY_ROW else ""
        yield context.row(TECHNIQUE, "background outside the true mask", name, value, "dB", target)
