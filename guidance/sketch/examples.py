"""What an edge predictor learns from: pictures as latents with their edges, and the batches that a training draws.

Everything random is a function of the seed and the number of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...inversion.diffusion import noised

EMPTY = -1
"""The prompt's number in a plan that stands for the empty prompt."""
HELD_OUT_LEVELS = 6
# The step whose random numbers split the pictures, and the one from which the noise of the held-out counts down.
SPLIT, HELD_OUT = -999, -1000


@dataclass(frozen=True, eq=False)
class Example:
    """One picture in one orientation. latent: (C, h, w) scaled; target: (K, H, W), closeness (K = 1) or a latent;
    picture: its number, the same for all orientations; prompt: the number of its prompt. content: a digest of all that
    it was made from, by which a training that goes on recognises its pictures."""

    latent: Tensor
    target: Tensor
    picture: int
    prompt: int
    content: str = ""


@dataclass(frozen=True)
class TrainingRecipe:
    """steps, batch (pictures a step), rate (Adam's, falling along a cosine), seed; pixels: the fraction of each
    picture's pixels that a step learns from; held_out: the fraction of pictures that is kept for judging;
    drop: how often the prompt is left out; adapt: only the layers after the first learn (few drawings in a style of
    their own)."""

    steps: int = 1500
    batch: int = 8
    rate: float = 1e-3
    seed: int = 0
    pixels: float = 0.5
    held_out: float = 0.1
    drop: float = 0.5
    adapt: bool = False


@dataclass(frozen=True, eq=False)
class Plan:
    """One batch: which examples, with which prompts (EMPTY for none), where in the range of levels (B,) in 0..1, with
    which noise (B, C, h, w), and at which pixels the network is asked (None: all)."""

    examples: tuple[int, ...]
    prompts: tuple[int, ...]
    level: Tensor
    noise: Tensor
    positions: Tensor | None


class Examples:
    """The examples of one training, parted into those to learn from and those to judge by (indices)."""

    def __init__(self, examples: Sequence[Example], recipe: TrainingRecipe):
        self.all, self.recipe = list(examples), recipe
        self.learning, self.held_out = _split(self.all, recipe)

    def plan(self, step: int) -> Plan:
        """The batch of a step (0, 1, ...); negative steps are batches for the statistics of the features."""
        draw = _generator(self.recipe.seed, step)
        first = self.learning[int(torch.randint(len(self.learning), (1,), generator=draw))]
        # A batch has pictures of one size: that of the first picture drawn.
        fitting = [i for i in self.learning if self.all[i].latent.shape == self.all[first].latent.shape]
        chosen = tuple(fitting[i] for i in torch.randint(len(fitting), (self.recipe.batch,), generator=draw).tolist())
        dropped = (torch.rand(len(chosen), generator=draw) < self.recipe.drop).tolist()
        prompts = tuple(EMPTY if gone else self.all[i].prompt for i, gone in zip(chosen, dropped))
        # Stratified: each batch sees the whole range of levels.
        level = (torch.arange(len(chosen)) + torch.rand(len(chosen), generator=draw)) / len(chosen)
        noise = torch.randn(len(chosen), *self.all[first].latent.shape, generator=draw)
        pixels = noise.shape[-2] * noise.shape[-1]
        count = max(1, round(pixels * self.recipe.pixels))
        positions = None if count >= pixels else torch.randperm(pixels, generator=draw)[:count]
        return Plan(examples=chosen, prompts=prompts, level=level, noise=noise, positions=positions)

    def held_out_plans(self) -> list[Plan]:
        """The fixed batches by which the training is judged: every held-out picture at levels over the whole range."""
        plans = []
        for number, i in enumerate(self.held_out):
            draw = _generator(self.recipe.seed, HELD_OUT - number)
            shape = (HELD_OUT_LEVELS, *self.all[i].latent.shape)
            level = (torch.arange(HELD_OUT_LEVELS) + 0.5) / HELD_OUT_LEVELS
            prompt = EMPTY if self.recipe.drop > 0 and number % 2 else self.all[i].prompt
            noise = torch.randn(shape, generator=draw)
            examples, prompts = (i,) * HELD_OUT_LEVELS, (prompt,) * HELD_OUT_LEVELS
            plans.append(Plan(examples=examples, prompts=prompts, level=level, noise=noise, positions=None))
        return plans

    def noisy(self, plan: Plan, sigma: Tensor) -> Tensor:
        """x = x0 + sigma noise, (B, C, h, w); sigma: (B,)."""
        clean = torch.stack([self.all[i].latent for i in plan.examples])
        return noised(clean, plan.noise, sigma)

    def targets(self, plan: Plan) -> Tensor:
        """(B, K, H, W)."""
        return torch.stack([self.all[i].target for i in plan.examples])

    def mean_target(self) -> Tensor:
        """(K,) over all pictures to learn from."""
        return torch.stack([self.all[i].target.mean((1, 2)) for i in self.learning]).mean(0)

    def pictures(self, indices: Sequence[int]) -> int:
        return len({self.all[i].picture for i in indices})


def _split(examples: Sequence[Example], recipe: TrainingRecipe) -> tuple[list[int], list[int]]:
    """Indices to learn from and to judge by; pictures are held out with all their orientations, judged in the first."""
    pictures = sorted({example.picture for example in examples})
    count = round(len(pictures) * recipe.held_out)
    count = max(1, count) if recipe.held_out > 0 and len(pictures) >= 4 else 0
    order = torch.randperm(len(pictures), generator=_generator(recipe.seed, SPLIT)).tolist()
    held_out = {pictures[i] for i in order[:count]}
    first = {example.picture: i for i, example in reversed(list(enumerate(examples)))}
    return [i for i, e in enumerate(examples) if e.picture not in held_out], sorted(
        first[picture] for picture in held_out
    )


def _generator(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + step + 500_000) % 2**63)
