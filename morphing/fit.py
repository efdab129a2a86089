"""One LoRA a key picture, all fitted at once: DiffMorpher (arXiv 2312.07409), section 4.1, eq. 3.

Each picture is overfitted: a low-rank branch beside the frozen attention projections is trained to denoise that
one picture under its own prompt. K pictures are the rows of one batch through one frozen network, each row with a
branch of its own. No row depends on the others, so the batch gives what K single fits give. All start from one draw of
A (B is zero) and see the same noise and noise levels, as in the official code. So the factors of two LoRAs stay alike,
which its factor mixing needs.

Differs from the paper: no fresh sample of the autoencoder's posterior a step (the host's VAEs give its mean); options
beyond the paper are a falling learning rate, several noise levels a step, and a validation on fixed noise, by which a
picture that learns no more comes to rest at its best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from ..inversion.diffusion import error_weight, noised
from .lora import LowRank

# The model contract with its cond bound and the branches in place: x (K * m, C, h, w), sigma (K * m,) -> x0.
Denoise = Callable[[Tensor, Tensor], Tensor]
# After each step: its number (from 0), the loss of each picture (K,), and a prediction of the pictures for the preview.
OnStep = Callable[[int, Tensor, Tensor | None], None]


@dataclass(frozen=True)
class LoraRecipe:
    """rank, steps, learning_rate, weight_decay: the paper's and official code's, AdamW.

    decay: the learning rate falls evenly, to 1 / steps of itself at the last step; off as in the paper, it stays.
    samples: noise levels of each picture a step (1 in the paper). A check, every `check_every` steps (0: none), is the
    mean loss over `checks` fixed noises and levels; patience: checks without a gain (a loss lower by the fraction
    `gain`) after which a picture stops at its best; 0 for never. seed: of the start, the noise and the levels.
    """

    rank: int = 16
    steps: int = 200
    learning_rate: float = 2e-4
    weight_decay: float = 1e-2
    decay: bool = False
    samples: int = 1
    patience: int = 0
    check_every: int = 20
    checks: int = 4
    gain: float = 0.01
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Fitted:
    """layers: each picture's change of each layer. losses: (steps, K). checks: step -> (K,) validation losses."""

    layers: list[dict[str, LowRank]]
    losses: Tensor
    checks: dict[int, Tensor]


class Branches:
    """K low-rank branches a layer, trainable, float32.

    shapes: layer -> (out, in). A ~ N(0, 1 / r^2), the same for all pictures; B = 0.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]], pictures: int, recipe: LoraRecipe, device: torch.device):
        generator = torch.Generator().manual_seed(recipe.seed)
        self.pictures, rank = pictures, recipe.rank
        self.down, self.up = {}, {}
        for name, (out, into) in sorted(shapes.items()):
            start = torch.randn(rank, into, generator=generator) / rank
            self.down[name] = repeat(start, "r i -> k r i", k=pictures).to(device).contiguous().requires_grad_(True)
            self.up[name] = torch.zeros(pictures, out, rank, device=device, requires_grad=True)

    def add(self, name: str, x: Tensor, output: Tensor) -> Tensor:
        """The layer's output (K * m, ..., out) with each picture's branch of its input x (K * m, ..., in) added."""
        flat = rearrange(x, "(k m) ... i -> k (m ...) i", k=self.pictures)
        down, up = self.down[name].to(x.dtype), self.up[name].to(x.dtype)
        delta = torch.bmm(torch.bmm(flat, down.mT), up.mT)
        return output + delta.reshape(output.shape).to(output.dtype)

    def parameters(self) -> Iterator[Tensor]:
        yield from self.down.values()
        yield from self.up.values()

    def state(self, picture: int) -> list[Tensor]:
        return [parameter.detach()[picture].clone() for parameter in self.parameters()]

    @torch.no_grad()
    def restore(self, picture: int, state: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters(), state):
            parameter[picture] = value

    def layers(self, picture: int) -> dict[str, LowRank]:
        """One picture's changes, on the CPU."""
        part = lambda tensor: tensor.detach()[picture].cpu().clone()
        return {name: LowRank(part(self.down[name]), part(self.up[name])) for name in self.down}


