"""DiffEdit Mask and the anchored edit on Papercut, beside diffusers' pipeline and SDEdit on the same weights.

Every number is a mean over edits whose true mask is known (`benchmarks/edits.py`). A new ground is found as the
complement of the object (`complement`); the peers, which cannot do that, are given the ground's words. "diffusers'
rule" is its threshold on our maps, for all edits: the same masks at half the cost (`tests/diffedit/test_parity.py`);
"diffusers" is the pipeline itself, for some. Masks and our edits are measured on all; SDEdit, which takes as long, on
the first ones; and variations on some. Every subset holds all kinds alike, and sizes from the least to the greatest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...guidance.masks import MaskRecipe
from ...papercut.data import autocast
from ..context import every_core
from ..diffedit_cost import costs, peak_memory
from ..diffedit_ways import (
    DEPTH,
    NOISES,
    OURS,
    ROOMY,
    World,
    anchored_edit,
    doubted,
    enlarged,
    fresh_mask,
    in_batches,
    inverted,
    our_changes,
    our_maps,
    our_masks,
    our_search,
    papercut,
    peer_edit,
    peer_masks,
    scored,
    sdedit,
    whole_edit,
    whole_peer_edit,
)
from ..edits import KINDS
from ..figures import Curve, line_plot
from ..rows import Row

MASKS, EDITS = "DiffEdit Mask", "DiffEdit"
TECHNIQUES = (MASKS, EDITS)
COUNT, BESIDE, TIMED = 200, 80, 3
OTHER_DEPTHS = (0.5, 0.8)
# Of ten sizes some, in every kind; diffusers' own edit takes 160 samples each.
SOME = [i for i in range(40) if i // len(KINDS) in (0, 3, 6, 9)]
THEIRS = [i for i in SOME if i // len(KINDS) in (3, 6)]
LEVELS = [round(0.05 * i, 2) for i in range(21)]
BARE = MaskRecipe(outliers="none", threshold="1.5 x mean", gap=0, fill_holes=False)
RULES = {f"fixed {level}": replace(OURS, threshold="fixed", level=level) for level in (0.25, 0.5, 0.75)}
RULES |= {"1.5 x mean": replace(OURS, threshold="1.5 x mean")}
SIZES = {"below 8 %": (0.0, 0.08), "8 to 25 %": (0.08, 0.25), "above 25 %": (0.25, 1.0)}


class Found(NamedTuple):
    """maps: (10, B, 32, 32) of single noises. changes: (B, 4, 32, 32). masks: (B, 256, 256) by mode. peer: diffusers'
    for SOME, (B, 32, 32)."""

    maps: Tensor
    changes: Tensor
    masks: dict[str, Tensor]
    peer: Tensor


def search(world: World) -> Found:
    (maps, changes), grounds = our_search(world), world.part(world.grounds.nonzero()[:, 0].tolist())
    named = maps.clone()
    named[:, world.grounds] = our_maps(grounds, queries=grounds.after)
    masks = {"adaptive": our_masks(world, maps), "adaptive, grounds by name": our_masks(world, named, complement=False)}
    masks["adaptive, with room"] = our_masks(world, maps, ROOMY)
    masks |= {name: our_masks(world, maps, recipe) for name, recipe in RULES.items()}
    masks["diffusers' rule"] = our_masks(world, named, BARE, complement=False)
    return Found(maps, our_changes(world, maps, changes), masks, peer_masks(world.part(SOME)))


# Masks


def mask_rows(context, world: World, found: Found) -> Iterator[Row]:
    """By threshold rule and size of the object, number of noises, and strength; beside diffusers."""
    scores = {mode: scored(masks, world) for mode, masks in found.masks.items()}
    share = torch.tensor([edit.share for edit in world.edits])
    whole = {"objects": ~world.grounds, "grounds": world.grounds}
    sizes = {f"objects of {name}": (a <= share) & (share < b) & ~world.grounds for name, (a, b) in SIZES.items()}
    kinds = {f"new {kind}": torch.tensor([edit.kind == kind for edit in world.edits]) for kind in KINDS[:-1]}
    groups = whole | sizes | kinds
    for mode, (iou, recall) in scores.items():
        for name, rows in (groups if mode in ("adaptive", "diffusers' rule") else whole).items():
            yield context.row(MASKS, f"IoU, {name}", mode, float(iou[rows].mean()), "")
            yield context.row(MASKS, f"recall, {name}", mode, float(recall[rows].mean()), "")
    gains = scores["adaptive"].iou - scores["diffusers' rule"].iou
    for name, rows in {"all": torch.ones_like(world.grounds), **groups}.items():
        target, gain = ">= 0.1" if name in ("all", "objects") else "", float(gains[rows].mean())
        yield context.row(MASKS, f"IoU above diffusers' rule, {name}", "adaptive", gain, "", target)
    yield from _peer_rows(context, world.part(SOME), found)
    for count in (1, 2, 4, NOISES):
        made = scored(our_masks(world, found.maps[:count]), world)
        yield context.row(MASKS, f"IoU, {count} noises", "adaptive", float(made.iou.mean()), "")
        yield context.row(MASKS, f"recall, {count} noises", "adaptive", float(made.recall.mean()), "")
    some = world.part(SOME)
    for strength in (0.3, 0.5, 0.7):
        one = our_maps(some, strength, 4)
        made = scored(our_masks(some, one), some)
        yield context.row(MASKS, f"IoU, 4 noises, strength {strength}", "adaptive", float(made.iou.mean()), "")
        yield context.row(MASKS, f"recall, 4 noises, strength {strength}", "adaptive", float(made.recall.mean()), "")
    yield from _doubt_rows(context, some, found)
    _draw_sweep(world, found)


def _doubt_rows(context, some: World, found: Found) -> Iterator[Row]:
    """Texts that say the same in other words give a map too; how often is that said, and how often of true edits?"""
    captions = [edit.before.caption for edit in some.edits]
    texts = {
        "a full stop": [caption + "." for caption in captions],
        "an article": [caption.replace(" on a", " on the") for caption in captions],
    }
    for name, words in texts.items():
        share = doubted(our_maps(some, noises=4, queries=some.embed(words)))
        yield context.row(MASKS, f"doubted where the texts differ in {name}", "adaptive", share, "")
    yield context.row(MASKS, "doubted where the texts differ in a word", "adaptive", doubted(found.maps), "")


def _peer_rows(context, some: World, found: Found) -> Iterator[Row]:
    """diffusers' own pipeline, 40 samples a mask, on the first edits."""
    count = len(some.edits)
    theirs = scored(enlarged(found.peer), some)
    for mode in ("adaptive", "diffusers' rule", "diffusers"):
        iou, recall = theirs if mode == "diffusers" else scored(found.masks[mode][SOME], some)
        yield context.row(MASKS, f"IoU, {count} edits", mode, float(iou.mean()), "")
        yield context.row(MASKS, f"recall, {count} edits", mode, float(recall.mean()), "")
    gain = scored(found.masks["adaptive"][SOME], some).iou - theirs.iou
    yield context.row(MASKS, f"IoU above diffusers', {count} edits", "adaptive", float(gain.mean()), "", ">= 0.1")


