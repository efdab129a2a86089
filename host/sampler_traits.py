"""What a SAMPLER does with an inversion: replay it, come close, or drown it in fresh noise."""

from __future__ import annotations

import inspect
from typing import Literal

import comfy.samplers

# They take a noise sampler for the sake of their ancestral siblings, and never ask it.
SILENT = {"sample_res_multistep", "sample_res_multistep_cfg_pp"}
# Euler's step is the one that DDIM inversion undoes.
EXACT = {"sample_euler"}


def sampler_name(sampler) -> str:
    """As Sampler Select lists it, where the sampler is one of the host's."""
    function = getattr(sampler, "sampler_function", None)
    name = getattr(function, "__name__", type(sampler).__name__)
    return name.removeprefix("sample_").removesuffix("_function")


def replay_kind(sampler) -> Literal["exact", "close", "fresh noise", "unknown"]:
    """By the signature of the sampler's function and the options that it was made with.

    "fresh noise" draws noise at its steps (ancestral, SDE, LCM); "unknown" is no function of the k-diffusion kind,
    such as another pack's own loop.
    """
    if not isinstance(sampler, comfy.samplers.KSAMPLER):
        return "unknown"
    function, options = sampler.sampler_function, sampler.extra_options
    parameters = inspect.signature(function).parameters

    def setting(name: str):
        found = parameters.get(name)
        default = None if found is None or found.default is inspect.Parameter.empty else found.default
        return options.get(name, default)

    if (setting("s_churn") or 0) > 0 or (_draws(parameters, setting) and function.__name__ not in SILENT):
        return "fresh noise"
    return "exact" if function.__name__ in EXACT else "close"


def _draws(parameters, setting) -> bool:
    """eta scales the noise of each step, s_noise all of it; samplers without an eta draw by their nature."""
    takes_noise = "noise_sampler" in parameters or setting("eta") is not None
    eta, s_noise = setting("eta"), setting("s_noise")
    return takes_noise and (eta is None or eta > 0) and (s_noise is None or s_noise != 0)
