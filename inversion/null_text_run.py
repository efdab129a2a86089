"""What all modes of null-text inversion use: the recipe, the model they ask, the state of a run, the result."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from .diffusion import ddim_step, gain, guided, needed_denoised, needed_unconditional, require_guidance
from .embedding_fit import Cost, Task

Mode = Literal["fast", "faithful", "global"]
MODES: tuple[Mode, ...] = get_args(Mode)
OFFICIAL_STEPS = 50


class Predictor(Protocol):
    """The model contract with two conds bound; pictures (R,) int64 says whose extra conditions go with each row.

    guided: whether `unconditional` gives the guided prediction as the sampler gets it, patches included. Then the fit
    aims at the prediction that the step needs, and not at the unconditional one that plain guidance needs.
    """

    guided: bool

    def conditional(self, x: Tensor, sigma: Tensor, pictures: Tensor) -> Tensor:
        """x (R, C, h, w), sigma (R,) -> x0 (R, C, h, w) for the source prompt; no gradient is asked for."""

    def unconditional(self, x: Tensor, sigma: Tensor, embedding: Tensor, pictures: Tensor) -> Tensor:
        """The same for a given embedding (R, T, D), differentiable by it."""


@dataclass(frozen=True)
class NullTextRecipe:
    """mode: see above. cfg: guidance of the sampling to come, anything but 1. inner_steps: most updates a level (fast:
    of the first level; global: sweeps over the levels). learning_rate: Adam's, of the first level. enough: fast mode's
    stop, the mean squared error of the next latent of unit size. levels_at_once: fast mode's teacher forcing, 1 = none.
    """

    cfg: float = 7.5
    mode: Mode = "fast"
    inner_steps: int = 10
    learning_rate: float = 0.01
    enough: float = 2e-4
    levels_at_once: int = 1

    def __post_init__(self) -> None:
        require_guidance(self.cfg)
        if self.mode not in MODES:
            raise ValueError(f"The mode '{self.mode}' is unknown: choose one of {', '.join(MODES)}.")
        if not (math.isfinite(self.cfg) and self.learning_rate > 0 and self.enough >= 0):
            raise ValueError("CFG and learning rate must be numbers above zero.")

    def progress(self, k: int, levels: int) -> float:
        """Step k (0 the noisiest) of `levels` on the official scale of 50."""
        return k * OFFICIAL_STEPS / levels

    def rate(self, k: float) -> float:
        return self.learning_rate * (1 - k / 100)

    def official_enough(self, k: float) -> float:
        return 1e-5 + 2e-5 * k

    def budget(self, k: float) -> int:
        return math.ceil(self.inner_steps * math.exp(-0.1 * k)) if self.inner_steps > 0 else 0


@dataclass(frozen=True, eq=False)
class NullText:
    """embeddings: (N, B, T, D), [i] for the network's evaluation at sigmas[i + 1] of the trajectory.
    losses: (N, B), the error of the next latent with the embedding kept. history: every loss in the order of the work,
    as (level, loss of the first picture). latents: (B, C, h, w), where guided sampling arrives; None in global mode."""

    embeddings: Tensor
    losses: Tensor
    history: tuple[tuple[int, float], ...]
    latents: Tensor | None
    cost: Cost


# Called with the step (from 0), the number of steps and a prediction to show; raises where the user interrupts.
OnStep = Callable[[int, int, Tensor | None], None]
# Calls a function with slices of so many rows, one after the other, and returns what it returned; how many rows go
# together is its own business, and changes nothing but the memory that is needed.
InChunks = Callable[[Callable[[slice], Any], int], list]


def all_at_once(fn: Callable[[slice], Any], rows: int) -> list:
    """The simplest of them."""
    return [fn(slice(0, rows))]


@dataclass
class NullTextRun:
    """What all modes keep. sigmas (N+1,) rising, latents (N+1, B, C, h, w), both on the device of the work."""

    predictor: Predictor
    sigmas: Tensor
    latents: Tensor
    recipe: NullTextRecipe
    flow: bool
    on_step: OnStep
    cost: Cost
    in_chunks: InChunks = all_at_once

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def pictures(self) -> Tensor:
        return torch.arange(self.latents.shape[1], device=self.latents.device)

    def sigma(self, i: int, like: Tensor) -> Tensor:
        return self.sigmas[i].expand(like.shape[0])

    def conditional(self, x: Tensor, sigma: Tensor, pictures: Tensor) -> Tensor:
        self.cost.forwards += len(x)
        with torch.no_grad():
            return self.predictor.conditional(x, sigma, pictures).to(x)

    def task(
        self, x: Tensor, levels: Tensor, conditional: Tensor, pictures: Tensor, budget: Tensor | None = None
    ) -> Task:
        """Rows x (R, C, h, w) at the levels (R,) int64, whose next latents are to be the trajectory's.

        budget: (R,) updates; None: what the recipe allows a level.
        """
        sigma, below = self.sigmas[levels], self.sigmas[levels - 1]
        wanted = self.latents[levels - 1, pictures]
        budget = self.budget(levels) if budget is None else budget
        weight = torch.as_tensor(gain(sigma, below, x, flow=self.flow))
        if self.predictor.guided:
            target = needed_denoised(x, wanted, sigma, below)
        else:
            target = needed_unconditional(x, wanted, conditional, sigma, below, self.recipe.cfg)
            weight = abs(self.recipe.cfg - 1) * weight
        return Task(x, sigma, target, weight, pictures, x.new_tensor(self.enough(levels)), budget)

    def k(self, level: int) -> float:
        return self.recipe.progress(self.steps - level, self.steps)

    def enough(self, levels: Tensor) -> list[float]:
        """The loss at which each of the levels is done."""
        official = self.recipe.mode == "faithful"
        return [self.recipe.official_enough(self.k(i)) if official else self.recipe.enough for i in levels.tolist()]

    def budget(self, levels: Tensor) -> Tensor:
        """(R,) int64, the most updates of each of the levels."""
        decays = self.recipe.mode != "faithful"
        most = [self.recipe.budget(self.k(i)) if decays else self.recipe.inner_steps for i in levels.tolist()]
        return torch.tensor(most, device=self.latents.device)

    def down(self, x: Tensor, i: int, conditional: Tensor, unconditional: Tensor) -> Tensor:
        plain = not self.predictor.guided
        denoised = guided(conditional, unconditional, self.recipe.cfg) if plain else unconditional
        return ddim_step(x, denoised, float(self.sigmas[i]), float(self.sigmas[i - 1]))

    def tick(self, i: int, shown: Tensor | None = None) -> Callable[[], None]:
        return lambda: self.on_step(self.steps - i, self.steps, shown)
