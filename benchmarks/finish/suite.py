"""Pixel-True Finish on synthetic truth: is the move found, the mask right, and the rest of the picture the source's?

An edit is drawn in a region of a known picture; then all of it is moved, zoomed, turned, stretched, recoloured, resized
and saved as a JPEG of quality 85, as instruction editors do (truth.py). Settings were chosen on the photographs and
scenes of the validation split; these rows are of the test split. Beside it stand pasting without registration, a
threshold on the difference, and the colour matches of the host and of popular packs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import kornia
import torch
from scipy import ndimage
from torch import Tensor

from ...guidance.finish.alignment import warp
from ...guidance.finish.finish import Finished, FinishRecipe, finish
from ..results import Row, error_of_mean, mean
from .baselines import MATCHES, difference_mask
from .cases import TEXTURES, Case, cases, photographs, scenes
from .truth import Truth, registration_error

TECHNIQUE = "Pixel-True Finish"
TECHNIQUES = (TECHNIQUE,)
OURS, FIELD, UNREGISTERED, THRESHOLD = "automatic", "smooth field", "no registration", "difference threshold"
PHOTOS, SCENES = 36, 12
LARGE = 0.02
"""Edits from this fraction of the picture on have a target for their IoU."""
RING = 2
"""Pixels outside the true edit at which the seam is measured."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """One edit in one mode; error in pixels of the source; recall, iou, seam as fractions, None where undefined."""

    case: Case
    error: float
    recall: float | None
    iou: float
    outside: int
    seam: float | None
    gradients: tuple[float, float]
    tone: float
    slowness: float


def measured(case: Case, truth: Truth, recipe: FinishRecipe) -> Measured:
    blur = seconds(lambda: kornia.filters.gaussian_blur2d(truth.source[None], (31, 31), (5.0, 5.0)))
    start = time.perf_counter()
    try:
        done = finish(truth.source, truth.edited, recipe=recipe)
    except ValueError:
        # Refused as another picture: counted as the move that was not found, and as an empty mask.
        done = finish(truth.source, truth.edited, torch.zeros(truth.source.shape[1:]), FinishRecipe(registration="off"))
    took = time.perf_counter() - start
    inside, seen = done.alpha > 0, truth.alignment.overlap()
    recall, iou = overlap(inside, truth, seen)
    made, own = seam(done.picture, truth, seen)
    differs = (done.picture != truth.source).any(0)
    return Measured(
        case=case,
        error=registration_error(done.alignment, truth.alignment),
        recall=recall,
        iou=iou,
        outside=int((differs & ~inside).sum()),
        seam=made / own if own > 1e-4 else None,
        gradients=(made, own),
        tone=tone(done, truth, seen),
        slowness=took / blur,
    )


def seconds(work) -> float:
    """The quicker of two runs."""
    took = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return min(took)


def overlap(inside: Tensor, truth: Truth, seen: Tensor) -> tuple[float | None, float]:
    """The fraction of visibly changed pixels inside the mask, and its IoU with the region, where the edit is seen."""
    changed, region = truth.changed & seen, truth.region & seen
    recall = float((inside & changed).sum() / changed.sum()) if changed.any() else None
    return recall, float((inside & region).sum() / (inside | region).sum().clamp_min(1))


def seam(picture: Tensor, truth: Truth, seen: Tensor) -> tuple[float, float]:
    """The mean gradient on the ring round the true edit, and that of the source there."""
    far = torch.from_numpy(ndimage.distance_transform_edt(~truth.region.numpy()))
    ring = (far > RING - 0.5) & (far <= RING + 0.5) & seen
    if not ring.any():
        return 0.0, 0.0
    return float(gradient(picture)[ring].mean()), float(gradient(truth.source)[ring].mean())


def gradient(picture: Tensor) -> Tensor:
    """(3, H, W) -> (H, W), the length of Sobel's, over all channels."""
    return kornia.filters.spatial_gradient(picture[None])[0].square().sum((0, 1)).sqrt()


def tone(done: Finished, truth: Truth, seen: Tensor) -> float:
    """What is left of the colour cast outside the edit, in levels of 255 (root mean square), at the true place."""
    return left_of(done.cast.undone(warp(truth.edited, truth.alignment, "bicubic")), truth, seen)


def left_of(view: Tensor, truth: Truth, seen: Tensor) -> float:
    """Of neighbourhoods of 15 pixels, so that the JPEG's noise does not count."""
    difference = kornia.filters.box_blur((view - truth.source)[None], (15, 15))[0]
    kept = torch.from_numpy(ndimage.binary_erosion((seen & ~truth.region).numpy(), iterations=8))
    return 255 * float(difference[:, kept].square().mean().sqrt()) if kept.any() else 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """All that is measured of one edit: by mode; the threshold's recall and IoU; the colour matches' errors."""

    modes: dict[str, Measured]
    threshold: tuple[float | None, float]
    matches: dict[str, float]


