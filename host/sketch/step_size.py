"""How much of the latent a sampler keeps in a step: what a shift of the prediction x0 does depends on it.

Samplers of the k-diffusion kind are linear: a step from sigma to sigma' makes

    x' = a x + (1 - a) x0 + noise,

where x0 may be a mixture of this prediction and earlier ones. Euler's a is sigma' / sigma; ancestral and SDE samplers
go below sigma' and come back by fresh noise, so that theirs is smaller, and LCM's is 0. The same shift of x0 then
changes the picture more, by (1 - a) / (1 - sigma' / sigma).
"""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import torch

from ..notify import notify
from ..sampler_traits import replay_kind, sampler_name

CFG_PP = "cfg_pp"
"""In the name of samplers that add the whole of x0 to the noise left over, not just a part of it."""


def step_scale(sampler, patcher, sigma: float, sigma_next: float) -> float:
    """What to multiply a shift of x0 by, so that it changes the latent as much as in Euler's step.

    sampler: SAMPLER; patcher: the MODEL of the run. 1 for all that draw no noise of their own, and for what is no
    function of the k-diffusion kind. CFG++ samplers, which add the whole of x0, are scaled by their caller.
    """
    if replay_kind(sampler) != "fresh noise" or CFG_PP in sampler_name(sampler) or sigma_next <= 0:
        return 1.0
    try:
        kept = _kept(sampler, patcher, sigma, sigma_next)
    except Exception as error:
        # Another pack's sampler may want more of its model than this one has.
        notify(
            f"How far the sampler {sampler_name(sampler)} steps could not be measured ({error}); the strength of Edge "
            "Predictor Guidance is that of Euler's step."
        )
        return 1.0
    return (1 - sigma_next / sigma) / max(1 - kept, 1e-3)


def _kept(sampler, patcher, sigma: float, sigma_next: float) -> float:
    """a: the sampler's own function, on a model that always answers 0, from two starts and with the same noise."""
    sampling = patcher.get_model_object("model_sampling")
    host = SimpleNamespace(model_patcher=patcher, inner_model=SimpleNamespace(model_sampling=sampling))
    options = dict(sampler.extra_options)
    if "noise_sampler" in inspect.signature(sampler.sampler_function).parameters:
        options["noise_sampler"] = lambda *_: torch.zeros(1, 1, 1, 1)
    ends = []
    with torch.random.fork_rng(devices=[]):
        for start in (0.0, 1.0):
            torch.manual_seed(0)
            x, sigmas = torch.full((1, 1, 1, 1), start), torch.tensor([sigma, sigma_next])
            arguments = {"extra_args": {"model_options": {}, "seed": 0}, "callback": None, "disable": True}
            ends.append(float(sampler.sampler_function(_Nothing(host), x, sigmas, **arguments, **options)))
    return ends[1] - ends[0]


class _Nothing:
    """A model as samplers see it, whose prediction is 0."""

    def __init__(self, host):
        self.inner_model, self.sigmas = host, None

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **_) -> torch.Tensor:
        return torch.zeros_like(x)
