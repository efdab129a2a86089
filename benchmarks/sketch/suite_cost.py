"""Sketch guidance: what it costs in time, memory and training, what each mode gives up for it, and how the strength
trades prompts for lines. The pictures are the first outlines of `sketch.py`, in the same setting.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ...guidance.sketch.guidance import SketchRecipe
from ...papercut.edge_quality import FILE as EDGES
from ...papercut.networks import FILE
from ..context import every_core
from ..results import Row
from .cost import RECIPES, first_layer_row, papercut_rows, size_rows, training_rows
from .fixtures import Fixtures, Judged, Tests, judged, load, sdedit, tests, with_guidance, without_guidance
from .plots import Curve, draw
from .suite import BASELINE, MEASURES, OURS

TECHNIQUE = "Sketch guidance, cost and strength"
TECHNIQUES = (TECHNIQUE,)
STRENGTHS, SDEDITS = (0.8, 1.6, 3.2), (0.6, 0.8)
SOME, BY_MODE = 24, 12
FAST = "fast"


def trade_off(context, fixtures: Fixtures | None, t: Tests | None, guided: Tensor | None) -> Iterator[Row]:
    """How much of the prompt each strength costs, beside SDEdit's: rows and a plot. guided: at the default strength."""
    known = {SketchRecipe().strength: guided}
    bent = lambda strength: with_guidance(fixtures, t, t.edges, recipe=SketchRecipe(strength))
    methods = {
        OURS: (STRENGTHS, lambda strength: known[strength] if strength in known else bent(strength)),
        BASELINE: (SDEDITS, lambda strength: sdedit(fixtures, t, t.edges, strength)),
    }
    curves = []
    for mode, (strengths, make) in methods.items():
        found: dict[float, Judged | None] = {}
        for strength in strengths:
            found[strength] = None if fixtures is None else judged(fixtures, make(strength), t.edges, t.scenes)
            for measure in ("edge F1", "caption success"):
                value = None if fixtures is None else 100 * getattr(found[strength], MEASURES[measure])
                yield context.row(TECHNIQUE, f"strength {strength:g}: {measure}", mode, value, "%")
        curves.append(Curve(mode, found))
    if fixtures is not None:
        draw(curves, judged(fixtures, without_guidance(fixtures, t), t.edges, t.scenes))


def by_mode(context, fixtures: Fixtures | None, t: Tests | None, guided: Tensor | None) -> Iterator[Row]:
    """What the modes give up: the paper's law computes everything at each step, the fast ones hold what they can."""
    few = t and t.first(BY_MODE)
    for mode, recipe in RECIPES.items():
        found = None
        if fixtures is not None:
            made = guided[:BY_MODE] if mode == FAST else with_guidance(fixtures, few, few.edges, recipe=recipe)
            found = judged(fixtures, made, few.edges, few.scenes)
        for measure in ("edge F1", "caption success", "caption sureness"):
            value = None if found is None else 100 * getattr(found, MEASURES[measure])
            yield context.row(TECHNIQUE, f"outline, by mode: {measure}", mode, value, "%")


PARTS = (trade_off, by_mode)


def rows(context) -> Iterable[Row]:
    with torch.inference_mode(), every_core():
        fixtures = load() if FILE.exists() and EDGES.exists() else None
        t = tests(SOME) if fixtures is not None else None
        guided = with_guidance(fixtures, t, t.edges) if fixtures is not None else None
        found = [row for part in PARTS for row in part(context, fixtures, t, guided)]
        measure = "time beside unguided, half of 30 steps guided"
        found += papercut_rows(context, TECHNIQUE, measure, fixtures, t)
        found += size_rows(context, TECHNIQUE, measure)
        found += training_rows(context, TECHNIQUE, fixtures)
        return [*found, first_layer_row(context, TECHNIQUE)]
