"""DiffEdit Mask and the anchored edit on Papercut, beside diffusers' pipeline and SDEdit on the same weights.

Every number is a mean over edits whose true mask is known (`benchmarks/edits.py`). A new ground is found as the
complement of the object (`complement`); the peers, which cannot do that, are given the ground's words. "diffusers'
rule" is its threshold on our maps, for all edits: the same masks at half the cost (`tests/diffedit/test_parity.py`);
"diffusers" is the pipeline itself, for some.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...guidance.masks import MaskRecipe
from ..context import every_core
from ..diffedit_cost import costs, peak_memory
from ..diffedit_ways import (
    DEPTH,
    NOISES,
    OURS,
    Edited,
    World,
    anchored_edit,
    enlarged,
    in_batches,
    inverted,
    our_maps,
    our_masks,
    papercut,
    peer_edit,
    peer_masks,
    scored,
    sdedit,
    whole_edit,
)
from ..edits import KINDS
from ..figures import Curve, line_plot
from ..rows import Row

MASKS, EDITS = "DiffEdit Mask", "DiffEdit"
TECHNIQUES = (MASKS, EDITS)
# FEW edits are all kinds in all sizes once; THEIRS are every third size, as diffusers' own edit takes 160 samples each.
COUNT, FEW, TIMED, SHALLOW = 200, 40, 3, 0.5
THEIRS = [i for i in range(FEW) if i // len(KINDS) % 3 == 0]
LEVELS = [round(0.05 * i, 2) for i in range(21)]
BARE = MaskRecipe(outliers="none", threshold="1.5 x mean", gap=0, fill_holes=False)
RULES = {f"fixed {level}": replace(OURS, threshold="fixed", level=level) for level in (0.25, 0.5, 0.75)}
RULES |= {"1.5 x mean": replace(OURS, threshold="1.5 x mean")}
SIZES = {"below 8 %": (0.0, 0.08), "8 to 25 %": (0.08, 0.25), "above 25 %": (0.25, 1.0)}


class Found(NamedTuple):
    """maps: (10, B, 32, 32) of single noises. masks: (B, 256, 256) by mode. peer: (FEW, 32, 32), those of diffusers."""

    maps: Tensor
    masks: dict[str, Tensor]
    peer: Tensor


def search(world: World) -> Found:
    maps, grounds = our_maps(world), world.part(world.grounds.nonzero()[:, 0].tolist())
    named = maps.clone()
    named[:, world.grounds] = our_maps(grounds, queries=grounds.after)
    masks = {"adaptive": our_masks(world, maps), "adaptive, grounds by name": our_masks(world, named, complement=False)}
    masks |= {name: our_masks(world, maps, recipe) for name, recipe in RULES.items()}
    masks["diffusers' rule"] = our_masks(world, named, BARE, complement=False)
    return Found(maps, masks, peer_masks(world.part(slice(FEW))))


# Masks


def mask_rows(context, world: World, found: Found) -> Iterator[Row]:
    """By threshold rule and size of the object, number of noises, and strength; beside diffusers."""
    scores = {mode: scored(masks, world) for mode, masks in found.masks.items()}
    share = torch.tensor([edit.share for edit in world.edits])
    groups = {"objects": ~world.grounds, "grounds": world.grounds}
    groups |= {f"objects of {name}": ~world.grounds & (a <= share) & (share < b) for name, (a, b) in SIZES.items()}
    for mode, (iou, recall) in scores.items():
        for name, rows in groups.items():
            yield context.row(MASKS, f"IoU, {name}", mode, float(iou[rows].mean()), "")
            yield context.row(MASKS, f"recall, {name}", mode, float(recall[rows].mean()), "")
    gains = scores["adaptive"].iou - scores["diffusers' rule"].iou
    for name, rows in {"all": torch.ones_like(world.grounds), **groups}.items():
        target, gain = ">= 0.1" if name in ("all", "objects") else "", float(gains[rows].mean())
        yield context.row(MASKS, f"IoU above diffusers' rule, {name}", "adaptive", gain, "", target)
    yield from _peer_rows(context, world.part(slice(FEW)), found)
    for count in (1, 2, 4, NOISES):
        made = scored(our_masks(world, found.maps[:count]), world)
        yield context.row(MASKS, f"IoU, {count} noises", "adaptive", float(made.iou.mean()), "")
        yield context.row(MASKS, f"recall, {count} noises", "adaptive", float(made.recall.mean()), "")
    some = world.part(slice(FEW))
    maps = {0.5: found.maps[:4, :FEW]} | {strength: our_maps(some, strength, 4) for strength in (0.3, 0.7)}
    for strength, one in sorted(maps.items()):
        made = scored(our_masks(some, one), some)
        yield context.row(MASKS, f"IoU, 4 noises, strength {strength}", "adaptive", float(made.iou.mean()), "")
        yield context.row(MASKS, f"recall, 4 noises, strength {strength}", "adaptive", float(made.recall.mean()), "")
    _draw_sweep(world, found)


def _peer_rows(context, some: World, found: Found) -> Iterator[Row]:
    """diffusers' own pipeline, 40 samples a mask, on the first edits."""
    count = len(some.edits)
    theirs = scored(enlarged(found.peer), some)
    for mode in ("adaptive", "diffusers' rule", "diffusers"):
        iou, recall = theirs if mode == "diffusers" else scored(found.masks[mode][:count], some)
        yield context.row(MASKS, f"IoU, {count} edits", mode, float(iou.mean()), "")
        yield context.row(MASKS, f"recall, {count} edits", mode, float(recall.mean()), "")
    gain = scored(found.masks["adaptive"][:count], some).iou - theirs.iou
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
    few, paths = world.part(slice(FEW)), {}

    def ours(part: World, rows: slice) -> Edited:
        paths[rows.start] = inverted(part)
        return anchored_edit(part, found.masks["adaptive"][rows], paths[rows.start])

    made = {"fast": in_batches(world, ours), "SDEdit": in_batches(world, lambda part, _: sdedit(part))}
    for mode, edited in made.items():
        yield from _quality(context, "", mode, edited.pictures, world)
    moved = (made["fast"].pictures - world.pictures).abs().amax(-1)[made["fast"].soft == 0]
    yield context.row(EDITS, "largest change outside the feather", "fast", float(moved.max()), "", "== 0")
    success = {mode: _success(edited.pictures, world) for mode, edited in made.items()}
    gain = float(success["fast"].mean() - success["SDEdit"].mean())
    yield context.row(EDITS, f"success above SDEdit's, depth {DEPTH}", "fast", gain, "", ">= 0")
    for kind in KINDS:
        rows = torch.tensor([edit.kind == kind for edit in world.edits])
        for mode, right in success.items():
            yield context.row(EDITS, f"success, {kind}", mode, float(right[rows].mean()), "")
    theirs, label = world.part(THEIRS), f", {len(THEIRS)} edits"
    yield from _quality(context, label, "diffusers", peer_edit(theirs, found.peer[THEIRS]).pictures, theirs)
    for mode, edited in made.items():
        yield from _quality(context, label, mode, edited.pictures[THEIRS], theirs)
    yield from _variations(context, few, found, paths)


