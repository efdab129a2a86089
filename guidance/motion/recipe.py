"""The numbers of a Motion Guidance run, and the record of what it did."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

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
    """What happened in one run: for the plot and the report. Counts are calls, one for the whole batch; `decodes` and
    `flow_calls` are all calls, with or without gradients."""

    steps: list[StepRecord] = field(default_factory=list)
    model_calls: int = 0
    model_gradients: int = 0
    decodes: int = 0
    decoder_gradients: int = 0
    flow_calls: int = 0
    flow_gradients: int = 0
    damped: int = 0
    not_finite: int = 0  # pulls that were left out, as their gradient was not finite


DRAFT = MotionRecipe(inner=0, flow_every=0)


NORMAL = MotionRecipe()


FAITHFUL = MotionRecipe(faithful=True, recursion=10, damping=False)