def _draw_sweep(world: World, found: Found) -> None:
    """IoU and recall over the fixed threshold, beside the rules that have none; a picture for the gallery."""
    recipes = [replace(OURS, threshold="fixed", level=level) for level in LEVELS]
    swept = [scored(our_masks(world, found.maps, recipe), world) for recipe in recipes]
    curves = [Curve("recall, fixed", [float(s.recall.mean()) for s in swept])]
    curves.append(Curve("IoU, fixed", [float(s.iou.mean()) for s in swept]))
    for mode in ("adaptive", "1.5 x mean", "diffusers' rule"):
        level = float(scored(found.masks[mode], world).iou.mean())
        curves.append(Curve(f"IoU, {mode}", [level] * len(LEVELS), flat=True))
    title = f"DiffEdit Mask on {len(world.edits)} Papercut edits: the threshold"
    line_plot("diffedit_threshold", title, "fixed threshold, in the map from 0 to 1", LEVELS, curves)


# Edits


def edit_rows(context, world: World, found: Found) -> Iterator[Row]:
    """Success, background, and what must not change at all; then by depth, threshold and number of noises."""
    masks, changes = found.masks["adaptive, with room"], found.changes
    made = in_batches(world, lambda part, rows: anchored_edit(part, masks[rows], changes[rows], inverted(part)))
    yield from _quality(context, "", "fast", made.pictures, world)
    moved = (made.pictures - world.pictures).abs().amax(-1)[made.soft == 0]
    yield context.row(EDITS, "largest change outside the feather", "fast", float(moved.max()), "", "== 0")
    right, kinds = _success(made.pictures, world), [edit.kind for edit in world.edits]
    for kind in KINDS:
        rows = torch.tensor([one == kind for one in kinds])
        yield context.row(EDITS, f"success, {kind}", "fast", float(right[rows].mean()), "")
    yield from _depths(context, world.part(slice(BESIDE)), found, made.pictures[:BESIDE])
    theirs, label = world.part(THEIRS), f", {len(THEIRS)} edits"
    with autocast():
        peer = peer_edit(theirs, found.peer[[SOME.index(i) for i in THEIRS]]).pictures
    for mode, pictures in {"diffusers": peer, "fast": made.pictures[THEIRS]}.items():
        yield from _quality(context, label, mode, pictures, theirs)
    yield from _variations(context, world.part(SOME), found, made.pictures[SOME])