def _variations(context, world: World, found: Found, paths: dict) -> Iterator[Row]:
    """The first edits again: less deep, with other masks. paths: the trajectories by their batch's first edit."""

    def ours(masks: Tensor, depth: float = DEPTH) -> Tensor:
        return in_batches(world, lambda part, at: anchored_edit(part, masks[at], paths[at.start], depth)).pictures

    label = f", {len(world.edits)} edits"
    adaptive = found.masks["adaptive"][: len(world.edits)]
    noisy = in_batches(world, lambda part, _: sdedit(part, SHALLOW)).pictures
    made = {"fast": ours(adaptive, SHALLOW), "SDEdit": noisy}
    for mode, pictures in made.items():
        yield from _quality(context, f"{label}, depth {SHALLOW}", mode, pictures, world)
    gain = float((_success(made["fast"], world) - _success(noisy, world)).mean())
    yield context.row(EDITS, f"success above SDEdit's, depth {SHALLOW}", "fast", gain, "", ">= 0")
    mean, single = found.masks["1.5 x mean"][: len(world.edits)], our_masks(world, found.maps[:1, : len(world.edits)])
    for name, some in {"fast": adaptive, "1.5 x mean": mean, "1 noise": single}.items():
        yield from _quality(context, label, name, ours(some), world)
    empty = in_batches(world, lambda part, at: anchored_edit(part, adaptive[at], inverted(part, named=False)))
    yield from _quality(context, label, "inverted with the empty text, as in the paper", empty.pictures, world)


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
    """Samples of the network, time and memory for one picture, in turns."""
    one = world.part(slice(1))
    ours, theirs = one.model.model.diffusion_model, one.oracle.unet
    ways = {
        ("the mask", "fast"): (lambda: our_masks(one, our_maps(one)), ours),
        ("the mask", "diffusers"): (lambda: peer_masks(one), theirs),
        ("the whole edit", "fast"): (lambda: whole_edit(one), ours),
        ("the whole edit", "diffusers"): (lambda: peer_edit(one), theirs),
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
