"""The numbers of a Motion Guidance run, and the record of what it did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace

from .step_size import Window


@dataclass(frozen=True)
class MotionRecipe:
    """The numbers of a run. The released ones: guidance 300, clip 200, recursion 10 over 500 levels, faithful."""

    faithful: bool = False
    guidance: float = 300.0  # faithful: weight of the loss; fast: as a fraction of 300 it scales the step length
    clip: float = 200.0  # norm of the change of epsilon at 4 x 64 x 64
    recursion: int = 1  # K, evaluations of the model at a level
    inner: int = 2  # fast: updates of the clean estimate at each evaluation
    pull_from: float = 0.5  # fast: fraction of the run before which the moved source is followed without updates
    follow: float = 0.7  # fast: fraction of the way to the moved source's latent, before the updates
    flow_every: int = 4  # fast: the flow network judges every n-th level, in its first update; 0 = never
    damping: bool = True  # halve the pull of a picture whose loss grows within a level; not in the paper
    window: Window = Window()

    def at(self, step: int, steps: int) -> MotionRecipe:
        """The recipe of one level; the last one is always pulled."""
        return self if self.faithful or (step + 1) / steps > self.pull_from else replace(self, inner=0)


@dataclass(frozen=True)
class StepRecord:
    """What happened in one level; losses are means over the batch before the updates, None where nothing was decoded;
    `pull` is the RMS change of x0."""

    sigma: float
    colour: float | None
    flow: float | None
    pull: float


@dataclass
class Record:
    """What happened in one run: for the plot and the report. Counts are calls, one for all rows that go at once;
    `decodes` and `flow_calls` are all calls, with or without gradients."""

    steps: list[StepRecord] = field(default_factory=list)
    model_calls: int = 0
    model_gradients: int = 0
    decodes: int = 0
    decoder_gradients: int = 0
    flow_calls: int = 0
    flow_gradients: int = 0
    damped: int = 0
    not_finite: int = 0  # pulls that were left out, as their gradient was not finite


def combined(parts: Sequence[tuple[int, Record]]) -> Record:
    """The record of a batch from those of its parts, each with its number of rows: counts added up, losses averaged.

    The steps are those that all parts have come to.
    """
    if len(parts) == 1:
        return parts[0][1]
    counts = [one.name for one in fields(Record) if one.name != "steps"]
    sums = {name: sum(getattr(record, name) for _, record in parts) for name in counts}
    rows = [count for count, _ in parts]
    return Record([_combined_step(rows, steps) for steps in zip(*(record.steps for _, record in parts))], **sums)


def _combined_step(rows: Sequence[int], steps: Sequence[StepRecord]) -> StepRecord:
    def mean(values: Iterable[float | None]) -> float | None:
        known = [(count, value) for count, value in zip(rows, values) if value is not None]
        return sum(count * value for count, value in known) / sum(count for count, _ in known) if known else None

    pull = mean(step.pull**2 for step in steps) or 0.0
    return StepRecord(steps[0].sigma, mean(step.colour for step in steps), mean(step.flow for step in steps), pull**0.5)


DRAFT = MotionRecipe(inner=0, flow_every=0)


NORMAL = MotionRecipe()


FAITHFUL = MotionRecipe(faithful=True, recursion=10, damping=False)
