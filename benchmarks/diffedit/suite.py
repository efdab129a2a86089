"""DiffEdit Mask and the anchored edit on Papercut, beside diffusers' pipeline and SDEdit.

All run the same 200 edits on the same weights in one run.

Every number is a mean over edits whose true mask is known (`cases.py`). A new ground is found as the
complement of the object (`complement`); the peers, which cannot do that, are given the ground's words. "diffusers" is
the pipeline itself, with its defaults; "diffusers' rule" is its threshold on our maps, and *faithful* that with its
noises as well, which gives its masks at half the cost. SDEdit is the stock KSampler with a denoise below 1. How many
noises, how strong, and other choices: `suite_settings.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...guidance.diffedit.heat_map import new_shape
from ..context import every_core
from ..results import Row
from .batch_edits import Judged, baseline_edits, groups, inversions, judged, our_edits, sdedits
from .cost import costs, peak_memory
from .fixtures import Fixtures, papercut
from .methods import (
    BARE,
    DEPTH,
    NOISES,
    OURS,
    baseline_masks,
    enlarged,
    faithful_masks,
    fresh_mask,
    our_masks,
    our_places,
    our_search,
    scored,
    whole_baseline_edit,
    whole_edit,
)
from .plots import LEVELS, Line, draw_sweep, draw_tradeoff
from .tables import edit_rows, mask_rows_by

MASKS, EDITS = "DiffEdit Mask", "DiffEdit"
TECHNIQUES = (MASKS, EDITS)
COUNT, SAME_NOISES, TIMED = 200, 40, 3
DEPTHS, THEIR_DEPTH = (0.5, DEPTH, 0.8), 0.8
FIXED = (0.25, 0.5, 0.75)
RULES = {f"fixed {level}": replace(OURS, threshold="fixed", level=level) for level in FIXED}
RULES |= {"1.5 x mean": replace(OURS, threshold="1.5 x mean")}
FOR_EDITS = "adaptive, with room"


class Found(NamedTuple):
    """maps: (10, B, 32, 32) of single noises. changes: (B, 4, 32, 32). masks: (B, 256, 256) by mode. baseline: (B, 32,
    32), diffusers' own."""

    maps: Tensor
    changes: Tensor
    masks: dict[str, Tensor]
    baseline: Tensor


def search(fixtures: Fixtures) -> Found:
    (maps, changes), grounds = our_search(fixtures), fixtures.part(fixtures.grounds.nonzero()[:, 0].tolist())
    named = maps.clone()
    named[:, fixtures.grounds] = our_search(grounds, queries=grounds.after)[0]
    masks = {
        "adaptive": our_masks(fixtures, maps),
        "adaptive, grounds by name": our_masks(fixtures, named, complement=False),
    }
    place = our_places(fixtures, maps, changes)
    masks[FOR_EDITS] = place.masks
    masks |= {name: our_masks(fixtures, maps, recipe) for name, recipe in RULES.items()}
    masks["diffusers' rule"] = our_masks(fixtures, named, BARE, complement=False)
    baseline = baseline_masks(fixtures)
    return Found(maps, place.changes, masks | {"diffusers": enlarged(baseline)}, baseline)


# Masks


def found_rows(context, fixtures: Fixtures, found: Found) -> Iterator[Row]:
    """By threshold rule, and by size and kind of what changes; beside diffusers."""
    scores = {mode: scored(masks, fixtures) for mode, masks in found.masks.items()}
    chosen = groups(fixtures)
    whole = {name: chosen[name] for name in ("objects", "grounds")}
    for mode, one in scores.items():
        closer = mode in ("adaptive", "diffusers' rule", "diffusers")
        yield from mask_rows_by(context, MASKS, mode, one, chosen if closer else whole)
    for baseline in ("diffusers' rule", "diffusers"):
        gains = scores["adaptive"].iou - scores[baseline].iou
        for name, rows in {"all": torch.ones_like(fixtures.grounds), **chosen}.items():
            target, measure = ">= 0.1" if name in ("all", "objects") else "", f"IoU above that of {baseline}, {name}"
            yield context.row(MASKS, measure, "adaptive", float(gains[rows].mean()), "", target)
    apart = faithful_masks(fixtures.part(slice(SAME_NOISES))) ^ found.baseline[:SAME_NOISES]
    measure = f"cells that differ from diffusers' mask with its noises, {SAME_NOISES} edits"
    yield context.row(MASKS, measure, "faithful", float(apart.float().mean()), "", "<= 0.001")
    yield from _area_rows(context, fixtures)
    recipes = [replace(OURS, threshold="fixed", level=level) for level in LEVELS]
    swept = [scored(our_masks(fixtures, found.maps, recipe), fixtures) for recipe in recipes]
    draw_sweep(len(fixtures.edits), swept, {mode: scores[mode] for mode in ("adaptive", "1.5 x mean", "diffusers")})


def _area_rows(context, fixtures: Fixtures) -> Iterator[Row]:
    """How large the cut-outs are, and what has to change: the ground's changes are the large ones."""
    objects = torch.stack([edit.before.masks()[0].float().mean() for edit in fixtures.edits])
    changed = torch.tensor([edit.fraction for edit in fixtures.edits])
    for name, areas in {"the objects": objects, "what has to change": changed}.items():
        for word, area in {"smallest": areas.min(), "middle": areas.median(), "largest": areas.max()}.items():
            yield context.row(MASKS, f"area of {name}, {word}", "truth", 100 * float(area), "%")


# Edits


