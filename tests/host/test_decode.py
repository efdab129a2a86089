"""The VAE for gradients is the host's VAE without the clamp."""

from contextlib import contextmanager

import comfy.model_management
import pytest
import torch
from palimpsest.host.family import latent_format
from palimpsest.host.gradients import gradients_through
from palimpsest.host.motion.decode import DifferentiableVAE

from ..tiny_models import tiny_latent, tiny_model, tiny_vae


@contextmanager
def for_gradients(vae, form=None):
    """A loaded VAE as techniques have it in a run with gradients."""
    comfy.model_management.load_models_gpu([vae.patcher])
    with gradients_through([vae.patcher]):
        yield DifferentiableVAE(vae, form)


@pytest.mark.parametrize(("family", "channels"), [("sd1", 4), ("sd3", 16)])
def test_the_same_picture_as_vae_decode(family, channels):
    with torch.inference_mode():
        form, vae = latent_format(tiny_model(family)), tiny_vae(channels)
        raw = tiny_latent(family, batch=2)
        stock = vae.decode(raw).movedim(-1, 1)
        with for_gradients(vae, form) as network:
            picture = network.decode(form.process_in(raw)).detach()
        assert torch.allclose(picture.add(1).div(2).clamp(0, 1), stock, atol=1e-5)
        assert picture.abs().max() > 1


def test_no_weight_asks_for_gradients_and_the_vae_is_as_before():
    with torch.inference_mode():
        vae, raw = tiny_vae(), tiny_latent("sd1")
        stock = vae.decode(raw)
        with for_gradients(vae) as network:
            leaf = raw.clone().requires_grad_(True)
            gradient = torch.autograd.grad(network.decode(leaf).square().sum(), leaf)[0]
            assert not any(weight.requires_grad for weight in vae.first_stage_model.parameters())
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0
        assert torch.equal(vae.decode(raw), stock)


def test_no_dead_gradients_outside_the_range():
    """Where vae.decode clamps, its gradient is zero; here it is not."""
    with torch.inference_mode():
        vae = tiny_vae()
        with for_gradients(vae) as network:
            leaf = (8 * tiny_latent("sd1")).clone().requires_grad_(True)
            picture = network.decode(leaf)
            outside = picture.detach().abs() > 1
            gradient = torch.autograd.grad((picture * outside).sum(), leaf)[0]
        assert outside.float().mean() > 0.01 and gradient.abs().sum() > 0