def _depths(context, world: World, found: Found, usual: Tensor) -> Iterator[Row]:
    """The first edits at three depths, and SDEdit's. usual: ours of the usual depth."""
    masks, changes = found.masks["adaptive, with room"], found.changes

    def ours(depth: float) -> Tensor:
        return in_batches(
            world, lambda part, at: anchored_edit(part, masks[at], changes[at], inverted(part, depth), depth)
        ).pictures

    for depth in (DEPTH, *OTHER_DEPTHS):
        noisy = in_batches(world, lambda part, _, depth=depth: sdedit(part, depth)).pictures
        yield from _beside(context, depth, usual if depth == DEPTH else ours(depth), noisy, world)


def _beside(context, depth: float, ours: Tensor, noisy: Tensor, world: World) -> Iterator[Row]:
    """Our edits and SDEdit's of the same depth."""
    label = f", {len(world.edits)} edits, depth {depth}"
    for mode, pictures in {"fast": ours, "SDEdit": noisy}.items():
        yield from _quality(context, label, mode, pictures, world)
    gain = float((_success(ours, world) - _success(noisy, world)).mean())
    yield context.row(EDITS, f"success above SDEdit's, depth {depth}", "fast", gain, "", ">= 0")


def _variations(context, world: World, found: Found, usual: Tensor) -> Iterator[Row]:
    """Some edits again: with other masks, no head start, fresh noise, another inversion. usual: as they were made."""
    adaptive, mean = (found.masks[name][SOME] for name in ("adaptive, with room", "1.5 x mean"))
    single, changes = our_masks(world, found.maps[:1, SOME], ROOMY), found.changes[SOME]
    paths = [inverted(part) for _, part in world.batches()]
    named = [inverted(part, named=True) for _, part in world.batches()]

    def ours(masks: Tensor, paths: list = paths, start: bool = True, **changed) -> Tensor:
        known = iter(paths)

        def way(part: World, at: slice):
            return anchored_edit(part, masks[at], changes[at] if start else None, next(known), **changed)

        return in_batches(world, way).pictures

    made = {"fast": usual, "1.5 x mean": ours(mean), "mask of 1 noise": ours(single)}
    made |= {"mask not grown": ours(adaptive, wider=0), "no head start": ours(adaptive, start=False)}
    made["fresh noise"] = ours(adaptive, fresh=True)
    made["inverted with the old caption"] = ours(adaptive, named)
    for mode, pictures in made.items():
        yield from _quality(context, f", {len(world.edits)} edits", mode, pictures, world)


