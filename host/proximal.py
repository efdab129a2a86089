"""Proximal guidance as a patch of the host's MODEL."""

from __future__ import annotations

import torch
from torch import Tensor

from ..guidance.proximal import Form, Threshold, changed, proximal, published, published_mask
from ..inversion.trajectory import Trajectory
from .compatibility import require_same_kind
from .family import prediction

TECHNIQUE = "Proximal Guidance"
LIMIT = "palimpsest_proximal_limit"


def with_proximal_guidance(
    model,
    quantile: float,
    kind: Threshold = "hard",
    *,
    trajectory: Trajectory | None = None,
    pull: float = 0.0,
    pull_from: float = 0.6,
    grow: int = 1,
    form: Form = "palimpsest",
):
    """A clone of the MODEL whose guidance leaves out small differences.

    trajectory, pull: where source and edit agree, the prediction is drawn to the source picture by the fraction `pull`,
    once the run has come past `pull_from` (0..1 of the model's schedule). A quantile of 0 gives the plain clone, also
    without the pull: nothing counts as unchanged then. form: ours, or the published code's, which knows no `kind`.
    Raises ValueError where the trajectory is of another kind of model.
    """
    if trajectory is not None:
        require_same_kind(trajectory, model, f"The trajectory of {TECHNIQUE}")
    clone = model.clone()
    if quantile <= 0 or form == "published none":
        return clone
    if form == "palimpsest":
        patch = _Proximal(quantile, kind, trajectory, pull, grow)
    else:
        patch = _Published(quantile, form, trajectory, pull, grow, prediction(model) == "flow")
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
        source = source_of(self.trajectory, denoised)
        # The proximal conditional differs from the unconditional one exactly where an edit is.
        free = changed(args["cond_denoised"], args["uncond_denoised"], self.quantile, self.grow)
        return torch.lerp(torch.lerp(denoised, source, self.pull), denoised, free)


class _Published:
    """The published code's rule. flow: whether the model is a flow model, whose latents shrink as noise grows."""

    def __init__(self, quantile: float, form: Form, trajectory: Trajectory | None, pull: float, grow: int, flow: bool):
        self.quantile, self.form, self.trajectory, self.pull, self.grow = quantile, form, trajectory, pull, grow
        self.flow, self.below = flow, 0.0

    def before(self, args: dict) -> list[Tensor]:
        out, conds = args["conds_out"], args["conds"]
        if len(out) < 2 or conds[1] is None:
            return out
        left, limit = published(out[0] - out[1], self.quantile, self.form)
        # These options belong to the run, and both hooks of a model call are given the same ones.
        args["model_options"][LIMIT] = limit
        return [out[1] + left, *out[1:]]

    def after(self, args: dict) -> Tensor:
        denoised, sigma = args["denoised"], float(args["sigma"][0])
        if args["uncond"] is None or sigma > self.below:
            return denoised
        left = args["cond_denoised"] - args["uncond_denoised"]
        kept = 1 - published_mask(left, args["model_options"][LIMIT], self.grow)
        change = self.pull * kept * (source_of(self.trajectory, denoised) - denoised)
        return denoised + change * self._clean_alone(args["model_options"], sigma)

    def _clean_alone(self, model_options: dict, sigma: float) -> float:
        """The published step moves the clean picture and leaves the noise as predicted. Euler and DDIM take the noise
        from the clean picture; they arrive there where it is moved so many times as far."""
        levels = model_options.get("transformer_options", {}).get("sample_sigmas")
        below = [] if levels is None else [level for level in levels.tolist() if level < sigma]
        to = max(below, default=0.0)
        return (1 - to if self.flow else 1) / (1 - to / sigma)


def source_of(trajectory: Trajectory, denoised: Tensor) -> Tensor:
    """The trajectory's picture as one for each row of the prediction (B, C, h, w)."""
    source = trajectory.latents[0].to(denoised)
    if source.shape[1:] != denoised.shape[1:] or source.shape[0] not in (1, denoised.shape[0]):
        raise ValueError(
            f"The trajectory of {TECHNIQUE} is of another size than the sampled latent: connect the one that "
            "was made from the picture that is being edited."
        )
    return source.expand_as(denoised)