def made_rows(context, fixtures: Fixtures, found: Found) -> Iterator[Row]:
    """Success and background by depth, beside SDEdit; by threshold; beside diffusers; what must not change at all."""
    ours, rules, theirs = {}, {}, {}
    for depth in DEPTHS:
        path = inversions(fixtures, depth)
        made = our_edits(fixtures, found.masks[FOR_EDITS], found.changes, path, depth)
        ours[depth] = judged(made.pictures, fixtures)
        theirs[depth] = judged(sdedits(fixtures, depth), fixtures)
        if depth == DEPTH:
            moved = (made.pictures - fixtures.pictures).abs().amax(-1)[made.soft == 0]
            yield context.row(EDITS, "largest change outside the feather", "fast", float(moved.max()), "", "== 0")
            rules = {name: _with_rule(fixtures, found, name, path) for name in RULES}
    pipeline = judged(baseline_edits(fixtures, found.baseline), fixtures)
    yield from _beside(context, fixtures, ours, theirs, pipeline)
    for name, one in rules.items():
        yield from edit_rows(context, EDITS, f", depth {DEPTH}", f"mask by {name}", one)
        empty = float((~found.masks[name].flatten(1).any(1)).float().mean())
        yield context.row(EDITS, "edits whose mask is empty", f"mask by {name}", empty, "")
    lines = [Line("DiffEdit, adaptive, by depth", {f"{d:g}": one for d, one in ours.items()})]
    lines.append(Line("SDEdit, by depth", {f"{d:g}": one for d, one in theirs.items()}, above=False))
    by_level = {f"> {level:g}": rules[f"fixed {level}"] for level in FIXED}
    lines.append(Line(f"fixed thresholds, depth {DEPTH:g}", by_level, above=False))
    lines.append(Line("1.5 x mean", {"": rules["1.5 x mean"]}))
    lines.append(Line("diffusers", {"": pipeline}))
    draw_tradeoff(len(fixtures.edits), lines)


def _with_rule(fixtures: Fixtures, found: Found, name: str, path) -> Judged:
    """The default edit with masks of another threshold."""
    return judged(our_edits(fixtures, found.masks[name], found.changes, path).pictures, fixtures)


def _beside(
    context, fixtures: Fixtures, ours: Mapping[float, Judged], theirs: Mapping[float, Judged], pipeline: Judged
) -> Iterator[Row]:
    """Ours at each depth and SDEdit's of the same depth; diffusers' with its own."""
    for depth in DEPTHS:
        for mode, one in {"fast": ours[depth], "SDEdit": theirs[depth]}.items():
            yield from edit_rows(context, EDITS, f", depth {depth}", mode, one)
        gain = float((ours[depth].right - theirs[depth].right).mean())
        yield context.row(EDITS, f"success above SDEdit's, depth {depth}", "fast", gain, "", ">= 0")
    yield from edit_rows(context, EDITS, f", depth {THEIR_DEPTH}", "diffusers", pipeline)
    gain = float((ours[THEIR_DEPTH].right - pipeline.right).mean())
    yield context.row(EDITS, f"success above diffusers', depth {THEIR_DEPTH}", "fast", gain, "")
    modes = {"fast": (DEPTH, ours[DEPTH]), "SDEdit": (DEPTH, theirs[DEPTH]), "diffusers": (THEIR_DEPTH, pipeline)}
    for name, rows in groups(fixtures).items():
        for mode, (depth, one) in modes.items():
            yield context.row(EDITS, f"success, {name}, depth {depth}", mode, float(one.right[rows].mean()), "")


# Cost


def cost_rows(context, fixtures: Fixtures, found: Found) -> Iterator[Row]:
    """Samples of the network, time and memory for one edit, from picture to picture, in turns: the first that is
    drafted, as such take most."""
    drafted = int(new_shape(found.changes).nonzero()[0])
    one = fixtures.part(slice(drafted, drafted + 1))
    ours, theirs = one.model.model.diffusion_model, one.reference.unet
    methods = {
        ("the mask", "fast"): (lambda: fresh_mask(one), ours),
        ("the mask", "diffusers"): (lambda: baseline_masks(one), theirs),
        ("the whole edit", "fast"): (lambda: whole_edit(one), ours),
        ("the whole edit", "diffusers"): (lambda: whole_baseline_edit(one), theirs),
    }
    targets = {("the mask", "fast"): f"== {2 * NOISES}", ("the whole edit", "fast"): "<= 70"}
    taken = dict(zip(methods, costs(list(methods.values()), TIMED)))
    for (name, mode), cost in taken.items():
        target = targets.get((name, mode), "")
        yield context.row(EDITS, f"samples of the network, {name}", mode, cost.samples, "", target)
        yield context.row(EDITS, f"largest batch of the network, {name}", mode, cost.largest, "")
        yield context.row(EDITS, f"time, {name}", mode, cost.seconds, "s")
    for name, target in (("the mask", ""), ("the whole edit", ">= 2.5")):
        ratio = taken[name, "diffusers"].seconds / taken[name, "fast"].seconds
        yield context.row(EDITS, f"times as fast as diffusers, {name}", "fast", ratio, "", target)
    peaks = {mode: peak_memory(methods["the whole edit", mode][0]) for mode in ("fast", "diffusers")}
    for mode, peak in peaks.items():
        yield context.row(EDITS, "peak memory of one edit", mode, peak, "MB")
    relation = peaks["fast"] / peaks["diffusers"]
    yield context.row(EDITS, "peak memory beside diffusers', one edit", "fast", relation, "", "<= 1")


def rows(context) -> Iterable[Row]:
    with torch.inference_mode(), every_core():
        fixtures = papercut(COUNT)
        found = search(fixtures)
        yield from found_rows(context, fixtures, found)
        yield from made_rows(context, fixtures, found)
        yield from cost_rows(context, fixtures, found)
