"""Sketch guidance: are the strokes met, is the prompt still painted, what does it cost?

The edges of painted pictures are found without knowing what was asked for (`papercut/outlines.py`), and only scenes
whose own outline is found that way take part. Every picture is sampled from the same noise in all modes
but Best Seed's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ...guidance.sketch_guidance import SketchRecipe
from ...papercut.edge_quality import FILE as EDGES
from ...papercut.export import FILE
from ..context import every_core
from ..rows import Row
from ._sketch_cost import RECIPES, papercut_rows, size_rows, training_rows
from ._sketch_cost import STEPS as LONG
from ._sketch_plot import Curve, draw
from ._sketch_world import (
    FEW,
    Judged,
    Tests,
    World,
    best_seeds,
    judged,
    load,
    sdedit,
    tests,
    with_guidance,
    without_guidance,
)

TECHNIQUE = "Sketch guidance"
TECHNIQUES = (TECHNIQUE,)
STRENGTHS = (0.8, 1.6, 3.2)
SDEDIT, SDEDITS = 0.8, (0.6, 0.8)
UNFINISHED = 0.8
SOME, BY_MODE = 8, 12
PLAIN_SHORTER = 28
"""Of so many unguided pictures in SHORTER runs, FEW with an outline against their seed are taken."""
PLAIN, PEER, OURS, BEST = MODES = ("no guidance", "SDEdit", "guided", "guided, Best Seed")
MEASURES = {
    "edge precision": "precision", "edge recall": "recall", "edge F1": "f1", "caption success": "caption",
    "caption sureness": "sureness",
}  # fmt: skip
Pictures = dict[str, Tensor]


def quality_rows(context, kind: str, mode: str, found: Judged | None) -> Iterator[Row]:
    for measure, key in MEASURES.items():
        percent = None if found is None else 100 * getattr(found, key)
        yield context.row(TECHNIQUE, f"{kind}: {measure}", mode, percent, "%")


def compared(
    context, world: World | None, t: Tests | None, kind: str, pictures: Pictures, wanted: Tensor | None,
    modes: Sequence[str] = MODES,
) -> Iterator[Row]:  # fmt: skip
    """Rows of all modes; returns what was found, None where nothing could be painted."""
    found = {mode: judged(world, made, wanted, t.scenes) for mode, made in pictures.items()}
    for mode in modes:
        yield from quality_rows(context, kind, mode, found.get(mode))
    return found


def outlines(context, world: World | None, t: Tests | None, pictures: Pictures) -> Iterator[Row]:
    """True outlines of what the prompt names; the targets."""
    own = None
    if world is not None:
        from ...papercut.outlines import outlines_score

        own = 100 * float(outlines_score(torch.stack([scene.render() for scene in t.scenes]), t.edges).f1.mean())
    yield context.row(TECHNIQUE, "outline: edge F1", "the scenes as drawn", own, "%")
    found = yield from compared(context, world, t, "outline", pictures, t and t.edges)
    plain, guided, best = (found.get(mode) for mode in (PLAIN, OURS, BEST))
    ratio = guided.f1 / max(plain.f1, 1e-6) if found else None
    yield context.row(TECHNIQUE, "outline: edge F1 beside no guidance", OURS, ratio, "times", ">= 2")
    lost = 100 * (plain.caption - guided.caption) if found else None
    yield context.row(TECHNIQUE, "outline: caption success lost", OURS, lost, "points", "< 5")
    for measure in ("edge F1", "caption success"):
        gain = 100 * (getattr(best, MEASURES[measure]) - getattr(guided, MEASURES[measure])) if found else None
        yield context.row(TECHNIQUE, f"outline: {measure} added by Best Seed", BEST, gain, "points", "> 0")
    # Where no guided picture misses its caption, success has no room to grow; the judge's probability still has.
    gain = 100 * (best.sureness - guided.sureness) if found else None
    yield context.row(TECHNIQUE, "outline: caption sureness added by Best Seed", BEST, gain, "points")


def paint_outlines(world: World, t: Tests) -> Pictures:
    return {
        PLAIN: without_guidance(world, t, steps=LONG),
        PEER: sdedit(world, t, t.edges, SDEDIT, steps=LONG),
        OURS: with_guidance(world, t, t.edges, steps=LONG),
        BEST: with_guidance(world, t, t.edges, best_seeds(world, t, t.edges, steps=LONG), steps=LONG),
    }


def unsteady(context, world: World | None, t: Tests | None, plain: Tensor | None) -> Iterator[Row]:
    """Hand-wobbled, broken and partial strokes."""
    from ...papercut.outlines import SKETCHES

    few = t and t.first(FEW)
    for kind in ("wobbled", "broken", "partial"):
        made, wanted = {}, None
        if world is not None:
            lines = torch.stack([SKETCHES[kind](edges, seed) for edges, seed in zip(few.edges, few.seeds)])
            # What is meant is the whole outline; a wobbled line is meant where it was drawn.
            wanted = lines if kind == "wobbled" else few.edges
            recipe = SketchRecipe(one_sided=UNFINISHED if kind == "partial" else 0.0)
            made = {
                PLAIN: plain[:FEW], PEER: sdedit(world, few, lines, SDEDIT),
                OURS: with_guidance(world, few, lines, recipe=recipe),
            }  # fmt: skip
        yield from compared(context, world, few, kind, made, wanted, MODES[:3])


def against_the_seed(context, world: World | None, t: Tests | None, plain: Tensor | None) -> Iterator[Row]:
    """What the seed would have painted, drawn mirrored: the conflict that Best Seed answers."""
    made, some, lines = {}, None, None
    if world is not None:
        lines, rows = contradicting(plain)
        some, lines = t.chosen(rows), lines[rows]
        made = {PLAIN: plain[rows], PEER: sdedit(world, some, lines, SDEDIT)}
        made[OURS] = with_guidance(world, some, lines)
        made[BEST] = with_guidance(world, some, lines, best_seeds(world, some, lines))
    yield from compared(context, world, some, "outline against the seed", made, lines)


def contradicting(plain: Tensor) -> tuple[Tensor, list[int]]:
    """The outlines of the unguided pictures, mirrored, and FEW of those that lie elsewhere than the pictures' own."""
    from ...guidance.edge_score import edge_score
    from ...papercut.outlines import outline

    own = torch.stack([outline(picture) for picture in plain])
    mirrored = own.flip(-1)
    elsewhere = (own.flatten(1).sum(1) > 100) & (edge_score(mirrored, own).f1 < 0.35)
    return mirrored, elsewhere.nonzero().flatten().tolist()[:FEW]


