"""Proximal guidance as a patch of the host's MODEL."""

from __future__ import annotations

import torch
from torch import Tensor

from ..guidance.proximal import Threshold, changed, proximal
from ..inversion.trajectory import Trajectory
from .compatibility import require_same_kind

TECHNIQUE = "Proximal Guidance"


def with_proximal_guidance(
    model,
    quantile: float,
    kind: Threshold = "hard",
    *,
    trajectory: Trajectory | None = None,
    pull: float = 0.0,
    pull_from: float = 0.6,
    grow: int = 1,
):
    """A clone of the MODEL whose guidance leaves out small differences.

    trajectory, pull: where source and edit agree, the prediction is drawn to the source picture by the fraction `pull`,
    once the run has come past `pull_from` (0..1 of the model's schedule). A quantile of 0 gives the plain clone, also
    without the pull: nothing counts as unchanged then. Raises ValueError where the trajectory is of another kind of
    model.
    """
    if trajectory is not None:
        require_same_kind(trajectory, model, f"The trajectory of {TECHNIQUE}")
    clone = model.clone()
    if quantile <= 0:
        return clone
    patch = _Proximal(quantile, kind, trajectory, pull, grow)
    if trajectory is not None and pull > 0:
        patch.below = float(model.get_model_object("model_sampling").percent_to_sigma(pull_from))
        # After the guidance; where source and edit agree can only be seen before it.
        clone.set_model_sampler_post_cfg_function(patch.after)
    clone.set_model_sampler_pre_cfg_function(patch.before)
    return clone


class _Proximal:
    def __init__(self, quantile: float, kind: Threshold, trajectory: Trajectory | None, pull: float, grow: int):
        self.quantile, self.kind, self.trajectory, self.pull, self.grow = quantile, kind, trajectory, pull, grow
        self.below = 0.0

    def before(self, args: dict) -> list[Tensor]:
        """[conditional, unconditional, ...] -> the same with the first one's small differences gone."""
        out, conds = args["conds_out"], args["conds"]
        if len(out) < 2 or conds[1] is None:
            return out
        return [proximal(out[0], out[1], self.quantile, self.kind), *out[1:]]

    def after(self, args: dict) -> Tensor:
        denoised, sigma = args["denoised"], args["sigma"]
        if args["uncond"] is None or float(sigma[0]) > self.below:
            return denoised
        source = self.trajectory.latents[0].to(denoised)
        if source.shape[1:] != denoised.shape[1:] or source.shape[0] not in (1, denoised.shape[0]):
            raise ValueError(
                f"The trajectory of {TECHNIQUE} is of another size than the sampled latent: connect the one that "
                "was made from the picture that is being edited."
            )
        # The proximal conditional differs from the unconditional one exactly where an edit is.
        free = changed(args["cond_denoised"], args["uncond_denoised"], self.quantile, self.grow)
        return torch.lerp(torch.lerp(denoised, source.expand_as(denoised), self.pull), denoised, free)
