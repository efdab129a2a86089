"""Training an edge predictor on the host's MODEL: features come from the host's own sampling set-up, a round of batches
at a time, each batch with its own rows of prompts; the forward pass ends behind the last block that is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...guidance.sketch.examples import EMPTY, Examples, Plan
from ...guidance.sketch.predictor import EdgePredictor, PredictorSpec
from ...guidance.sketch.training import Trainer
from ..family import latent_format_name, model_family
from ..gradients import plain
from ..memory import is_out_of_memory
from ..progress import Progress
from ..session import Session, with_denoiser
from ..unet_features import read_features
from .examples import together
from .layers import layout, require_channels, require_edges

ROUND = 25
WHITENING = range(-4, 0)
Use = Callable[[int, Plan, Tensor, list[Tensor]], None]


@dataclass(frozen=True)
class LevelRange:
    """The noise levels between two fractions of a run (the host's percent: 0 = pure noise, 1 = picture)."""

    sampling: object
    start: float
    end: float

    def sigmas(self, fraction: Tensor) -> Tensor:
        """(B,) in 0..1 -> (B,) noise levels, from the noisiest (0) to the cleanest (1), even in the model's time."""
        last = float(self.sampling.timestep(self.sampling.sigma_max))
        time = last * (1 - (self.start + fraction * (self.end - self.start)))
        return self.sampling.sigma(time.clamp(0, last)).float().cpu()

    @property
    def bounds(self) -> tuple[float, float]:
        """(lowest, highest) noise level."""
        high, low = self.sigmas(torch.tensor([0.0, 1.0])).tolist()
        return low, high


def new_spec(model, levels: LevelRange, **choices) -> PredictorSpec:
    """The description of a predictor for `model`; its channels are known once features have been seen."""
    taps = layout(require_edges(model, "Edge Predictor Train"))
    low, high = levels.bounds
    return PredictorSpec(
        family=model_family(model),
        latent_format=latent_format_name(model),
        taps=taps,
        channels=(1,) * len(taps),
        sigma_low=low,
        sigma_high=high,
        **choices,
    )


class EdgeTraining:
    """One training on a MODEL. prompts: CONDITIONINGs by their number; empty: the one for dropped prompts, or None."""

    def __init__(self, model, spec: PredictorSpec, examples: Examples, levels: LevelRange, prompts, empty):
        self.model, self.spec, self.examples, self.levels = model, spec, examples, levels
        self.prompts, self.empty = list(prompts), empty
        self.network = require_edges(model, "Edge Predictor Train")

    def run(
        self, start: EdgePredictor | None = None, *, on_check: Callable[[Trainer], None] = lambda trainer: None
    ) -> Trainer:
        """Trains to the end, or until the held-out loss stops falling. start: where to go on from.

        on_check(trainer): called about twenty times, and at the end, whether or not pictures are held out.
        """
        # Not in inference mode, or backward could keep nothing of what the host computes.
        with torch.inference_mode(False), torch.no_grad():
            return self._run(start, on_check)

    def _run(self, start: EdgePredictor | None, on_check: Callable[[Trainer], None]) -> Trainer:
        trainer = self._new_trainer(start)
        progress = Progress(trainer.recipe.steps)
        held_out = self.examples.held_out_plans()

        def learn(step: int, plan: Plan, sigma: Tensor, features: list[Tensor]) -> None:
            trainer.learn(step, plan, sigma, features)
            progress.step(step)

        while steps := list(trainer.remaining())[:ROUND]:
            # A round ends where the training is looked at.
            pause = next((i for i, step in enumerate(steps) if trainer.pauses(step)), len(steps) - 1)
            steps = steps[: pause + 1]
            self._round({step: self.examples.plan(step) for step in steps}, learn)
            if trainer.due(steps[-1]):
                trainer.judge(steps[-1], self._held_out_loss(trainer, held_out))
            if trainer.pauses(steps[-1]):
                on_check(trainer)
        return trainer

    def _new_trainer(self, start: EdgePredictor | None) -> Trainer:
        batches: dict[int, list[Tensor]] = {}
        self._round({n: self.examples.plan(n) for n in WHITENING}, lambda n, _p, _s, seen: batches.update({n: seen}))
        seen = list(batches.values())
        if start is None:
            spec = replace(self.spec, channels=tuple(feature.shape[1] for feature in seen[0]))
        else:
            require_channels(self.spec, seen[0])
            spec = self.spec
        trainer = Trainer(spec, self.examples, start, seen[0][0].device)
        if trainer.fresh:
            trainer.prepare(seen)
        return trainer

    def _held_out_loss(self, trainer: Trainer, plans: Sequence[Plan]) -> float:
        losses: list[Tensor] = []
        self._round(dict(enumerate(plans)), lambda _n, p, sigma, seen: losses.append(trainer.loss(p, sigma, seen)))
        return float(torch.cat(losses).mean())

    def _round(self, plans: dict[int, Plan], use: Use) -> None:
        """use(number, plan, sigma, features) for each plan, within one set-up of the host."""
        conds = {str(n): together([self._prompt(p) for p in plan.prompts]) for n, plan in plans.items()}
        low, high = self.levels.bounds

        def body(session: Session) -> None:
            for n, plan in plans.items():
                sigma = self.levels.sigmas(plan.level)
                x = self.examples.noisy(plan, sigma).to(session.device)
                ask = lambda: session.denoise(x, sigma.to(session.device), str(n))
                features = read_features(self.network, self.spec.taps, ask, x.shape, "Edge Predictor Train")
                use(n, plan, sigma, [plain(feature) for feature in features])

        largest = max((plan.noise for plan in plans.values()), key=Tensor.numel)
        try:
            with_denoiser(self.model, conds, torch.zeros_like(largest), torch.tensor([high, low]), body)
        except Exception as error:
            if is_out_of_memory(error):
                raise MemoryError(
                    "A batch does not fit into memory: lower the batch size of Edge Predictor Train, or learn from "
                    "smaller pictures."
                ) from error
            raise

    def _prompt(self, number: int) -> list:
        return self.empty if number == EMPTY else self.prompts[number]