def trade_off(context, world: World | None, t: Tests | None, plain: Tensor | None) -> Iterator[Row]:
    """How much of the prompt each strength costs, beside SDEdit's: rows and a plot."""
    few = t and t.first(SOME)
    ways = {
        OURS: (STRENGTHS, lambda value: with_guidance(world, few, few.edges, recipe=SketchRecipe(value))),
        PEER: (SDEDITS, lambda value: sdedit(world, few, few.edges, value)),
    }
    curves = []
    for mode, (strengths, make) in ways.items():
        found: dict[float, Judged | None] = {}
        for strength in strengths:
            found[strength] = None if world is None else judged(world, make(strength), few.edges, few.scenes)
            for measure in ("edge F1", "caption success"):
                value = None if world is None else 100 * getattr(found[strength], MEASURES[measure])
                yield context.row(TECHNIQUE, f"strength {strength:g}: {measure}", mode, value, "%")
        curves.append(Curve(mode, found))
    if world is not None:
        draw(curves, judged(world, plain[:SOME], few.edges, few.scenes))


def by_mode(context, world: World | None, t: Tests | None, pictures: Pictures) -> Iterator[Row]:
    """What the fast mode gives up, where a slope serves for more than one step; what the paper's law alone does."""
    few = t and t.first(BY_MODE)
    for mode, recipe in RECIPES.items():
        found = None
        if world is not None:
            made = pictures[OURS][:BY_MODE]
            if recipe != SketchRecipe():
                made = with_guidance(world, few, few.edges, steps=LONG, recipe=recipe)
            found = judged(world, made, few.edges, few.scenes)
        yield from quality_rows(context, "outline, by mode", mode, found)


# Outlines in runs of LONG steps, as the costs are; the other sketches in shorter ones.
LONGER, SHORTER = (outlines, by_mode), (unsteady, against_the_seed, trade_off)
PARTS = (*LONGER, *SHORTER)


def rows(context) -> Iterable[Row]:
    with torch.inference_mode(), every_core():
        world = load() if FILE.exists() and EDGES.exists() else None
        t = tests() if world is not None else None
        pictures = paint_outlines(world, t) if world is not None else {}
        found = [row for part in LONGER for row in part(context, world, t, pictures)]
        plain = without_guidance(world, t.first(PLAIN_SHORTER)) if world is not None else None
        found += [row for part in SHORTER for row in part(context, world, t, plain)]
        measure = "time beside unguided, half of 30 steps guided"
        found += papercut_rows(context, TECHNIQUE, measure, world, t)
        found += size_rows(context, TECHNIQUE, measure)
        found += training_rows(context, TECHNIQUE, world)
        return found
