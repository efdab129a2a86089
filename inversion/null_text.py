"""NULL-text Inversion for Editing Real Images using Guided Diffusion Models (arXiv 2211.09794, section 3.3,
algorithm 1): for each noise level the unconditional embedding with which guided sampling follows the trajectory.

Three methods:

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

import torch
from torch import Tensor

from .embedding_fit import Adam, Cost, Fit, Task, fit_official, predict, predict_with_graph, pull_back
from .null_text_fast import fast
from .null_text_run import (
    OFFICIAL_STEPS,
    InChunks,
    NullText,
    NullTextRecipe,
    NullTextRun,
    OnStep,
    Predictor,
    all_at_once,
)


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
    Raises ValueError where predictions, losses or gradients are not finite.
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
