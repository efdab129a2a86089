"""Motion guidance as the paper has it beside the fast mode with the flow network, on the same motions."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ...papercut.networks import FILE
from ..context import every_core
from ..results import Row, mean
from .cases import cases
from .cost import Cost, measured
from .fixtures import OUTSIDE, faithful, fast, load, ready, through_vae, verdict
from .judge import reliable_judge
from .suite import quality_rows

FAST = "fast, flow network"


@dataclass(frozen=True)
class Faithful:
    """How long faithful runs are. strength: of the guidance, 1 is the paper's weight."""

    steps: int
    recursion: int
    strength: float = 1.0

    @property
    def name(self) -> str:
        weight = "" if self.strength == 1 else f", {self.strength:g} x the weight"
        return f"faithful, {self.steps * self.recursion} evaluations{weight}"


def run(counts: dict[str, int], length: Faithful, split: str) -> tuple[list[Cost], list[Cost], list[float]]:
    """Faithful and fast on every motion, and the background's PSNR through the VAE alone."""
    fixtures = load()
    items = [ready(fixtures, judge, seed) for seed, judge in enumerate(cases(counts, reliable_judge, split))]
    network = {"optical_flow": fixtures.optical_flow}
    methods = (
        lambda item: faithful(
            fixtures, item, length.steps, recursion=length.recursion, strength=length.strength, **network
        ),
        lambda item: fast(fixtures, item, **network),
    )
    found = [[measured(fixtures, item, lambda: method(item)) for item in items] for method in methods]
    return *found, [verdict(item, through_vae(fixtures, item)).background for item in items]


def pair_rows(context, technique: str, counts: dict[str, int], length: Faithful, split: str = "test") -> Iterator[Row]:
    slow, quick, bounds = None, None, []
    if FILE.exists():
        with torch.inference_mode(), every_core():
            slow, quick, bounds = run(counts, length, split)
    over = lambda costs, get: mean(get(cost) for cost in costs or ())
    flows, operations = [], []
    for mode, costs in ((length.name, slow), (FAST, quick)):
        yield from quality_rows(context, technique, "", mode, costs and [cost.seen for cost in costs])
        lost = statistics.mean(b - cost.seen.background for b, cost in zip(bounds, costs)) if costs else None
        yield context.row(technique, f"background PSNR below the VAE's, {OUTSIDE}", mode, lost, "dB")
        flows.append(over(costs, lambda cost: cost.flow))
        operations.append(over(costs, lambda cost: cost.operations / 1e12))
        yield context.row(technique, "flow error", mode, flows[-1], "px")
        yield context.row(technique, "arithmetic", mode, operations[-1], "TFLOP")
    beside = flows[1] / flows[0] if flows[0] else None
    yield context.row(technique, "flow error beside faithful's", FAST, beside, "times")
    saved = operations[0] / operations[1] if operations[1] else None
    yield context.row(technique, "arithmetic saved beside faithful", FAST, saved, "times")
