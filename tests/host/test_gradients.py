"""Gradients through models made as loaders make them, under inference mode: right, and with nothing left behind."""

import pytest
import torch
from palimpsest.host.denoiser import with_denoiser
from palimpsest.host.gradients import normalise, plain

from ..tiny_models import FAMILIES, tiny_cond, tiny_latent, tiny_model

SIGMAS = torch.tensor([0.7, 0.0])


def slopes(model, conds, latent, *, cfg: float = 1.0) -> tuple[float, float]:
    """(finite difference, gradient) of a loss at x0 along the gradient's own direction; both by `with_denoiser`."""
    generator = torch.Generator().manual_seed(5)
    x, target = (torch.randn(latent.shape, generator=generator) for _ in range(2))

    def by_gradient(session):
        leaf = plain(x).clone().requires_grad_(True)
        loss = ((session.guided(leaf, 0.7) - plain(target)) ** 2).sum()
        return torch.autograd.grad(loss, leaf)[0]

    gradient = with_denoiser(model, conds, latent, SIGMAS, by_gradient, cfg=cfg, gradients=True)
    length = gradient.norm()

    def by_difference(session):
        step = 5e-3 * gradient / length * x.norm()
        above, below = (session.guided(x + s * step, 0.7).double() for s in (1, -1))
        # a^2 - b^2 as (a - b)(a + b): the loss itself is too large for the difference of two of them.
        return ((above - below) * (above + below - 2 * target)).sum() / (2 * step.norm())

    return float(with_denoiser(model, conds, latent, SIGMAS, by_difference, cfg=cfg)), float(length)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_agrees_with_finite_difference(family):
    with torch.inference_mode():
        model = tiny_model(family)
        conds = {"positive": tiny_cond(family), "negative": tiny_cond(family, seed=1)}
        assert all(weight.is_inference() for weight in model.model.diffusion_model.parameters())
        difference, gradient = slopes(model, conds, tiny_latent(family, batch=2), cfg=3.0)
    assert gradient == pytest.approx(difference, rel=1e-3)


def test_weights_never_ask_for_gradients():
    with torch.inference_mode():
        model = tiny_model("sd1")
        conds, latent = {"positive": tiny_cond("sd1")}, tiny_latent("sd1")

        def body(session):
            assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
            assert not any(weight.requires_grad for weight in session.model.parameters())
            leaf = session.latent.clone().requires_grad_(True)
            x0 = session.denoise(leaf, 0.7)
            x0.sum().backward()
            assert all(weight.grad is None for weight in session.model.parameters())
            return x0

        value = with_denoiser(model, conds, latent, SIGMAS, body, gradients=True)
        assert torch.is_inference_mode_enabled() and not value.requires_grad and value.grad_fn is None


def test_normalise_shares_memory_and_is_idempotent():
    with torch.inference_mode():
        model = tiny_model("sd1").model
    places = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    normalise(model)
    weights = dict(model.named_parameters())
    assert {name: weight.data_ptr() for name, weight in weights.items()} == places
    assert not any(weight.is_inference() for weight in [*model.parameters(), *model.buffers()])
    normalise(model)
    assert all(weights[name] is weight for name, weight in model.named_parameters())
