"""The trajectory of frames between key pictures, computed level by level when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..inversion.trajectory import Trajectory
from .latents import morph_latents
from .schedule import Alphas


class MorphedTrajectory:
    """What a `Trajectory` of the N frames would be, as far as a sampler's start asks for it.

    keys: the trajectory of the K key pictures. Its latents are morphed at the asked level alone, since all
    levels would take N times the memory.
    """

    def __init__(self, keys: Trajectory, alphas: Alphas, *, adain: bool = True):
        self.keys, self.alphas, self.adain = keys, alphas, adain
        self.sigmas, self.prediction, self.latent_format = keys.sigmas, keys.prediction, keys.latent_format
        self.flow, self.rows, self.index_of, self.covers = keys.flow, len(alphas), keys.index_of, keys.covers
        # Shape without memory; the values are `at`'s.
        self.latents = torch.empty(len(keys), len(alphas), *keys.latents.shape[2:], device="meta")

    def __len__(self) -> int:
        return len(self.keys)

    def at(self, sigma: float, *, tolerance: float = 1e-3) -> Tensor:
        """(N, C, h, w), the frames' latents at a noise level; raises as `Trajectory.at`."""
        return morph_latents(self.keys.at(sigma, tolerance=tolerance), self.alphas, adain=self.adain)


def joined(trajectories: Sequence[Trajectory]) -> Trajectory:
    """The pictures of several inversions as the rows of one. Raises ValueError where they were not inverted alike."""
    first = trajectories[0]
    if len(trajectories) == 1:
        return first
    for place, other in enumerate(trajectories):
        if other.latents.shape[2:] != first.latents.shape[2:]:
            sizes = " and ".join("x".join(str(n) for n in one.latents.shape[2:]) for one in (first, other))
            raise ValueError(
                f"Inverted picture {place} has another size than the first ({sizes}, channels x height x width): bring "
                "the pictures to one size with Key Pictures before encoding."
            )
        same_levels = other.sigmas.shape == first.sigmas.shape and torch.allclose(other.sigmas, first.sigmas, rtol=1e-3)
        if not same_levels or (other.prediction, other.latent_format) != (first.prediction, first.latent_format):
            raise ValueError(
                f"Inverted picture {place} was inverted with another schedule or another kind of model than the first: "
                "invert all of them with one SIGMAS and one checkpoint."
            )
    latents = torch.cat([one.latents for one in trajectories], dim=1)
    prompts = [one.prompt for one in trajectories if one.prompt is not None]
    prompt = " | ".join(prompts) if len(prompts) == len(trajectories) else None
    # Each may have been inverted with a LoRA of its own.
    models = "+".join(dict.fromkeys(one.fingerprint for one in trajectories))
    return Trajectory(first.sigmas, latents, prompt, first.cfg, models, first.prediction, first.latent_format)
