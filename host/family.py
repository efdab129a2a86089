"""What kind of model a MODEL is: family, parametrisation, latent format."""

from __future__ import annotations

from typing import Literal

import comfy.model_base
import comfy.model_sampling
import comfy.supported_models
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

Family = Literal["sd1", "sd2", "sdxl", "flow", "other"]
Prediction = Literal["eps", "v", "flow", "other"]


def diffusion_model(model) -> torch.nn.Module:
    """The network inside a MODEL, object patches included; of a compiled one the network that was compiled."""
    network = model.get_model_object("diffusion_model")
    return getattr(network, "_orig_mod", network)


def is_unet(model) -> bool:
    return isinstance(diffusion_model(model), UNetModel)


def prediction(model) -> Prediction:
    """How the network's output is read; a patch such as ModelSamplingDiscrete changes it."""
    sampling = model.get_model_object("model_sampling")
    if isinstance(sampling, comfy.model_sampling.CONST):
        return "flow"
    if isinstance(sampling, (comfy.model_sampling.EDM, comfy.model_sampling.X0)):
        return "other"
    if isinstance(sampling, (comfy.model_sampling.V_PREDICTION, comfy.model_sampling.V_PREDICTION_DDPM)):
        return "v"
    return "eps" if isinstance(sampling, comfy.model_sampling.EPS) else "other"


def latent_format(model):
    """The host's latent format object: `latent_channels`, `spacial_downscale_ratio`, `process_in`, `process_out`."""
    return model.get_model_object("latent_format")


def latent_format_name(model) -> str:
    return type(latent_format(model)).__name__


def model_family(model) -> Family:
    """The family by the host's classes: "sd1", "sd2" and "sdxl" are UNets, "flow" is any flow model, else "other"."""
    if prediction(model) == "flow":
        return "flow"
    base = model.model
    if not is_unet(model):
        return "other"
    if isinstance(base, (comfy.model_base.SDXL, comfy.model_base.SDXLRefiner)):
        return "sdxl"
    config = getattr(base, "model_config", None)
    if isinstance(base, comfy.model_base.SD21UNCLIP) or _is_sd2(config):
        return "sd2"
    return "sd1" if prediction(model) in ("eps", "v") and latent_format_name(model) == "SD15" else "other"


def _is_sd2(config) -> bool:
    if isinstance(config, comfy.supported_models.SD20):
        return True
    return (getattr(config, "unet_config", None) or {}).get("context_dim") == 1024


def model_class(model) -> str:
    """How a sentence names the model: the host's class."""
    return type(model.model).__name__
