"""NullText Optimize where it has something to do: after the papers' own inversion, which pairs predictions with levels
otherwise than sampling does, a picture does not come back under its own prompt. There the fast mode, its whole budget,
and levels fitted side by side stand beside the faithful mode; and the paper's global variant beside no fit at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from ...papercut.networks import FILE
from ..results import Row
from .fixtures import inverted, papercut
from .suite_null_text import AT_ONCE, CFG, FITS, LEVELS, ROUNDS, WHOLE, behind, came_back, costs, fitted

TECHNIQUE = "NullText Optimize after the papers' inversion"
TECHNIQUES = (TECHNIQUE,)
PICTURES, GLOBAL = 4, 2
PAIRING = "papers"
FORCED = f"fast, whole budget, {AT_ONCE} levels at once"


def fits_of(context, known: bool) -> Iterator[Row]:
    """Reconstruction and cost of every mode."""
    fixtures = papercut(PICTURES, LEVELS) if known else None
    modes = (*FITS, WHOLE)
    found, fits = came_back(context, fixtures, modes, PAIRING) if known else ({}, {})
    for method in ("plain DDIM", "negative-prompt", *modes):
        measure = f"reconstruction at CFG {CFG}, {LEVELS} levels, {PICTURES} pictures"
        yield context.row(TECHNIQUE, measure, method, found.get(method), "dB")
    yield context.row(TECHNIQUE, "reconstruction, the bound", "VAE alone", found.get("VAE alone"), "dB")
    for mode in ("fast", WHOLE):
        yield context.row(TECHNIQUE, "behind faithful", mode, behind(found, "faithful", mode), "dB", "<= 0.5")
    what = f"{LEVELS} levels, Papercut"
    for row in costs(what, fits, {"faithful": "<= 1700", "fast": "<= 400", WHOLE: "<= 400"}):
        yield context.row(TECHNIQUE, *row)
    forced = None
    if known:
        trajectory = inverted(fixtures, PAIRING, 0)
        forced = fitted(
            context, fixtures.model, trajectory, fixtures.positive, fixtures.negative, WHOLE, AT_ONCE
        ).forwards
    measure = f"forward-equivalents a picture, {what}"
    yield context.row(TECHNIQUE, measure, FORCED, forced, "forwards", "<= 400")


def one_for_all(context, known: bool) -> Iterator[Row]:
    """The paper's global variant."""
    found, fits = came_back(context, papercut(GLOBAL, LEVELS), ("global",), PAIRING) if known else ({}, {})
    measure = f"reconstruction at CFG {CFG}, {LEVELS} levels, {ROUNDS} rounds, {GLOBAL} pictures"
    for method in ("plain DDIM", "global"):
        yield context.row(TECHNIQUE, measure, method, found.get(method), "dB")
    forwards = fits["global"].forwards if fits else None
    measure = f"forward-equivalents a picture, {LEVELS} levels, {ROUNDS} rounds, Papercut"
    yield context.row(TECHNIQUE, measure, "global", forwards, "forwards")


def rows(context) -> Iterable[Row]:
    known = FILE.exists()
    with torch.inference_mode():
        yield from fits_of(context, known)
        yield from one_for_all(context, known)
