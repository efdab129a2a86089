"""Faithful motion guidance with and without damping, on moves of validation scenes: neither is better everywhere.

Damping is not in the paper, and the faithful preset leaves it off. A run here has 80 of the paper's 5000 evaluations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from ...papercut.networks import FILE
from ..context import every_core
from ..results import Row, error_of_mean, mean
from .cases import cases
from .fixtures import Fixtures, Item, faithful, load, ready, verdict
from .judge import GHOST, Verdict, reliable_judge
from .suite import fraction

TECHNIQUE = "Motion Guidance, faithful with damping"
TECHNIQUES = (TECHNIQUE,)
TEST_SPLIT = False
MOVES, SCENES, SPLIT = ("move 16 px", "move 32 px"), 2, "validation"
STEPS, RECURSION = 8, 10
SETTINGS = {"faithful": "off", "faithful, damped": "on"}


class Damped(NamedTuple):
    """One run. flow: the last flow loss in pixels."""

    damped: int
    flow: float
    seen: Verdict


def scenes(fixtures: Fixtures, kind: str) -> list[Item]:
    return [ready(fixtures, judge, seed) for seed, judge in enumerate(cases({kind: SCENES}, reliable_judge, SPLIT))]


def run(fixtures: Fixtures, item: Item, damping: str) -> Damped:
    network = {"optical_flow": fixtures.optical_flow}
    picture, sampler = faithful(fixtures, item, STEPS, recursion=RECURSION, damping=damping, **network)
    return Damped(sampler.record.damped, sampler.record.steps[-1].flow, verdict(item, picture))


def setting_rows(context, kind: str, mode: str, found: list[Damped]) -> Iterator[Row]:
    """Means over the scenes of one length of move at one setting, with their standard errors; no `found`: no values."""
    row = lambda measure, value, unit="": context.row(TECHNIQUE, f"{kind}: {measure}", mode, value, unit)
    yield row("scenes of the validation split", len(found) if found else None)
    yield row(f"evaluations damped, of {STEPS * RECURSION}", mean(one.damped for one in found))
    for measure, values in {
        "last flow loss": [one.flow for one in found],
        "goal missed by": [one.seen.goal for one in found],
    }.items():
        yield row(measure, mean(values), "px")
        yield row(f"{measure}, standard error", error_of_mean(values), "px")
    ghosts = [one.seen.sliver > GHOST for one in found if one.seen.sliver is not None]
    yield row("ghosts at the old place, up to the new outline", fraction(ghosts) if ghosts else None, "%")
    yield row("old places judged", len(ghosts) if found else None)


def rows(context) -> Iterable[Row]:
    with torch.inference_mode(), every_core():
        fixtures = load() if FILE.exists() else None
        for kind in MOVES:
            items = scenes(fixtures, kind) if fixtures is not None else []
            for mode, damping in SETTINGS.items():
                yield from setting_rows(context, kind, mode, [run(fixtures, item, damping) for item in items])