def _quality(context, label: str, mode: str, made: Tensor, world: World) -> Iterator[Row]:
    right, whole = (float(_success(made, world, every=every).mean()) for every in (False, True))
    yield context.row(EDITS, f"edits that the recogniser confirms{label}", mode, right, "")
    yield context.row(EDITS, f"edits with the whole caption right{label}", mode, whole, "")
    kept = _background(made, world)
    yield context.row(EDITS, f"background PSNR outside the true mask, at most 60{label}", mode, kept, "dB")


def _success(made: Tensor, world: World, *, every: bool = False) -> Tensor:
    """(B,) 1 where the recogniser reads the changed word, or every word of the new caption; else 0."""
    from ...papercut.recogniser import load_recogniser

    readings = load_recogniser().read(made.movedim(-1, 1).float())
    names = [() if every else (edit.kind,) for edit in world.edits]
    return torch.tensor([float(r.agrees(e.after, *n)) for r, e, n in zip(readings, world.edits, names, strict=True)])


def _background(made: Tensor, world: World) -> float:
    outside = ~torch.stack([edit.mask for edit in world.edits])
    error = ((made - world.pictures) ** 2).mean(-1)
    mean = (error * outside).sum((1, 2)) / outside.sum((1, 2)).clamp_min(1)
    return float((-10 * mean.clamp_min(1e-6).log10()).mean())


# Cost


def cost_rows(context, world: World) -> Iterator[Row]:
    """Samples of the network, time and memory for one edit, from picture to picture, in turns."""
    one = world.part(slice(1))
    ours, theirs = one.model.model.diffusion_model, one.oracle.unet
    ways = {
        ("the mask", "fast"): (lambda: fresh_mask(one), ours),
        ("the mask", "diffusers"): (lambda: peer_masks(one), theirs),
        ("the whole edit", "fast"): (lambda: whole_edit(one), ours),
        ("the whole edit", "diffusers"): (lambda: whole_peer_edit(one), theirs),
    }
    targets = {("the mask", "fast"): f"== {2 * NOISES}", ("the whole edit", "fast"): "<= 70"}
    taken = dict(zip(ways, costs(list(ways.values()), TIMED)))
    for (name, mode), cost in taken.items():
        target = targets.get((name, mode), "")
        yield context.row(EDITS, f"samples of the network, {name}", mode, cost.samples, "", target)
        yield context.row(EDITS, f"largest batch of the network, {name}", mode, cost.largest, "")
        yield context.row(EDITS, f"time, {name}", mode, cost.seconds, "s")
    for name, target in (("the mask", ""), ("the whole edit", ">= 2.5")):
        ratio = taken[name, "diffusers"].seconds / taken[name, "fast"].seconds
        yield context.row(EDITS, f"times as fast as diffusers, {name}", "fast", ratio, "", target)
    peaks = {mode: peak_memory(ways["the whole edit", mode][0]) for mode in ("fast", "diffusers")}
    for mode, peak in peaks.items():
        yield context.row(EDITS, "peak memory of one edit", mode, peak, "MB")
    relation = peaks["fast"] / peaks["diffusers"]
    yield context.row(EDITS, "peak memory beside diffusers', one edit", "fast", relation, "", "<= 1")


def rows(context) -> Iterable[Row]:
    with torch.inference_mode(), every_core():
        world = papercut(COUNT)
        found = search(world)
        yield from mask_rows(context, world, found)
        yield from edit_rows(context, world, found)
        yield from cost_rows(context, world)
