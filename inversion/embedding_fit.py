"""Fitting a text embedding so that the network predicts what it should: the inner loop of Null-text Inversion
(arXiv 2211.09794, algorithm 1, lines 5 to 8), for many rows at once.

A row is one picture at one noise level with an embedding of its own; only the forward pass is one for all rows.
The loss is the squared error of the *next latent*; it is written on the unconditional prediction through the closed
form of `diffusion.py`, with which it agrees exactly: next - wanted = gain (D_u - D_u*).

Differs from the official code: only the embedding gets a gradient, never a weight; the pull-back is scaled by powers
of two, so that a network in half precision loses nothing to underflow and full precision stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .diffusion import append_dims

# x (R, C, h, w), sigma (R,), embedding (R, T, D), pictures (R,) int64: whose extra conditions count -> x0 (R, C, h, w).
Unconditional = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

BETAS, EPSILON = (0.9, 0.999), 1e-8
RETRIES = 3


@dataclass
class Cost:
    """What a fit has cost, in forwards and backwards of one picture through the network."""

    forwards: int = 0
    backwards: int = 0

    @property
    def forward_equivalents(self) -> int:
        """A backward with frozen weights costs about one forward."""
        return self.forwards + self.backwards


@dataclass(frozen=True)
class Task:
    """R rows to fit. x (R, C, h, w) at sigma (R,); target (R, C, h, w) is D_u*; gain (R, 1, 1, 1) weighs its error;
    pictures (R,) int64. A row is done once its loss is below enough (R,) or after budget (R,) updates."""

    x: Tensor
    sigma: Tensor
    target: Tensor
    gain: Tensor
    pictures: Tensor
    enough: Tensor
    budget: Tensor

    def loss(self, prediction: Tensor, rows: Tensor) -> Tensor:
        """(len(rows),) mean squared error of the next latent for the prediction D_u of some rows."""
        return self._error(prediction, rows).square().flatten(1).mean(1)

    def prediction_gradient(self, prediction: Tensor, rows: Tensor) -> Tensor:
        """The loss's derivative by the prediction."""
        return 2 * self._error(prediction, rows) * self.gain[rows] / prediction[0].numel()

    def _error(self, prediction: Tensor, rows: Tensor) -> Tensor:
        return (prediction.detach().to(self.target) - self.target[rows]) * self.gain[rows]


@dataclass
class Fit:
    """embedding (R, T, D); prediction (R, C, h, w), D_u of that embedding, None where it was not asked for again;
    loss (R,); history: for each row its losses in order."""

    embedding: Tensor
    prediction: Tensor | None
    loss: Tensor
    history: list[list[float]] = field(default_factory=list)

    @staticmethod
    def joined(parts: Sequence["Fit"]) -> "Fit":
        """The rows of several in one piece."""
        predictions = [part.prediction for part in parts if part.prediction is not None]
        known = len(predictions) == len(parts)
        return Fit(
            torch.cat([part.embedding for part in parts]),
            torch.cat(predictions) if known else None,
            torch.cat([part.loss for part in parts]),
            [losses for part in parts for losses in part.history],
        )


class Adam:
    """Adam (arXiv 1412.6980, algorithm 1) on the rows of one tensor; rows that are left out keep their state."""

    def __init__(self, like: Tensor):
        self.mean, self.square, self.clock = torch.zeros_like(like), torch.zeros_like(like), 0

    def update(self, value: Tensor, gradient: Tensor, rows: Tensor, rate: Tensor | float) -> None:
        """value (R, ...) is changed in place; gradient and rate belong to `rows` alone."""
        self.clock += 1
        first, second = BETAS
        mean = self.mean[rows] = self.mean[rows].lerp(gradient, 1 - first)
        square = self.square[rows] = second * self.square[rows] + (1 - second) * gradient.square()
        size = square.sqrt() / (1 - second**self.clock) ** 0.5 + EPSILON
        rate = append_dims(rate, gradient.ndim) if isinstance(rate, Tensor) else rate
        value[rows] -= rate / (1 - first**self.clock) * mean / size


def pull_back(prediction: Tensor, embedding: Tensor, prediction_gradient: Tensor) -> Tensor:
    """The gradient by `embedding` (R, T, D) of a loss whose derivative by `prediction` (R, C, h, w) is
    `prediction_gradient`.

    Each row goes back through the network at unit size. Raises ValueError where the result is not finite even so.
    """
    size = prediction_gradient.flatten(1).square().mean(1).sqrt().clamp_min(1e-30)
    scale = torch.exp2(-size.log2().round())
    for attempt in range(RETRIES):
        sent = (prediction_gradient * append_dims(scale, prediction_gradient.ndim)).to(prediction.dtype)
        last = attempt == RETRIES - 1
        gradient = torch.autograd.grad(prediction, embedding, sent, retain_graph=not last)[0].to(embedding)
        if torch.isfinite(gradient).all():
            return gradient / append_dims(scale, gradient.ndim)
        scale = scale * 2.0**-8
    raise ValueError(
        "The gradient of the embedding is not finite: run the model in fp32 or bf16 (for example with --force-fp32), "
        "or use another VAE or LoRA if one of them is broken."
    )


