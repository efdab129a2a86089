"""The fast mode of `null_text.py`: one pass down the levels from the source prompt's embedding, or from what teacher
forcing has made of it.

Teacher forcing keeps to the budget. A level with b updates costs 1 + 2b forward-equivalents on the way down alone.
Forced, it costs 1 + 2u for u updates at the trajectory's latent and two predictions more at the latent that the way
down arrives at, so one update of the b pays for those; another is left for what has drifted in between. What comes on
top is the last backward pass of a batch for a row that is done already, one a forced level at most; and where a level
needs less than its budget, the second look at it. Levels with fewer than `LEAST_FORCED` updates have nothing to give
away and are not forced.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .embedding_fit import Fit, Task, fit_tested, predict, predict_with_graph
from .null_text_run import NullTextRun

# Updates of a forced level: one pays for its second visit, one is kept for the way down.
SECOND_VISIT, KEPT = 1, 1
LEAST_FORCED = SECOND_VISIT + KEPT + 1


@dataclass(frozen=True)
class Forced:
    """A level at the trajectory's own latents (B, C, h, w): the fit with its predictions, and the conditional ones."""

    fit: Fit
    conditional: Tensor

    @property
    def spent(self) -> Tensor:
        """(B,) updates so far."""
        return torch.tensor([len(losses) - 1 for losses in self.fit.history], device=self.conditional.device)

    def of(self, rows: slice) -> "Forced":
        fit = self.fit
        prediction = None if fit.prediction is None else fit.prediction[rows]
        part = Fit(fit.embedding[rows], prediction, fit.loss[rows], fit.history[rows])
        return Forced(part, self.conditional[rows])


def fast(run: NullTextRun, source: Tensor) -> tuple[dict[int, Fit], Tensor, dict[int, Fit]]:
    """source: (B, T, D) -> the fit of each level, the latents where the way down ends, and the forced fits."""
    forced = teacher_forced(run, source) if run.recipe.levels_at_once > 1 else {}
    x, kept = run.latents[-1], {}
    for i in range(run.steps, 0, -1):
        known = forced.get(i)
        level = lambda rows: _level(run, i, x[rows], source[rows], run.pictures[rows], known and known.of(rows))
        parts = run.in_chunks(level, len(x))
        x, kept[i] = torch.cat([below for below, _ in parts]), Fit.joined([fit for _, fit in parts])
    return kept, x, {i: known.fit for i, known in forced.items()}


def _level(
    run: NullTextRun, i: int, x: Tensor, source: Tensor, pictures: Tensor, known: Forced | None
) -> tuple[Tensor, Fit]:
    """Some pictures at one level of the way down: their next latents, and the fit."""
    levels = torch.full_like(pictures, i)
    left, begin = run.budget(levels), source
    if known is not None:
        left, begin = (left - SECOND_VISIT - known.spent).clamp_min(0), known.fit.embedding
        done = (known.fit.loss < run.recipe.enough) | (left == 0)
        if bool(done.all()) and torch.equal(x, run.latents[i, pictures]):
            return _below(run, x, i, known.conditional, known.fit), known.fit
    first: list[tuple[Tensor, Tensor | None]] = []
    sigma = run.sigma(i, x)
    if torch.equal(begin, source):
        first, conditional = _both(run, x, sigma, source, pictures, graph=bool((left > 0).any()))
    else:
        conditional = run.conditional(x, sigma, pictures)
    task, rate = run.task(x, levels, conditional, pictures, left), run.recipe.rate(run.k(i))
    tick = run.tick(i, conditional)
    fit = fit_tested(run.predictor.unconditional, task, begin, rate, run.cost, tick, first)
    return _below(run, x, i, conditional, fit), fit


def _below(run: NullTextRun, x: Tensor, i: int, conditional: Tensor, fit: Fit) -> Tensor:
    """The next latents of a fit, whose prediction is known: `fit_tested` keeps the best one's."""
    assert fit.prediction is not None
    return run.down(x, i, conditional, fit.prediction)


def _both(
    run: NullTextRun, x: Tensor, sigma: Tensor, source: Tensor, pictures: Tensor, *, graph: bool
) -> tuple[list, Tensor]:
    """[(prediction, leaf)], and the same prediction without its graph: with the source prompt's embedding the
    unconditional prediction is the conditional one."""
    everyone = torch.arange(len(x), device=x.device)
    bare = Task(x, sigma, x, x, pictures, sigma, everyone)
    ask = run.predictor.unconditional
    if graph:
        first = predict_with_graph(ask, bare, source, everyone, run.cost)
    else:
        first = predict(ask, bare, source, everyone, run.cost), None
    return [first], first[0].detach().to(x)


def teacher_forced(run: NullTextRun, source: Tensor) -> dict[int, Forced]:
    """Levels at the trajectory's own latents: they no longer wait for each other, and go in batches."""
    budgets = run.budget(torch.arange(run.steps + 1, device=run.latents.device)).tolist()
    chosen = [i for i in range(run.steps, 0, -1) if budgets[i] >= LEAST_FORCED]
    rows = [(i, b) for i in chosen for b in run.pictures.tolist()]
    found: list[Forced] = []
    size = run.recipe.levels_at_once * len(run.pictures)
    for begin in range(0, len(rows), size):
        levels, pictures = torch.tensor(rows[begin : begin + size], device=run.latents.device).T
        batch = lambda part: _forced(run, source, levels[part], pictures[part])
        found += run.in_chunks(batch, len(levels))
    if not found:
        return {}
    every = Forced(Fit.joined([one.fit for one in found]), torch.cat([one.conditional for one in found]))
    count = len(run.pictures)
    return {i: every.of(slice(n * count, (n + 1) * count)) for n, i in enumerate(chosen)}


def _forced(run: NullTextRun, source: Tensor, levels: Tensor, pictures: Tensor) -> Forced:
    """Some rows of it: levels, pictures (R,) int64."""
    x, sigma = run.latents[levels, pictures], run.sigmas[levels]
    first, conditional = _both(run, x, sigma, source[pictures], pictures, graph=True)
    budget = (run.budget(levels) - SECOND_VISIT - KEPT).clamp_min(0)
    task = run.task(x, levels, conditional, pictures, budget)
    rate = x.new_tensor([run.recipe.rate(run.k(i)) for i in levels.tolist()])
    tick = run.tick(run.steps)
    fit = fit_tested(run.predictor.unconditional, task, source[pictures], rate, run.cost, tick, first)
    return Forced(fit, conditional)
