"""The denoiser is the host's: equal to its own samplers and guiders, for every family, with everything attached."""

import comfy.samplers
import pytest
import torch
from palimpsest.host.denoiser import with_denoiser

from ..tiny_models import FAMILIES, tiny_cond, tiny_latent, tiny_model

SIGMAS = torch.tensor([0.8, 0.4, 0.0])


@pytest.mark.parametrize("family", FAMILIES)
def test_guided_is_the_stock_guider(family):
    model = tiny_model(family)
    positive, negative = tiny_cond(family), tiny_cond(family, seed=1)
    latent = tiny_latent(family, batch=2)
    x = torch.randn(latent.shape, generator=torch.Generator().manual_seed(3))
    ours = with_denoiser(
        model, {"positive": positive, "negative": negative}, latent, SIGMAS, lambda s: s.guided(x, 0.8), cfg=4.0
    )
    seen = {}

    class Probe(comfy.samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *rest, **more):
            seen["x0"] = model_wrap(x, torch.full((2,), 0.8), **extra_args)
            return latent_image

    guider = comfy.samplers.CFGGuider(model.clone())
    guider.set_conds(positive, negative)
    guider.set_cfg(4.0)
    guider.sample(torch.zeros_like(latent), latent, Probe(), SIGMAS, seed=0)
    assert torch.equal(ours, seen["x0"])