def run(case: Case) -> Found:
    truth = case.truth()
    seen = truth.alignment.overlap()
    recipes = {
        OURS: FinishRecipe(),
        FIELD: FinishRecipe(colour="smooth field"),
        UNREGISTERED: FinishRecipe(registration="off"),
    }
    # The matches look at the whole edited picture, as their nodes do, and are judged at the true place.
    matches = {
        name: left_of(warp(match(truth.edited, truth.source), truth.alignment, "bicubic"), truth, seen)
        for name, match in MATCHES.items()
    }
    matches["none"] = left_of(warp(truth.edited, truth.alignment, "bicubic"), truth, seen)
    return Found(
        modes={mode: measured(case, truth, recipe) for mode, recipe in recipes.items()},
        threshold=overlap(difference_mask(truth.source, truth.edited), truth, seen),
        matches=matches,
    )


def group_rows(context, group: str, found: Sequence[Found]) -> Iterator[Row]:
    """The rows of one group of edits; without any, rows of what another machine measured."""
    for mode in (OURS, FIELD, UNREGISTERED):
        yield from mode_rows(context, group, mode, [one.modes[mode] for one in found])
    recall = mean(one.threshold[0] for one in found)
    iou = mean(one.threshold[1] for one in found)
    yield context.row(TECHNIQUE, f"{group}: edited pixels inside the mask", THRESHOLD, scaled(recall), "%")
    yield context.row(TECHNIQUE, f"{group}: IoU of the mask, all edits", THRESHOLD, iou, "")
    for name in (*MATCHES, "none"):
        left = mean(one.matches[name] for one in found)
        yield context.row(TECHNIQUE, f"{group}: colour cast left outside the edit", name, left, "of 255")


def scaled(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def mode_rows(context, group: str, mode: str, all_of: Sequence[Measured]) -> Iterator[Row]:
    ours = mode == OURS and group != "repeated textures"

    def row(measure: str, value: float | None, unit: str, target: str = "") -> Row:
        return context.row(TECHNIQUE, f"{group}: {measure}", mode, value, unit, target if ours else "")

    errors = torch.tensor([one.error for one in all_of])
    yield row("edits", len(all_of) or None, "")
    yield row("registration error, median", float(errors.median()) if len(errors) else None, "px", "<= 0.25")
    near = scaled(float((errors <= 1).float().mean())) if len(errors) else None
    yield row("registered within 1 px", near, "%", ">= 95")
    large = [one for one in all_of if one.case.fraction >= LARGE]
    for measure, values, unit, target, factor in (
        ("edited pixels inside the mask", [one.recall for one in all_of], "%", ">= 99", 100),
        ("IoU of the mask, edits of 2 % and more", [one.iou for one in large], "", ">= 0.85", 1),
        ("IoU of the mask, all edits", [one.iou for one in all_of], "", "", 1),
        ("gradient 2 px outside, beside the source's, mean of the edits", [one.seam for one in all_of], "times", "", 1),
        ("colour cast left outside the edit", [one.tone for one in all_of], "of 255", "", 1),
    ):
        value, error = mean(values), error_of_mean(values)
        yield row(measure, None if value is None else factor * value, unit, target)
        if ours:
            yield row(f"{measure}: standard error", None if error is None else factor * error, unit)
    made, own = (sum(one.gradients[i] for one in all_of) for i in (0, 1))
    yield row("gradient 2 px outside the edit, beside the source's", made / own if own else None, "times", "<= 1.2")
    outside = sum(one.outside for one in all_of) if all_of else None
    yield row("pixels that differ outside the mask", outside, "", "== 0")
    slow = torch.tensor([one.slowness for one in all_of])
    yield row("time, median, in blurs of 31 x 31", float(slow.median()) if len(slow) else None, "times", "<= 20")


def groups(found: Iterable[tuple[Case, Found]]) -> dict[str, list[Found]]:
    parted: dict[str, list[Found]] = {"all pictures": [], "photographs": [], "Papercut": [], "repeated textures": []}
    for case, one in found:
        parted["all pictures"].append(one)
        parted["Papercut" if case.name.startswith("scene") else "photographs"].append(one)
        if case.name in TEXTURES:
            parted["repeated textures"].append(one)
    return parted


def all_cases(split: str, photos: int = PHOTOS, papercut: int = SCENES) -> list[Case]:
    """The seeds of the splits are others, as their pictures are."""
    first = {"validation": 1000, "test": 5000}[split]
    pictures = photographs(split)
    drawn = cases(pictures, photos, first) if len(pictures) > 1 else []
    return drawn + cases(scenes(split, 12), papercut, first + 500)


def large_rows(context) -> Iterator[Row]:
    """A photo of 24 megapixels with an edit of one: how long, and how many times the photo's memory."""
    source = torch.nn.functional.interpolate(scenes("validation", 1)["scene 0"][None], (4000, 6000), mode="bicubic")[0]
    source = source.clamp(0, 1)
    edited = torch.nn.functional.interpolate(source[None], (832, 1248), mode="area")[0]
    edited[:, 300:500, 500:800] = 0.2
    blur = seconds(lambda: kornia.filters.gaussian_blur2d(source[None], (31, 31), (5.0, 5.0)))
    took = seconds(lambda: finish(source, edited))
    yield context.row(TECHNIQUE, "24 megapixels: time", OURS, took, "s")
    yield context.row(TECHNIQUE, "24 megapixels: time, in blurs of 31 x 31", OURS, took / blur, "times", "<= 20")


def rows(context) -> Iterable[Row]:
    with torch.inference_mode():
        found = [(case, run(case)) for case in all_cases("test")]
        made = [row for group, some in groups(found).items() for row in group_rows(context, group, some)]
        return [*made, *large_rows(context)]
