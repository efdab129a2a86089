"""Prompt-to-Prompt on Papercut's test split: does the recogniser find what a new caption says, and is the rest kept?

Here the source's row is anchored to its trajectory; `prompt_to_prompt_negative.py` has the editors that sample it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..context import every_core
from ..rows import Row
from ..word_edits import KINDS, WEIGHTS, word_edits, word_weights
from ._words_world import (
    CFG, GROWN, Case, Found, World, background, by_prompt, by_words, cases, judged, known, load_world, mean, painted,
    sureness, through_vae,
)  # fmt: skip

TECHNIQUE = "Prompt-to-Prompt"
TECHNIQUES = (TECHNIQUE,)
EDITS, WEIGHED = 105, 12
SUCCESS, BACKGROUND = ">= 80", ">= 30"
# The distance from a mask at which a decoder no longer mixes in what has changed.
REACH = 24

PROMPT, VAE = "plain DDIM", "VAE alone"
ANCHORED, BLEND, MASK = "anchored source", "anchored source, local blend", "anchored outside a mask"
EDITORS = (PROMPT, ANCHORED, BLEND, MASK)


def pictures(world: World, case: Case) -> Iterator[tuple[str, Tensor]]:
    """Every editor's picture (256, 256, 3), and that of the VAE alone."""
    yield VAE, through_vae(world, case)
    yield PROMPT, by_prompt(world, case)[0]
    # Two edits of one source in one batch: rows keep to themselves.
    yield from zip((ANCHORED, MASK), by_words(world, case, masks=(None, painted(case.edit))))
    yield BLEND, by_words(world, case, blend=True)[0]


def measured(count: int, split: str = "test") -> dict[str, list[Found]]:
    """Every editor's pictures, judged; and those of the VAE alone."""
    found: dict[str, list[Found]] = {name: [] for name in (*EDITORS, VAE)}
    with torch.inference_mode(), every_core():
        world = load_world()
        for case in cases(world, word_edits(count, split)):
            for name, made in pictures(world, case):
                found[name].append(judged(world, case, made, GROWN + REACH))
    return found


def edits(context, found: dict[str, list[Found]]) -> Iterator[Row]:
    for name in EDITORS:
        target = "" if name == PROMPT else SUCCESS
        value = mean(one.success for one in found[name])
        yield context.row(TECHNIQUE, f"edit success, {EDITS} edits, CFG {CFG:g}", name, value, "%", target)
    for name in (BLEND, MASK):
        for kind in KINDS:
            value = mean(one.success for one in found[name] if one.kind == kind)
            yield context.row(TECHNIQUE, f"edit success, {kind}", name, value, "%")
    for name, judgements in found.items():
        target = BACKGROUND if name not in (PROMPT, VAE) else ""
        value = mean(one.background for one in judgements)
        yield context.row(TECHNIQUE, "background outside the true mask", name, value, "dB", target)
    away = {name: mean(one.away for one in found[name]) for name in (MASK, VAE)}
    behind = away[VAE] - away[MASK] if away[MASK] is not None else None
    measure = f"background behind the VAE's bound, {REACH} pixels from the mask"
    yield context.row(TECHNIQUE, measure, MASK, behind, "dB", "<= 0.05")


def followed(world: World, case: Case) -> tuple[bool, float | None]:
    """Whether the judge is less sure of a phrase the less it weighs, and the background."""
    less, more = by_words(world, case, texts=case.edit.texts, blend=True)
    surer = sureness(world, more, case.edit) > sureness(world, less, case.edit)
    return surer, mean(background(made, case) for made in (less, more))


def weights(context, split: str = "test") -> Iterator[Row]:
    """A phrase weighed down, and nothing else changed."""
    found = []
    if known():
        with torch.inference_mode(), every_core():
            world = load_world()
            found = [followed(world, case) for case in cases(world, word_weights(WEIGHED, split))]
    measure = f"{WEIGHED} phrases weighed {WEIGHTS[0]:g} and {WEIGHTS[1]:g}: less is seen of what weighs less"
    yield context.row(TECHNIQUE, measure, BLEND, mean(100.0 * right for right, _ in found), "%", SUCCESS)
    value = mean(kept for _, kept in found)
    yield context.row(TECHNIQUE, "what is kept while a phrase is weighed", BLEND, value, "dB")


def rows(context) -> Iterable[Row]:
    yield from edits(context, measured(EDITS) if known() else {name: [] for name in (*EDITORS, VAE)})
    yield from weights(context)
