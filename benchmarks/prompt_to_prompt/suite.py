"""Prompt-to-Prompt on Papercut's test split: does the classifier find what a new caption says, and is the rest kept?

Here the source's row is anchored to its trajectory; `suite_negative_prompts.py` has the editors that sample it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..context import every_core
from ..results import Row, mean
from .cases import KINDS, WEIGHTS, word_edits, word_weights
from .fixtures import (
    CFG,
    GROWN,
    Case,
    Fixtures,
    Found,
    background,
    by_prompt,
    by_prompt_to_prompt,
    cases,
    edits_of,
    judged,
    known,
    largest_difference,
    load_fixtures,
    painted,
    sureness,
    through_vae,
)

TECHNIQUE = "Prompt-to-Prompt"
TECHNIQUES = (TECHNIQUE,)
EDITS, WEIGHED = 105, 12
SUCCESS, BACKGROUND = ">= 80", ">= 30"
# The distance from a mask at which a decoder no longer mixes in what has changed.
REACH = 24

PROMPT, VAE = "plain DDIM", "VAE alone"
ANCHORED, BLEND, MASK = "anchored source", "anchored source, local blend", "anchored outside a mask"
EDITORS = (PROMPT, ANCHORED, BLEND, MASK)


def pictures(fixtures: Fixtures, case: Case, kept: list[float]) -> Iterator[tuple[str, Tensor]]:
    """Every editor's picture (256, 256, 3), and that of the VAE alone; kept: gets how far kept cells of the latent have
    left the source."""
    yield VAE, through_vae(fixtures, case)
    yield PROMPT, by_prompt(fixtures, case)[0]
    # Two edits of one source in one batch: rows keep to themselves.
    mask = painted(case.edit)
    latents = by_prompt_to_prompt(fixtures, case, masks=(None, mask))
    kept.append(largest_difference(fixtures, case, latents[2], mask))
    yield from zip((ANCHORED, MASK), edits_of(fixtures, latents))
    yield BLEND, edits_of(fixtures, by_prompt_to_prompt(fixtures, case, blend=True))[0]


def measured(count: int, split: str = "test") -> tuple[dict[str, list[Found]], list[float]]:
    """Every editor's pictures, judged, and those of the VAE alone; and each edit's departure in the latent."""
    found: dict[str, list[Found]] = {name: [] for name in (*EDITORS, VAE)}
    kept: list[float] = []
    with torch.inference_mode(), every_core():
        fixtures = load_fixtures()
        for case in cases(fixtures, word_edits(count, split)):
            for name, made in pictures(fixtures, case, kept):
                found[name].append(judged(fixtures, case, made, GROWN + REACH))
    return found, kept


def edits(context, found: dict[str, list[Found]], kept: list[float]) -> Iterator[Row]:
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
    measure = f"largest difference to the source in the latent, kept cells, {EDITS} edits"
    yield context.row(TECHNIQUE, measure, MASK, max(kept, default=None), "", "== 0")
    # Close to an edit the decoder mixes in what has changed; where an edit's ground is all close to it, none is left.
    far = {name: [one.away for one in found[name] if one.away is not None] for name in (MASK, VAE)}
    where = f"{REACH} pixels from the painted mask, {GROWN + REACH} from the true one"
    yield context.row(TECHNIQUE, f"edits with a background {where}", MASK, len(far[MASK]) or None, "edits")
    behind = mean(far[VAE]) - mean(far[MASK]) if far[MASK] else None
    yield context.row(TECHNIQUE, f"background behind the VAE's bound, {where}", MASK, behind, "dB", "<= 0.05")


def followed(fixtures: Fixtures, case: Case) -> tuple[bool, float | None]:
    """Whether the judge is less sure of a phrase the less it weighs, and the background."""
    less, more = edits_of(fixtures, by_prompt_to_prompt(fixtures, case, texts=case.edit.texts, blend=True))
    surer = sureness(fixtures, more, case.edit) > sureness(fixtures, less, case.edit)
    return surer, mean(background(made, case) for made in (less, more))


def weights(context, split: str = "test") -> Iterator[Row]:
    """A phrase weighed down, and nothing else changed."""
    found = []
    if known():
        with torch.inference_mode(), every_core():
            fixtures = load_fixtures()
            found = [followed(fixtures, case) for case in cases(fixtures, word_weights(WEIGHED, split))]
    measure = f"{WEIGHED} phrases weighed {WEIGHTS[0]:g} and {WEIGHTS[1]:g}: less is seen of what weighs less"
    yield context.row(TECHNIQUE, measure, BLEND, mean(100.0 * right for right, _ in found), "%", SUCCESS)
    value = mean(kept for _, kept in found)
    yield context.row(TECHNIQUE, "what is kept while a phrase is weighed", BLEND, value, "dB")


def rows(context) -> Iterable[Row]:
    yield from edits(context, *(measured(EDITS) if known() else ({name: [] for name in (*EDITORS, VAE)}, [])))
    yield from weights(context)