def fit(
    denoise: Denoise,
    latents: Tensor,
    branches: Branches,
    levels: Tensor,
    prediction: str,
    recipe: LoraRecipe,
    *,
    on_step: OnStep = lambda step, losses, x0: None,
    half: bool = False,
) -> Fitted:
    """Trains `branches` on `latents` (K, C, h, w), scaled; returns each picture's LoRA and how the loss fell.

    levels: (T,) all noise levels of the model, drawn from evenly. prediction: what the network predicts, `eps`, `v` or
    `flow`: the loss is the mean squared error of that. half: the model computes in float16, where small gradients
    would vanish without scaling. Raises ValueError where the loss is no number.
    """
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    optimizer = torch.optim.AdamW(
        list(branches.parameters()), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    scaler = _Scaler(2.0**12 if half else 1.0)
    resting = _Resting(branches, recipe)
    examine = _Examination(latents, levels, prediction, recipe)
    history, x0 = [], None
    for step in range(recipe.steps):
        if recipe.check_every and step % recipe.check_every == 0:
            losses, x0 = examine(denoise)
            if resting.note(step, losses):
                break
        if recipe.decay:
            optimizer.param_groups[0]["lr"] = recipe.learning_rate * (1.0 - step / recipe.steps)
        x, _, sigma = _draw(latents, levels, prediction, recipe.samples, generator)
        losses = _losses(denoise(x, sigma), latents, sigma, prediction)
        scaler.step(losses.sum(), optimizer, branches)
        resting.hold()
        history.append(losses.detach().cpu())
        on_step(step, history[-1], x0)
    if recipe.check_every and not resting.finished():
        resting.note(len(history), examine(denoise)[0])
    if recipe.patience:
        resting.restore_best()
    layers = [branches.layers(picture) for picture in range(branches.pictures)]
    return Fitted(layers, torch.stack(history), resting.checks)


def _draw(latents: Tensor, levels: Tensor, prediction: str, samples: int, generator: torch.Generator):
    """Noise and levels, the same for every picture; of several levels one from each stretch of the schedule."""
    place = (torch.arange(samples) + torch.rand(samples, generator=generator)) / samples
    sigma = levels[(place * len(levels)).long().clamp(max=len(levels) - 1).to(levels.device)]
    noise = torch.randn(samples, *latents.shape[1:], generator=generator).to(latents)
    return _rows(latents, noise, sigma, prediction)


def _rows(latents: Tensor, noise: Tensor, sigma: Tensor, prediction: str) -> tuple[Tensor, Tensor, Tensor]:
    """x, noise and sigma of all rows, picture after picture."""
    count, samples = len(latents), len(noise)
    sigma = repeat(sigma, "m -> (k m)", k=count)
    noise = repeat(noise, "m ... -> (k m) ...", k=count)
    x = noised(repeat(latents, "k ... -> (k m) ...", m=samples), noise, sigma, flow=prediction == "flow")
    return x, noise, sigma


def _losses(x0: Tensor, latents: Tensor, sigma: Tensor, prediction: str) -> Tensor:
    """(K,), the mean squared error of each picture."""
    target = repeat(latents, "k ... -> (k m) ...", m=len(x0) // len(latents))
    error = reduce((x0.float() - target) ** 2, "b ... -> b", "mean") * error_weight(sigma, prediction)
    losses = reduce(error, "(k m) -> k", "mean", k=len(latents))
    if not bool(torch.isfinite(losses).all()):
        raise ValueError("The loss of LoRA Fit is not a number any more: lower its learning rate.")
    return losses


class _Examination:
    """The validation loss: fixed noises, and fixed levels spread over the schedule."""

    def __init__(self, latents: Tensor, levels: Tensor, prediction: str, recipe: LoraRecipe):
        generator = torch.Generator().manual_seed(recipe.seed + 2)
        self.latents, self.prediction = latents, prediction
        batches = -(-recipe.checks // recipe.samples)
        total = batches * recipe.samples
        places = ((torch.arange(total) + 0.5) / total * len(levels)).long()
        # Each batch has levels from all over the schedule; the first one of the first is shown as the preview.
        self.sigmas = rearrange(levels[places.to(levels.device)], "(m b) -> b m", b=batches)
        self.noises = torch.randn(batches, recipe.samples, *latents.shape[1:], generator=generator).to(latents)

    @torch.no_grad()
    def __call__(self, denoise: Denoise) -> tuple[Tensor, Tensor]:
        """The losses (K,), and the pictures (K, C, h, w) as the model sees them through the least noise."""
        total, shown = self.latents.new_zeros(len(self.latents)), self.latents
        for batch, (sigmas, noise) in enumerate(zip(self.sigmas, self.noises)):
            x, _, sigma = _rows(self.latents, noise, sigmas, self.prediction)
            x0 = denoise(x, sigma)
            total = total + _losses(x0, self.latents, sigma, self.prediction)
            shown = shown if batch else x0[:: len(noise)]
        return (total / len(self.sigmas)).cpu(), shown


class _Resting:
    """Which pictures have learned what they will, and each one's best."""

    def __init__(self, branches: Branches, recipe: LoraRecipe):
        self.branches, self.recipe = branches, recipe
        self.checks: dict[int, Tensor] = {}
        self._best: list[tuple[float, list[Tensor]] | None] = [None] * branches.pictures
        self._idle = [0] * branches.pictures

    def note(self, step: int, losses: Tensor) -> bool:
        """Takes down a check; whether all pictures rest from now on."""
        self.checks[step] = losses
        for picture, loss in enumerate(losses.tolist()):
            best = self._best[picture]
            if self._rests(picture):
                continue
            gained = best is None or loss < best[0] * (1.0 - self.recipe.gain)
            self._idle[picture] = 0 if gained else self._idle[picture] + 1
            if best is None or loss < best[0]:
                self._best[picture] = (loss, self.branches.state(picture))
        return self.finished()

    def finished(self) -> bool:
        return all(self._rests(picture) for picture in range(self.branches.pictures))

    def hold(self) -> None:
        """After an optimizer's step: pictures at rest stay at their best."""
        for picture, best in enumerate(self._best):
            if best is not None and self._rests(picture):
                self.branches.restore(picture, best[1])

    def restore_best(self) -> None:
        for picture, best in enumerate(self._best):
            if best is not None:
                self.branches.restore(picture, best[1])

    def _rests(self, picture: int) -> bool:
        return bool(self.recipe.patience) and self._idle[picture] >= self.recipe.patience


class _Scaler:
    """Backward and step; in float16 at a scale that is halved, and the step left out, when a gradient overflows."""

    def __init__(self, scale: float):
        self.scale = scale

    def step(self, loss: Tensor, optimizer: torch.optim.Optimizer, branches: Branches) -> None:
        parameters = list(branches.parameters())
        gradients = torch.autograd.grad(loss * self.scale, parameters, allow_unused=True)
        if self.scale > 1.0 and not all(bool(torch.isfinite(one).all()) for one in gradients if one is not None):
            self.scale /= 2.0
            return
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = None if gradient is None else gradient / self.scale
        optimizer.step()
