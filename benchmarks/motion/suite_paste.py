"""Motions whose exact part is pasted: the warp's own pixels where the moved thing is, and guidance for the rest.

Four ways to the same picture, beside the true one: the warp alone; the warp with inpainting under a prompt of what
stays, and the warped pixels outside; guidance; guidance with the warped pixels pasted, as the blueprint Move It does.
The last two end with Pixel-True Finish. All of the moved thing is pasted, to its outline: on 18 motions of the
validation split a rim of 1 or 2 pixels that is left to guidance costs 1.6 and 2.0 dB of the whole picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ...guidance.finish.finish import FinishRecipe, finish
from ...guidance.flow.warp import forward_warp
from ...guidance.morphology import dilate, erode
from ...papercut.networks import FILE
from ..results import Row, error_of_mean, mean
from .cases import COUNTS, cases
from .fixtures import GROW, Fixtures, Item, fast, instant, load, ready
from .judge import reliable_judge

TECHNIQUE = "Motion Guidance, pasted"
TECHNIQUES = (TECHNIQUE,)
WARP, INPAINTED, GUIDED, PASTED = "warp alone", "warp, inpainting, paste", "guided", "guided, paste"
EACH = {kind: 2 for kind in COUNTS if kind not in ("move 8 px", "move 96 px")}
RIM, SHADOW = 3, 7
"""Pixels inside and outside of the new outline that count as its rim; those outside hold the shadow."""
OFF = FinishRecipe(registration="off", colour="off", grow=0, feather=0)


def made(fixtures: Fixtures, item: Item) -> dict[str, Tensor]:
    """The four pictures (3, 256, 256)."""
    landing, source = item.asked.landing, item.judge.source
    warped = forward_warp(source[None], landing, grow=GROW)[0]
    guided = fast(fixtures, item)[0]
    whole = landing.edit_mask(GROW)[0].float()
    return {
        WARP: warped,
        INPAINTED: instant(fixtures, item),
        GUIDED: finish(source, guided, whole, OFF).picture,
        PASTED: finish(warped, guided, whole * ~landing.arrived[0], OFF).picture,
    }


def regions(item: Item) -> dict[str, Tensor]:
    """(256, 256) bool each; those after the first are apart and add up to it."""
    landing = item.asked.landing
    inner = erode(landing.arrived, RIM)[0]
    rim = dilate(landing.arrived, SHADOW)[0] & ~inner
    free = landing.edit_mask(GROW)[0]
    return {
        "whole picture": torch.ones_like(free),
        "moved region": inner,
        "rim": rim,
        "uncovered place": free & ~inner & ~rim,
        "outside": ~(free | rim),
    }


def psnr(picture: Tensor, truth: Tensor, region: Tensor) -> float | None:
    """dB, at most 100; None where the region has hardly a pixel."""
    if region.sum() < 60:
        return None
    return float(-10 * (picture - truth)[:, region].square().mean().clamp_min(1e-10).log10())


Found = dict[str, dict[str, float | None]]


def measured(pictures: dict[str, Tensor], item: Item) -> Found:
    """PSNR to the true scene by region and way."""
    truth = item.judge.truth
    return {
        name: {way: psnr(picture, truth, region) for way, picture in pictures.items()}
        for name, region in regions(item).items()
    }


def collect(fixtures: Fixtures, counts: dict[str, int], split: str, look: Callable = lambda *_: None) -> list[Found]:
    """look: called with every item and its pictures."""
    found = []
    for seed, judge in enumerate(cases(counts, reliable_judge, split)):
        item = ready(fixtures, judge, seed)
        pictures = made(fixtures, item)
        look(item, pictures)
        found.append(measured(pictures, item))
    return found


def region_rows(context, name: str, found: Sequence[dict[str, float | None]]) -> Iterator[Row]:
    """found: of one region, by way, for each motion; empty where this machine does not measure."""
    row = lambda measure, mode, value, unit, target="": context.row(
        TECHNIQUE, f"{name}: {measure}", mode, value, unit, target
    )
    yield row("motions", "all", sum(one[PASTED] is not None for one in found) or None, "")
    for way in (WARP, INPAINTED, GUIDED, PASTED):
        values = [one[way] for one in found]
        yield row("PSNR to the true scene", way, mean(values), "dB")
        yield row("PSNR to the true scene: standard error", way, error_of_mean(values), "dB")
    for way in (WARP, INPAINTED, GUIDED):
        ahead = [one[PASTED] - one[way] for one in found if one[PASTED] is not None]
        error = error_of_mean(ahead)
        yield row(f"ahead of '{way}', in pairs", PASTED, mean(ahead), "dB")
        yield row(f"ahead of '{way}', in pairs: standard error", PASTED, error, "dB")
        behind = None if error is None else -mean(ahead) / max(error, 1e-9) if mean(ahead) < 0 else 0.0
        yield row(f"behind '{way}', in standard errors", PASTED, behind, "", "<= 2")


def rows(context) -> Iterable[Row]:
    found: list[Found] = []
    if FILE.exists():
        with torch.inference_mode():
            found = collect(load(), EACH, "test")
    for name in ("whole picture", "moved region", "rim", "uncovered place", "outside"):
        yield from region_rows(context, name, [one[name] for one in found])
