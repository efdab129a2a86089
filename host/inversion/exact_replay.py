"""Exact replay as a patch of the host's MODEL: every model call of a run is made where the inversion made its own."""

from __future__ import annotations

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...inversion.exact_replay import evaluated_at, replayed
from ...inversion.trajectory import Trajectory
from ..sampler_traits import replay_kind, sampler_name

KEY = "palimpsest_exact_replay"


def replayed_exactly(model, trajectory: Trajectory):
    """A clone of the MODEL that Euler's steps at the trajectory's own levels bring back along the trajectory.

    Add it behind the anchors of a MODEL: what they put in place is shifted too. Raises ValueError for a trajectory
    that does not say how it was made, and for a MODEL that replays another one already.
    """
    evaluated_at(trajectory, 1)  # raises where the trajectory does not say how it was made
    if model.get_attachment(KEY):
        raise ValueError("Two Trajectory Anchors replay exactly: switch 'exact_replay' off on one of them.")
    clone = model.clone()
    clone.set_attachments(KEY, True)
    replay = Replay(trajectory)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, replay.outer_sample)
    clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, replay.predict_noise)
    return clone


class Replay:
    """The two places of a sampling run where exact replay acts. Keeps nothing between calls."""

    def __init__(self, trajectory: Trajectory):
        self.trajectory = trajectory

    def outer_sample(self, executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        """Before anything is loaded: can this run be an exact one?"""
        self._check(latent_image.shape[0], sampler, sigmas)
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)

    def predict_noise(self, executor, x: Tensor, timestep: Tensor, model_options={}, seed=None):
        """Each model call, at the inversion's own latent and level."""
        sigma = float(timestep.flatten()[0])
        index = self.trajectory.index_of(sigma)
        if not index:  # nor at the clean end, to which no step of the inversion leads
            raise ValueError(
                f"The sampler asks the model at noise level {sigma:.4g}, where the inversion did not: choose 'euler' "
                "or 'ddim', or switch 'exact_replay' of Trajectory Anchor off."
            )
        own = float(self.trajectory.sigmas[index])

        def denoise(at: Tensor, level: float) -> Tensor:
            return executor(at, timestep if level == own else torch.full_like(timestep, level), model_options, seed)

        return replayed(denoise, x, self.trajectory, index)

    def _check(self, batch: int, sampler, sigmas: Tensor) -> None:
        if replay_kind(sampler) != "exact":
            raise ValueError(
                f"The sampler '{sampler_name(sampler)}' cannot replay exactly: choose 'euler' or 'ddim', or switch "
                "'exact_replay' of Trajectory Anchor off."
            )
        if not self.trajectory.covers(sigmas):
            raise ValueError(
                "The schedule visits other noise levels than the inversion did: connect the SIGMAS that DDIM Invert "
                "was given, or switch 'exact_replay' of Trajectory Anchor off."
            )
        if self.trajectory.rows not in (1, batch):
            raise ValueError(
                f"The trajectory holds {self.trajectory.rows} pictures, but {batch} are sampled: with 'exact_replay' "
                "invert one picture, or as many as are sampled."
            )
