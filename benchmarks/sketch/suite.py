"""Sketch guidance: are the strokes met, and is the prompt still painted?

Outlines of a scene with a prompt that names it; the same as unsteady hands draw them (wobbled, broken, partial); and
outlines that contradict the seed. Sketches of a whole outline run in the node's default setting, half-drawn ones in
theirs, and each kind beside no guidance, SDEdit and Best Seed.

The edges of painted pictures are found without knowing what was asked for (`papercut/outlines.py`), and only scenes
take part whose own outline is found that way and whose own picture the classifier reads right. Every picture is sampled
from the same noise in all modes but Best Seed's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...guidance.sketch.guidance import SketchRecipe
from ...papercut.edge_quality import FILE as EDGES
from ...papercut.networks import FILE
from ..context import every_core
from ..results import Row
from .fixtures import (
    COUNT,
    FEW,
    Fixtures,
    Judged,
    Tests,
    best_seeds,
    error_of_loss,
    judged,
    legible,
    load,
    pooled,
    sdedit,
    tests,
    with_guidance,
    without_guidance,
)

TECHNIQUE = "Sketch guidance"
TECHNIQUES = (TECHNIQUE,)
SDEDIT, SPARE = 0.8, 16
LOOSE = SketchRecipe(strength=0.8, end=0.35, one_sided=1.0)
"""For partial strokes: blank paper says nothing, and the model completes what is not drawn."""
OUTLINE, AGAINST, ALL = "outline", "outline against the seed", "all sketches"
PARTIAL = "partial"
UNSTEADY = ("wobbled", "broken", PARTIAL)
KINDS = (OUTLINE, *UNSTEADY, AGAINST)
PLAIN, BASELINE, OURS, BEST = MODES = ("no guidance", "SDEdit", "guided", "guided, Best Seed")
FINISHED = "guided as if finished"
MEASURES = {
    "edge precision": "precision", "edge recall": "recall", "edge F1": "f1", "caption success": "caption",
    "caption sureness": "sureness",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Drawn:
    """Sketches of one kind. lines: what is drawn, wanted: what is meant, (B, 256, 256) bool; recipe: how to guide;
    plain: (B, 3, 256, 256), what is painted without guidance."""

    tests: Tests
    lines: Tensor
    wanted: Tensor
    recipe: SketchRecipe
    plain: Tensor


def sketches(kind: str, t: Tests, plain: Tensor) -> Drawn:
    """What is meant by broken and partial strokes is the whole outline; a wobbled line is meant where it was drawn."""
    from ...papercut.outlines import SKETCHES

    if kind == OUTLINE:
        return Drawn(t, t.edges, t.edges, SketchRecipe(), plain)
    if kind == AGAINST:
        lines, rows = contradicting(t, plain)
        return Drawn(t.chosen(rows), lines[rows], lines[rows], SketchRecipe(), plain[rows])
    rows = spread(len(t.scenes), UNSTEADY.index(kind))
    few = t.chosen(rows)
    lines = torch.stack([SKETCHES[kind](edges, seed) for edges, seed in zip(few.edges, few.seeds)])
    recipe = LOOSE if kind == PARTIAL else SketchRecipe()
    return Drawn(few, lines, lines if kind == "wobbled" else few.edges, recipe, plain[rows])


def spread(count: int, number: int) -> list[int]:
    """FEW of `count` scenes, others for each kind of UNSTEADY as far as they go: a scene that is hard to paint must not
    weigh on all kinds."""
    few = min(FEW, count)
    first = (count - few) * number // (len(UNSTEADY) - 1)
    return list(range(first, first + few))


def contradicting(t: Tests, plain: Tensor) -> tuple[Tensor, list[int]]:
    """The outlines of the unguided pictures, mirrored, and FEW of those that lie elsewhere than the pictures' own.

    Moons are mirrored upside down: all of Papercut's open to the right, and a sketch is to contradict the seed alone,
    not what the model knows of the word.
    """
    from ...papercut.edge_score import edge_score
    from ...papercut.outlines import outline

    own = torch.stack([outline(picture) for picture in plain])
    one_way = torch.tensor([scene.objects[0].shape == "moon" for scene in t.scenes])
    mirrored = torch.where(one_way[:, None, None], own.flip(-2), own.flip(-1))
    elsewhere = (own.flatten(1).sum(1) > 100) & (edge_score(mirrored, own).f1 < 0.35)
    return mirrored, elsewhere.nonzero().flatten().tolist()[:FEW]


def painted(fixtures: Fixtures, drawn: Drawn) -> dict[str, Judged]:
    """Every mode of one kind, judged."""
    t, lines, recipe = drawn.tests, drawn.lines, drawn.recipe
    seeds = best_seeds(fixtures, t, lines, recipe=recipe)
    pictures = {
        PLAIN: drawn.plain,
        BASELINE: sdedit(fixtures, t, lines, SDEDIT),
        OURS: with_guidance(fixtures, t, lines, recipe=recipe),
        BEST: with_guidance(fixtures, t, lines, seeds, recipe=recipe),
    }
    if recipe == LOOSE:
        pictures[FINISHED] = with_guidance(fixtures, t, lines)
    return {mode: judged(fixtures, made, drawn.wanted, t.scenes) for mode, made in pictures.items()}


def quality_rows(context, kind: str, mode: str, found: Judged | None) -> Iterator[Row]:
    for measure, key in MEASURES.items():
        percent = None if found is None else 100 * getattr(found, key)
        yield context.row(TECHNIQUE, f"{kind}: {measure}", mode, percent, "%")


def target_rows(context, kind: str, found: Mapping[str, Judged]) -> Iterator[Row]:
    """F1 beside no guidance, what captions lose, and what Best Seed adds to both: of outlines, and of all sketches."""
    plain, guided, best = (found.get(mode) for mode in (PLAIN, OURS, BEST))
    ratio = guided.f1 / max(plain.f1, 1e-6) if found else None
    yield context.row(TECHNIQUE, f"{kind}: edge F1 beside no guidance", OURS, ratio, "times", ">= 2")
    lost = 100 * (plain.caption - guided.caption) if found else None
    yield context.row(TECHNIQUE, f"{kind}: caption success lost", OURS, lost, "points", "< 5")
    error = 100 * error_of_loss(plain, guided) if found else None
    yield context.row(TECHNIQUE, f"{kind}: caption success lost, standard error", OURS, error, "points")
    for measure, target in (("edge F1", "> 0"), ("caption success", "> 0"), ("caption sureness", "")):
        key = MEASURES[measure]
        gain = 100 * (getattr(best, key) - getattr(guided, key)) if found else None
        yield context.row(TECHNIQUE, f"{kind}: {measure} added by Best Seed", BEST, gain, "points", target)


def all_rows(context, found: Mapping[str, Mapping[str, Judged]]) -> Iterator[Row]:
    """found: by kind and mode, empty where nothing could be painted."""
    count = sum(by_mode[OURS].count for by_mode in found.values()) if found else None
    yield context.row(TECHNIQUE, "sketches", OURS, count, "", ">= 100")
    together = {mode: pooled([by_mode[mode] for by_mode in found.values()]) for mode in MODES} if found else {}
    for kind, by_mode in [*((kind, found.get(kind, {})) for kind in KINDS), (ALL, together)]:
        for mode in (*MODES, FINISHED) if kind == PARTIAL else MODES:
            yield from quality_rows(context, kind, mode, by_mode.get(mode))
    for kind, by_mode in ((OUTLINE, found.get(OUTLINE, {})), (ALL, together)):
        yield from target_rows(context, kind, by_mode)


def own_rows(context, t: Tests | None, misread: int | None) -> list[Row]:
    """How well the outlines of the scenes themselves are found, the most that any picture could reach; and how many
    scenes are left out because the classifier misreads even their own pictures."""
    own = None
    if t is not None:
        from ...papercut.outlines import outlines_score

        own = 100 * float(outlines_score(torch.stack([scene.render() for scene in t.scenes]), t.edges).f1.mean())
    measure = f"scenes left out of {COUNT + SPARE}, as the classifier misreads them as they are"
    return [
        context.row(TECHNIQUE, f"{OUTLINE}: edge F1", "the scenes as drawn", own, "%"),
        context.row(TECHNIQUE, measure, "the scenes as drawn", misread, ""),
    ]


def rows(context) -> Iterable[Row]:
    with torch.inference_mode(), every_core():
        if not (FILE.exists() and EDGES.exists()):
            return [*own_rows(context, None, None), *all_rows(context, {})]
        fixtures, t = load(), tests(COUNT + SPARE)
        read = legible(fixtures, t)
        misread, t = len(t.scenes) - len(read), t.chosen(read[:COUNT])
        plain = without_guidance(fixtures, t)
        found = {kind: painted(fixtures, sketches(kind, t, plain)) for kind in KINDS}
        return [*own_rows(context, t, misread), *all_rows(context, found)]