def predict_with_graph(unconditional: Unconditional, task: Task, embedding: Tensor, rows: Tensor, cost: Cost) -> tuple:
    """D_u of some rows and the leaf (len(rows), T, D) that it depends on.

    Raises ValueError where it does not depend on the leaf.
    """
    leaf = embedding[rows].detach().clone().requires_grad_(True)
    cost.forwards += len(rows)
    with torch.enable_grad():
        prediction = unconditional(task.x[rows], task.sigma[rows], leaf, task.pictures[rows])
    if not prediction.requires_grad:
        raise ValueError(
            "No gradient reaches the prompt: a patch on the model evaluates the picture in tiles or windows, or leaves "
            "the prompt out at this noise level; take such patches off the model before NullText Optimize."
        )
    return prediction, leaf


def predict(unconditional: Unconditional, task: Task, embedding: Tensor, rows: Tensor, cost: Cost) -> Tensor:
    """D_u of some rows, without a graph."""
    cost.forwards += len(rows)
    with torch.no_grad():
        return unconditional(task.x[rows], task.sigma[rows], embedding[rows], task.pictures[rows]).to(task.x)


def fit_official(
    unconditional: Unconditional, task: Task, embedding: Tensor, rate: float, cost: Cost, tick: Callable[[], None]
) -> Fit:
    """The official inner loop: update, and only then ask whether the loss *before* the update was small enough.

    So every row gets at least one update. embedding (R, T, D): where to start; tick: called at every iteration.
    """
    embedding, adam = embedding.clone(), Adam(embedding)
    active = torch.arange(len(embedding), device=embedding.device)
    loss = task.x.new_zeros(len(embedding))
    history: list[list[float]] = [[] for _ in range(len(embedding))]
    for j in range(int(task.budget.max())):
        active = active[task.budget[active] > j]
        if len(active) == 0:
            break
        tick()
        prediction, leaf = predict_with_graph(unconditional, task, embedding, active, cost)
        loss[active] = _checked(task.loss(prediction, active), active, history)
        gradient = _gradient(prediction, leaf, task.prediction_gradient(prediction, active), cost)
        # Before the next graph is built.
        del prediction, leaf
        adam.update(embedding, gradient, active, rate)
        active = active[loss[active] >= task.enough[active]]
    return Fit(embedding, None, loss, history)


def fit_tested(
    unconditional: Unconditional,
    task: Task,
    embedding: Tensor,
    rate: Tensor | float,
    cost: Cost,
    tick: Callable[[], None],
    first: list[tuple[Tensor, Tensor | None]] | None = None,
) -> Fit:
    """The fast inner loop: the stop is tested before the backward pass, and the best embedding is kept.

    first: prediction and leaf of the starting embedding, where they are known already; they are taken out of the list,
    so that their graph does not outlive its use. rate: a number or (R,).
    """
    everyone = torch.arange(len(embedding), device=embedding.device)
    embedding, adam, active = embedding.clone(), Adam(embedding), everyone
    nothing = torch.zeros_like(task.x), torch.full_like(task.sigma, torch.inf)
    best = Fit(embedding.clone(), *nothing, [[] for _ in everyone])
    for j in range(int(task.budget.max()) + 1):
        tick()
        last = j >= int(task.budget[active].max())
        if first:
            prediction, leaf = first.pop()
        elif last:
            prediction, leaf = predict(unconditional, task, embedding, active, cost), None
        else:
            prediction, leaf = predict_with_graph(unconditional, task, embedding, active, cost)
        loss = _checked(task.loss(prediction, active), active, best.history)
        _keep_best(best, embedding, prediction, loss, active)
        more = (loss >= task.enough[active]) & (task.budget[active] > j)
        if not bool(more.any()):
            break
        assert leaf is not None, "the last prediction alone has no graph"
        gradient = _gradient(prediction, leaf, task.prediction_gradient(prediction, active), cost)
        # Before the next graph is built.
        del prediction, leaf
        active = active[more]
        adam.update(embedding, gradient[more], active, rate[active] if isinstance(rate, Tensor) else rate)
    return best


def _keep_best(best: Fit, embedding: Tensor, prediction: Tensor, loss: Tensor, rows: Tensor) -> None:
    assert best.prediction is not None
    better = loss < best.loss[rows]
    chosen = rows[better]
    best.loss[chosen] = loss[better]
    best.embedding[chosen] = embedding[chosen]
    best.prediction[chosen] = prediction.detach().to(best.prediction)[better]


def _gradient(prediction: Tensor, leaf: Tensor, prediction_gradient: Tensor, cost: Cost) -> Tensor:
    cost.backwards += len(leaf)
    gradient = pull_back(prediction, leaf, prediction_gradient)
    if bool(prediction_gradient.any()) and not bool(gradient.any()):
        raise ValueError(
            "The gradient of the embedding is zero: the model does not listen to its text, or a patch on it cuts the "
            "gradient; take other patches off the model before NullText Optimize."
        )
    return gradient


def _checked(loss: Tensor, rows: Tensor, history: list[list[float]]) -> Tensor:
    """The losses, noted in the history. Raises ValueError where one is not a number."""
    values = loss.tolist()
    for row, value in zip(rows.tolist(), values):
        history[row].append(value)
    if not torch.isfinite(loss).all():
        raise ValueError(
            "The model's prediction is not a number: run it in fp32 or bf16 (for example with --force-fp32), and "
            "check the trajectory with Inversion Check."
        )
    return loss
