"""Whether a trajectory belongs to this model, and to this prompt."""

from __future__ import annotations

from ..inversion.sigmas import rising_sigmas
from ..inversion.trajectory import Trajectory
from .family import latent_format_name, model_class, prediction
from .fingerprint import fingerprint
from .notify import notify


def require_invertible(model, technique: str = "DDIM Invert") -> str:
    """The model's prediction, "eps", "v" or "flow"; raises ValueError for any other."""
    kind = prediction(model)
    if kind not in ("eps", "v", "flow"):
        raise ValueError(
            f"{technique} knows epsilon, v-prediction and flow models, and this one ({model_class(model)}) is none of "
            "them: load a Stable Diffusion 1, 2, XL, 3 or Flux model."
        )
    return kind


def levels_of(model, sigmas):
    """SIGMAS -> the rising noise levels for this model; raises ValueError where they do not fit it."""
    sampling = model.get_model_object("model_sampling")
    low, high = float(sampling.sigma_min), float(sampling.sigma_max)
    return rising_sigmas(sigmas, sigma_min=low, sigma_max=high, flow=prediction(model) == "flow")


def same_kind(trajectory: Trajectory, model) -> bool:
    """Whether levels and latents mean the same to this model as to the one of the inversion.

    eps and v models have both in common; flow models have levels of their own.
    """
    flow = prediction(model) == "flow"
    return flow == trajectory.flow and latent_format_name(model) == trajectory.latent_format


def require_same_kind(trajectory: Trajectory, model, name: str = "The trajectory") -> None:
    if not same_kind(trajectory, model):
        kinds = (trajectory.prediction, prediction(model))
        made, here = (f"{'an' if kind == 'eps' else 'a'} {kind} model" for kind in kinds)
        raise ValueError(
            f"{name} was made with {made} of the latent format {trajectory.latent_format}, and this model "
            f"({model_class(model)}) is {here} of {latent_format_name(model)}: "
            "connect the model of the inversion, or invert again with this one."
        )


def is_same_model(trajectory: Trajectory, model) -> bool:
    """Whether the very weights, LoRAs included, are those of the inversion."""
    return fingerprint(model) == trajectory.fingerprint


def require_same_model(trajectory: Trajectory, model, name: str = "The trajectory") -> None:
    require_same_kind(trajectory, model, name)
    if not is_same_model(trajectory, model):
        raise ValueError(
            f"{name} was made with another model, or with other LoRAs: connect the model of the inversion, invert "
            "again with this one, or allow another model if that is meant."
        )


def warn_of_another_caption(trajectory: Trajectory, text: str | None, name: str = "The positive prompt") -> None:
    """Warns on the running node where a prompt is not the one that the trajectory was made with; spaces aside.

    text: the prompt's, None where it is not known.
    """
    if text is None or trajectory.prompt is None or text.split() == trajectory.prompt.split():
        return
    notify(
        f"{name} is '{text}', but the trajectory was inverted with '{trajectory.prompt}': the picture comes back less "
        "well, so give both the same text."
    )
