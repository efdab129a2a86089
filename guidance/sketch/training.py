"""Training an edge predictor (arXiv 2211.13752, section 3.1) from few pictures: the UNet is frozen and only asked for
features, so that a step costs one truncated forward pass and a small MLP.

Differs from the paper: few pictures are enough, as each pixel is an example. So the training is judged on held-out
pictures, stops when they no longer improve, and keeps the best weights. Noise levels are drawn evenly over the guided
range. The prompt is dropped half of the time, so that the predictor fits both halves of classifier-free guidance.

A training that was interrupted and goes on from its state ends in the same weights as one that was not.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .examples import Examples, Plan
from .predictor import EdgeNetwork, EdgePredictor, PredictorSpec, frozen, new_network, uncells

WARM_UP = 20
LAST_RATE = 0.05
WEIGHT_DECAY = 0.01
CHECKS = 20
PATIENCE = 5
BETTER = 0.998
"""The held-out loss must fall below this fraction of the best one for the patience to be renewed."""


class Trainer:
    """The state of one training, for a loop that gets the features from the UNet:

    for step in trainer.remaining():
        plan = examples.plan(step)
        trainer.learn(step, plan, sigma, features)
        if trainer.due(step):
            trainer.judge(step, mean held-out loss)
    """

    def __init__(
        self,
        spec: PredictorSpec,
        examples: Examples,
        start: EdgePredictor | None = None,
        device: torch.device | str = "cpu",
    ):
        """start: a predictor to go on from; with a `state` of the same training, exactly where that stopped."""
        self.spec, self.examples, self.recipe = spec, examples, examples.recipe
        with torch.inference_mode(False):
            self.network = new_network(spec, self.recipe.seed).to(device)
        self.fresh = start is None
        if start is not None:
            self.network.load_state_dict(start.network.state_dict())
        self.weights = _learning_weights(self.network, self.recipe.adapt)
        self.network.requires_grad_(False)
        for weight in self.weights:
            weight.requires_grad_(True)
        self.optimiser = torch.optim.AdamW(self.weights, self.recipe.rate, weight_decay=WEIGHT_DECAY)
        self.step, self.waited, self.best = 0, 0, math.inf
        self.losses: list[float] = []
        self.judged: list[tuple[int, float]] = []
        self.best_weights: dict[str, Tensor] | None = None
        if start is not None and start.state is not None:
            self._restore(start.state)

    def prepare(self, batches: Sequence[Sequence[Tensor]]) -> None:
        """Whiten the features by the statistics of a few batches, and begin at the mean target; new networks only."""
        mean, std = [], []
        for parts in zip(*batches):
            values = torch.cat([rearrange(part.float(), "b c h w -> (b h w) c") for part in parts])
            mean.append(values.mean(0))
            std.append(values.std(0))
        self.network.whiten(mean, std)
        with torch.no_grad():
            target = self.examples.mean_target()
            middle = torch.logit(target, 1e-4) if self.spec.target == "edges" else target
            last = self.network.rest[-1]
            assert isinstance(last, torch.nn.Linear)
            last.bias.copy_(middle.expand(self.spec.outputs))
        self.fresh = False

    def remaining(self) -> range:
        """The steps still to be made."""
        return range(0) if self.finished else range(self.step, self.recipe.steps)

    @property
    def finished(self) -> bool:
        return self.step >= self.recipe.steps or self.waited >= PATIENCE

    def loss(self, plan: Plan, sigma: Tensor, features: Sequence[Tensor]) -> Tensor:
        """(B,): the mean over pixels of the squared error summed over channels (latents, the paper's) or of the
        cross-entropy (edges). features: of `examples.noisy(plan, sigma)`."""
        device = self.weights[0].device
        target = self.examples.targets(plan).to(device)
        if self.spec.target == "edges":
            target = uncells(target, self.spec.detail)
        target = rearrange(target, "b k h w -> b (h w) k")
        positions = torch.arange(target.shape[1]) if plan.positions is None else plan.positions
        positions = positions.to(device)
        out = self.network(features, sigma.to(device), tuple(plan.noise.shape[-2:]), positions)
        target = target[:, positions]
        if self.spec.target == "latent":
            return (out - target).square().sum(2).mean(1)
        return F.binary_cross_entropy_with_logits(out, target, reduction="none").mean((1, 2))

    def learn(self, step: int, plan: Plan, sigma: Tensor, features: Sequence[Tensor]) -> float:
        """One step of Adam. Raises ValueError where the loss is not a number."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate * _rate(step, self.recipe.steps)
        with torch.inference_mode(False), torch.enable_grad():
            loss = self.loss(plan, sigma, features).mean()
            value = float(loss.detach())
            if not math.isfinite(value):
                raise ValueError(
                    f"The loss at step {step + 1} is not a number: lower the learning rate, or run the model in full "
                    "precision (start ComfyUI with --force-fp32)."
                )
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
        self.losses.append(value)
        self.step = step + 1
        return value

    def pauses(self, step: int) -> bool:
        """Whether the training is judged and saved after this step: about CHECKS times, and at the end."""
        every = max(10, self.recipe.steps // CHECKS)
        return (step + 1) % every == 0 or step + 1 == self.recipe.steps

    def due(self, step: int) -> bool:
        """Whether the held-out loss is to be computed after this step."""
        return bool(self.examples.held_out) and self.pauses(step)

    def judge(self, step: int, loss: float) -> None:
        """Note the mean held-out loss after a step, and keep the weights if they are the best so far."""
        self.judged.append((step + 1, loss))
        self.waited = 0 if loss < self.best * BETTER else self.waited + 1
        if loss < self.best:
            self.best = loss
            self.best_weights = {name: value.clone() for name, value in self.network.state_dict().items()}

    def predictor(self, *, unfinished: bool = False) -> EdgePredictor:
        """What was learned: the best weights by the held-out loss (the last, where nothing was held out), on the CPU.

        unfinished: the last weights, with all that is needed to go on.
        """
        weights = self.network.state_dict() if unfinished or self.best_weights is None else self.best_weights
        with torch.inference_mode(False):
            network = EdgeNetwork(self.spec.channels, self.spec.outputs, self.spec.widths)
            network.load_state_dict({name: value.cpu() for name, value in weights.items()})
        state = self._state() if unfinished else None
        return EdgePredictor(self.spec.with_facts(**self._facts()), frozen(network), state)

    def _facts(self) -> dict[str, float | int | None]:
        recent = self.losses[-50:]
        return {
            "steps": self.step,
            "batch": self.recipe.batch,
            "learning_rate": self.recipe.rate,
            "prompts_dropped": self.recipe.drop,
            "seed": self.recipe.seed,
            "pictures": self.examples.pictures(range(len(self.examples.all))),
            "held_out_pictures": self.examples.pictures(self.examples.held_out),
            "held_out_loss": self.best if math.isfinite(self.best) else None,
            "final_loss": sum(recent) / len(recent) if recent else None,
        }

    # Going on after an interruption

    def _state(self) -> dict[str, Tensor]:
        state = {
            "step": torch.tensor(self.step),
            "waited": torch.tensor(self.waited),
            "identity": self._identity(),
            "best": torch.tensor(self.best, dtype=torch.float64),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "judged": torch.tensor(self.judged, dtype=torch.float64).reshape(-1, 2),
        }
        for number, weight in enumerate(self.weights):
            for name, value in self.optimiser.state.get(weight, {}).items():
                state[f"optimiser.{number}.{name}"] = torch.as_tensor(value).detach().cpu().clone()
        for name, value in (self.best_weights or {}).items():
            state[f"best_weights.{name}"] = value.detach().cpu().clone()
        return state

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        if not torch.equal(state["identity"], self._identity()):
            return  # other pictures or another recipe: the weights serve as a start, the counters do not
        device = self.weights[0].device
        self.step, self.waited = int(state["step"]), int(state["waited"])
        self.best, self.losses = float(state["best"]), state["losses"].tolist()
        self.judged = [(int(step), loss) for step, loss in state["judged"].tolist()]
        self.best_weights = _below(state, "best_weights.", device) or None
        with torch.inference_mode(False):
            for number, weight in enumerate(self.weights):
                moments = _below(state, f"optimiser.{number}.", device)
                if moments:
                    self.optimiser.state[weight] = {**moments, "step": moments["step"].cpu()}

    def _identity(self) -> Tensor:
        """What must be the same for a training to go on where it stopped."""
        r = self.recipe
        counts = [len(self.examples.all), len(self.examples.learning), r.steps, r.batch, r.seed % 2**31, int(r.adapt)]
        numbers = counts + [round(1e6 * value) for value in (r.rate, r.pixels, r.drop)]
        contents = hashlib.sha256(" ".join([self.spec.target, *(one.content for one in self.examples.all)]).encode())
        return torch.tensor([*numbers, *contents.digest()])


def _below(state: Mapping[str, Tensor], prefix: str, device: torch.device) -> dict[str, Tensor]:
    """The entries under a prefix, copied to a device."""
    return {name[len(prefix) :]: v.clone().to(device) for name, v in state.items() if name.startswith(prefix)}


def _learning_weights(network: EdgeNetwork, adapt: bool) -> list[torch.nn.Parameter]:
    later = [*network.rest.parameters(), *network.norms.parameters()]
    return later if adapt else [*network.first, *network.level.parameters(), *later]


def _rate(step: int, steps: int) -> float:
    """The fraction of the learning rate: a short warm-up, then a cosine down to LAST_RATE."""
    warm = min(1.0, (step + 1) / WARM_UP)
    return warm * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * step / max(1, steps))))
