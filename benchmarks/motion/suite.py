"""Motion guidance on Papercut's test split: are things at their goals, in their colours, and their old places empty?

Pictures, flows, seeds and prompts are the same. *fast* is the sampler's default preset with the colours alone (the
flow network takes part in the cost rows); *instant* is Flow Warp and the host's inpainting. *faithful* takes part in
the cost rows, with two motions; `suite_faithful.py` has it on all of them, in runs that are shorter still.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from functools import partial

import torch

from ...papercut.networks import FILE
from ..context import every_core
from ..results import Row
from .cases import COUNTS, cases
from .closed_form import closed_form_rows
from .cost import cost_rows, size_rows
from .fixtures import OUTSIDE, fast, instant, load, ready, through_vae, unedited, verdict
from .judge import GHOST, Verdict, reliable_judge

TECHNIQUE = "Motion Guidance"
TECHNIQUES = (TECHNIQUE,)
WITHIN, COMPARED = 3.0, ("move 16 px", "turn")
METHODS = {
    "unedited": unedited,
    "through the VAE": through_vae,
    "instant": instant,
    "fast": lambda fixtures, item: fast(fixtures, item)[0],
}


def fraction(values: list[bool]) -> float:
    return 100 * sum(values) / len(values)


def quality_rows(context, technique: str, kind: str, mode: str, found: list[Verdict] | None) -> Iterator[Row]:
    """kind: "" for all motions."""
    row, known = partial(context.row, technique), found is not None
    lead, goals = f"{kind}: " if kind else "", (">= 90", "< 5") if mode == "fast" and not kind else ("", "")
    reached = fraction([one.goal <= WITHIN for one in found]) if known else None
    yield row(f"{lead}at the goal within {WITHIN:.0f} px", mode, reached, "%", goals[0])
    colour = statistics.mean(one.colour for one in found) if known else None
    yield row(f"{lead}colour L1 over the moved area", mode, colour, "")
    if kind:
        return
    missed = statistics.median(one.goal for one in found) if known else None
    yield row("goal missed by, median", mode, missed, "px")
    bare = [one for one in found or () if one.ghost is not None]
    ghosts = fraction([one.ghost > GHOST for one in bare]) if bare else None
    yield row("ghosts at the old place", mode, ghosts, "%", goals[1])
    yield row("motions whose old place is judged", mode, len(bare) if known else None, "")
    old = statistics.mean(one.old_place for one in bare) if bare else None
    yield row("old place, L1 to the right picture", mode, old, "")
    slivers = [one.sliver for one in found or () if one.sliver is not None]
    near = fraction([one > GHOST for one in slivers]) if slivers else None
    yield row("ghosts at the old place, up to the new outline", mode, near, "%")
    yield row("motions judged up to the new outline", mode, len(slivers) if known else None, "")


def target_rows(context, verdicts: dict[str, list[Verdict] | None]) -> Iterator[Row]:
    """What compares one mode with another."""
    known = verdicts["fast"] is not None
    mean = lambda mode: statistics.mean(one.colour for one in verdicts[mode])
    beside = mean("fast") / mean("instant") if known else None
    yield context.row(TECHNIQUE, "colour L1 beside the instant baseline's", "fast", beside, "times", "<= 1.5")
    for mode in ("instant", "fast"):
        lost = None
        if known:
            pairs = zip(verdicts["through the VAE"], verdicts[mode])
            lost = statistics.mean(bound.background - one.background for bound, one in pairs)
        target = "<= 0.1" if mode == "fast" else ""
        yield context.row(TECHNIQUE, f"background PSNR below the VAE's, {OUTSIDE}", mode, lost, "dB", target)
    level = statistics.mean(one.background for one in verdicts["through the VAE"]) if known else None
    yield context.row(TECHNIQUE, f"background PSNR, {OUTSIDE}", "through the VAE", level, "dB")


def rows(context) -> Iterable[Row]:
    yield from closed_form_rows(context, TECHNIQUE)
    with torch.inference_mode(), every_core():
        fixtures = load() if FILE.exists() else None
        judges = cases(COUNTS, reliable_judge) if fixtures is not None else ()
        items = [ready(fixtures, judge, seed) for seed, judge in enumerate(judges)]
        verdicts = {
            mode: [verdict(item, method(fixtures, item)) for item in items] or None for mode, method in METHODS.items()
        }
        for mode, found in verdicts.items():
            yield from quality_rows(context, TECHNIQUE, "", mode, found)
        yield from target_rows(context, verdicts)
        for kind in COUNTS:
            places = [i for i, item in enumerate(items) if item.case.kind == kind]
            for mode in ("instant", "fast"):
                some = [verdicts[mode][i] for i in places] if places else None
                yield from quality_rows(context, TECHNIQUE, kind, mode, some)
        compared = [next(item for item in items if item.case.kind == kind) for kind in COMPARED] if items else []
        yield from cost_rows(context, TECHNIQUE, fixtures, compared)
        yield from size_rows(context, TECHNIQUE)
