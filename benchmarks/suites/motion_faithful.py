"""Motion guidance as the paper has it, on all of the test split's motions, beside the fast mode with the flow network.

The paper's 500 levels of 10 recursions are days of a CPU for a hundred motions. A run here has 15 evaluations of the
model; 5 levels of 3 bring things nearer to their goals than 16 levels of 1 or 8 of 2. `motion.py` has what both modes
cost, and the flow error's target, with two faithful runs that are longer.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import torch

from ...papercut.export import FILE
from ..context import every_core
from ..motion_cases import COUNTS, cases
from ..motion_judge import reliable_judge
from ..rows import Row
from ._motion_cost import Cost, measured
from ._motion_world import OUTSIDE, fast, faithful, load, ready, through_vae, verdict
from .motion import quality_rows

TECHNIQUE = "Motion Guidance, faithful in short"
TECHNIQUES = (TECHNIQUE,)
STEPS, RECURSION = 5, 3
FAITHFUL, FAST = f"faithful, {STEPS * RECURSION} evaluations", "fast, flow network"


def run(split: str = "test", counts: dict[str, int] = COUNTS) -> tuple[dict[str, list[Cost]], list[float]]:
    """Both modes on every motion, and the background's PSNR through the VAE alone."""
    world = load()
    items = [ready(world, judge, seed) for seed, judge in enumerate(cases(counts, reliable_judge, split))]
    network = {"optical_flow": world.optical_flow}
    ways = {
        FAITHFUL: lambda item: faithful(world, item, STEPS, recursion=RECURSION, **network),
        FAST: lambda item: fast(world, item, **network),
    }
    found = {mode: [measured(world, item, lambda: way(item)) for item in items] for mode, way in ways.items()}
    return found, [verdict(item, through_vae(world, item)).background for item in items]


def rows(context) -> Iterable[Row]:
    found, bounds = dict.fromkeys((FAITHFUL, FAST)), []
    if FILE.exists():
        with torch.inference_mode(), every_core():
            found, bounds = run()
    flows = {}
    for mode, costs in found.items():
        yield from quality_rows(context, TECHNIQUE, "", mode, costs and [cost.seen for cost in costs])
        lost = statistics.mean(b - cost.seen.background for b, cost in zip(bounds, costs)) if costs else None
        yield context.row(TECHNIQUE, f"background PSNR below the VAE's, {OUTSIDE}", mode, lost, "dB")
        seen = [cost.flow for cost in costs or () if cost.flow is not None]
        flows[mode] = statistics.mean(seen) if seen else None
        yield context.row(TECHNIQUE, "flow error", mode, flows[mode], "px")
    beside = flows[FAST] / flows[FAITHFUL] if flows[FAITHFUL] else None
    yield context.row(TECHNIQUE, "flow error beside faithful's", FAST, beside, "times")
