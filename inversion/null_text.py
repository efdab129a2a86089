"""NULL-text Inversion for Editing Real Images using Guided Diffusion Models (arXiv 2211.09794, section 3.3,
algorithm 1): for each noise level the unconditional embedding with which guided sampling follows the trajectory.

Three ways to find it:

faithful: the official recipe. From the noisiest level down: up to ten Adam steps on the embedding, learning rate
    0.01 (1 - k/100) at step k of 50, starting from the embedding of the level before; stop once the loss falls below
    1e-5 + 2e-5 k; then step down with the result, so that the next level corrects what is left.
global: one embedding for all levels (the paper's ablation), cycled over the levels of the trajectory.
fast: the source prompt's own embedding is already almost right (Negative-prompt Inversion, arXiv 2305.16807), and
    guidance with it is no guidance at all, so that one evaluation gives both predictions. The needed prediction is
    known in closed form (`diffusion.py`), the stop is tested before the backward pass, the number of updates decays as
    ceil(10 exp(-0.1 k)) (StyleDiffusion, arXiv 2303.15649). Where memory allows, levels are first fitted many at a
    time at the trajectory's own latents (teacher forcing) and only corrected on the way down: `null_text_fast.py`.

Differs from the official code: k runs from 0 to 50 for any number of levels; weights get no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from .diffusion import ddim_step, gain, guided, needed_unconditional, require_guidance
from .embedding_fit import Adam, Cost, Fit, Task, fit_official, predict, predict_with_graph, pull_back
from .null_text_fast import fast

Mode = Literal["fast", "faithful", "global"]
MODES: tuple[Mode, ...] = get_args(Mode)
OFFICIAL_STEPS = 50


class Predictor(Protocol):
    """The model contract with two conds bound; pictures (R,) int64 says whose extra conditions go with each row."""

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
    """What the modes share. sigmas (N+1,) rising, latents (N+1, B, C, h, w), both on the device of the work."""

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
        target = needed_unconditional(x, wanted, conditional, sigma, below, self.recipe.cfg)
        budget = self.budget(levels) if budget is None else budget
        weight = abs(self.recipe.cfg - 1) * gain(sigma, below, x, flow=self.flow)
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
        denoised = guided(conditional, unconditional, self.recipe.cfg)
        return ddim_step(x, denoised, float(self.sigmas[i]), float(self.sigmas[i - 1]))

    def tick(self, i: int, shown: Tensor | None = None) -> Callable[[], None]:
        return lambda: self.on_step(self.steps - i, self.steps, shown)


def optimise(
    predictor: Predictor,
    sigmas: Tensor,
    latents: Tensor,
    start: Tensor,
    recipe: NullTextRecipe,
    *,
    flow: bool = False,
    on_step: OnStep = lambda step, total, shown: None,
    in_chunks: InChunks = all_at_once,
) -> NullText:
    """Fit the unconditional embeddings of a trajectory.

    sigmas: (N+1,) rising; latents: (N+1, B, C, h, w), scaled; start: (B, T, D), where the fit begins: the embedding of
    the empty prompt, or in fast mode the source prompt's, whose `unconditional` prediction must be the conditional one.
    in_chunks: how rows that need a backward pass go through the network, where they are too many for it at once.
    Raises ValueError with a sentence where predictions, losses or gradients are not finite.
    """
    latents = latents.to(torch.promote_types(latents.dtype, torch.float32))
    run = NullTextRun(predictor, sigmas.to(latents), latents, recipe, flow, on_step, Cost(), in_chunks)
    start = start.detach().to(latents).clone()
    if start.shape[0] != latents.shape[1]:
        start = start.expand(latents.shape[1], -1, -1).clone()
    if recipe.mode == "fast":
        return _result(run, *fast(run, start))
    return _faithful(run, start) if recipe.mode == "faithful" else _global(run, start)


def _faithful(run: NullTextRun, embedding: Tensor) -> NullText:
    """Algorithm 1, one level after the other, at the latents that sampling itself arrives at."""
    x, kept = run.latents[-1], {}
    for i in range(run.steps, 0, -1):
        level = lambda rows: _faithful_level(run, i, x[rows], embedding[rows], run.pictures[rows])
        parts = run.in_chunks(level, len(x))
        x, kept[i] = torch.cat([below for below, _ in parts]), Fit.joined([fit for _, fit in parts])
        embedding = kept[i].embedding
    return _result(run, kept, x)


def _faithful_level(run: NullTextRun, i: int, x: Tensor, embedding: Tensor, pictures: Tensor) -> tuple[Tensor, Fit]:
    """Some pictures at one level: their next latents, and the fit."""
    everyone, sigma = torch.arange(len(x), device=x.device), run.sigma(i, x)
    conditional = run.conditional(x, sigma, pictures)
    task = run.task(x, torch.full_like(pictures, i), conditional, pictures)
    tick = run.tick(i, conditional)
    fit = fit_official(run.predictor.unconditional, task, embedding, run.recipe.rate(run.k(i)), run.cost, tick)
    # The official step down asks for both predictions anew.
    conditional = run.conditional(x, sigma, pictures)
    unconditional = predict(run.predictor.unconditional, task, fit.embedding, everyone, run.cost)
    return run.down(x, i, conditional, unconditional), fit


def _global(run: NullTextRun, embedding: Tensor) -> NullText:
    """One embedding: an Adam step at each level of the trajectory in turn, `inner_steps` times round."""
    embedding, adam = embedding.clone(), Adam(embedding)
    everyone, history = run.pictures, []
    order = range(run.steps, 0, -1)
    targets = {i: run.conditional(run.latents[i], run.sigma(i, run.latents[i]), everyone).cpu() for i in order}
    losses = torch.zeros(run.steps, len(everyone))
    sweeps = max(1, run.recipe.inner_steps)
    for sweep in range(sweeps):
        for i in order:
            run.on_step(sweep * run.steps + run.steps - i, sweeps * run.steps, targets[i])
            x = run.latents[i]
            task = run.task(x, torch.full_like(everyone, i), targets[i].to(x), everyone)
            of_chunk = lambda rows: _losses_and_gradients(run, task, embedding, everyone[rows])
            found = [torch.cat(parts) for parts in zip(*run.in_chunks(of_chunk, len(everyone)))]
            losses[i - 1] = found[0].cpu()
            history.append((i, float(losses[i - 1, 0])))
            adam.update(embedding, found[1], everyone, run.recipe.rate(OFFICIAL_STEPS * sweep / sweeps))
    if not bool(torch.isfinite(losses).all()):
        raise ValueError("The loss is not a number: run the model in fp32 or bf16 (for example with --force-fp32).")
    embeddings = embedding.cpu().expand(run.steps, *embedding.shape)
    return NullText(embeddings, losses, tuple(history), None, run.cost)


def _losses_and_gradients(run: NullTextRun, task: Task, embedding: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """(len(rows),) losses of some rows, and their gradients by the embedding."""
    prediction, leaf = predict_with_graph(run.predictor.unconditional, task, embedding, rows, run.cost)
    run.cost.backwards += len(rows)
    return task.loss(prediction, rows), pull_back(prediction, leaf, task.prediction_gradient(prediction, rows))


def _result(run: NullTextRun, kept: dict[int, Fit], x: Tensor, forced: dict[int, Fit] | None = None) -> NullText:
    order = range(1, run.steps + 1)
    work = [(i, loss) for fits in (forced or {}, kept) for i, fit in fits.items() for loss in fit.history[0]]
    embeddings = torch.stack([kept[i].embedding.cpu() for i in order])
    return NullText(embeddings, torch.stack([kept[i].loss.cpu() for i in order]), tuple(work), x.cpu(), run.cost)
