"""Feature taps see each block's output once, and leave nothing behind."""

import pytest
import torch
from palimpsest.host.session import with_denoiser
from palimpsest.host.taps import feature_taps, unet_layers

from ..tiny_models import tiny_cond, tiny_latent, tiny_model

SIGMAS = torch.tensor([1.0])
NAMES = ("input.0", "input.1", "input.3", "middle.0", "output.0", "output.3")


def tapped(model, conds, gradients=False):
    def body(session):
        network = session.model.diffusion_model
        with feature_taps(network, NAMES) as taps:
            x0 = session.denoise(session.latent, 1.0)
            found = dict(taps.items())
        assert not any(layer._forward_hooks for layer in unet_layers(network).values())
        return x0, found

    return with_denoiser(model, conds, tiny_latent("sd1", batch=2), SIGMAS, body, gradients=gradients)


def test_taps_show_what_the_host_itself_passes_on():
    """Against the host's own patches: after input blocks and the middle, and before output blocks."""
    model, conds = tiny_model("sd1"), {"positive": tiny_cond("sd1")}
    seen = {}
    patched = model.clone()
    patched.set_model_input_block_patch(lambda h, o: seen.setdefault(f"input.{o['block'][1]}", h.clone()))
    patched.set_model_output_block_patch(lambda h, skip, o: (seen.setdefault(f"output.{o['block'][1] - 1}", h), skip))
    _, found = tapped(patched, conds)
    assert tuple(found["middle.0"].shape) == (2, 64, 4, 4)
    for name in ("input.0", "input.1", "input.3", "output.0"):
        assert torch.equal(found[name], seen[name])


def test_taps_change_nothing_and_carry_gradients():
    model, conds = tiny_model("sd1"), {"positive": tiny_cond("sd1")}
    plain = with_denoiser(model, conds, tiny_latent("sd1", batch=2), SIGMAS, lambda s: s.denoise(s.latent, 1.0))
    x0, _ = tapped(model, conds)
    assert torch.equal(x0, plain)

    def body(session):
        leaf = session.latent.clone().requires_grad_(True)
        with feature_taps(session.model.diffusion_model, NAMES) as taps:
            session.denoise(leaf, 1.0)
            return torch.autograd.grad(sum(one.square().mean() for _, one in taps.items()), leaf)[0]

    gradient = with_denoiser(model, conds, tiny_latent("sd1", batch=2), SIGMAS, body, gradients=True)
    assert gradient.abs().sum() > 0


def test_several_calls_and_unknown_blocks_are_named():
    model = tiny_model("sd1")
    two = tiny_cond("sd1") + [[tiny_cond("sd1", seed=1)[0][0], {"strength": 0.5, "area": (4, 8, 0, 0)}]]
    with pytest.raises(ValueError, match="after 2 calls of the network"):
        tapped(model, {"positive": two})
    network = model.model.diffusion_model
    with pytest.raises(KeyError, match="no block 'output.9'"):
        with feature_taps(network, ("input.0", "output.9")):
            pass
    assert not any(layer._forward_hooks for layer in unet_layers(network).values())
