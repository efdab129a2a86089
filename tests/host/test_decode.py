"""The VAE for gradients is the host's VAE without the clamp."""

import pytest
import torch
from palimpsest.host.family import latent_format
from palimpsest.host.motion.decode import vae_gradients

from ..tiny_models import tiny_latent, tiny_model, tiny_vae


@pytest.mark.parametrize("family, channels", [("sd1", 4), ("sd3", 16)])
def test_the_same_picture_as_vae_decode(family, channels):
    with torch.inference_mode():
        model, vae = tiny_model(family), tiny_vae(channels)
        raw = tiny_latent(family, batch=2)
        stock = vae.decode(raw).movedim(-1, 1)
        with vae_gradients(vae, model) as network:
            picture = network.decode(latent_format(model).process_in(raw)).detach()
        assert torch.allclose(picture.add(1).div(2).clamp(0, 1), stock, atol=1e-5)
        assert picture.abs().max() > 1


def test_encode_is_vae_encode_and_both_carry_gradients():
    with torch.inference_mode():
        model, vae = tiny_model("sd1"), tiny_vae()
        image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(2))
        stock = vae.encode(image)
        with vae_gradients(vae, model, shape=(1, 4, 8, 8)) as network:
            pixels = image.movedim(-1, 1).clone().requires_grad_(True)
            latent = network.encode(pixels * 2 - 1)
            gradient = torch.autograd.grad(network.decode(latent).square().sum(), pixels)[0]
            assert not any(weight.requires_grad for weight in vae.first_stage_model.parameters())
        assert torch.allclose(latent_format(model).process_out(latent.detach()), stock, atol=1e-5)
        assert torch.isfinite(gradient).all() and gradient.abs().min() >= 0 and gradient.abs().sum() > 0
        again = vae.encode(image)
        assert torch.equal(again, stock)


def test_no_dead_gradients_outside_the_range():
    """Where vae.decode clamps, its gradient is zero; here it is not."""
    with torch.inference_mode():
        vae = tiny_vae()
        with vae_gradients(vae) as network:
            leaf = (8 * tiny_latent("sd1")).clone().requires_grad_(True)
            picture = network.decode(leaf)
            outside = picture.detach().abs() > 1
            gradient = torch.autograd.grad((picture * outside).sum(), leaf)[0]
        assert outside.float().mean() > 0.01 and gradient.abs().sum() > 0
