"""Gradients through models made as loaders make them, under inference mode: right, and with nothing left behind."""

import comfy.controlnet
import comfy.ldm.modules.attention as host_attention
import pytest
import torch
from palimpsest.host.gradients import normalise, plain
from palimpsest.host.motion.decode import DifferentiableVAE
from palimpsest.host.session import with_denoiser

from ..tiny_models import FAMILIES, tiny_cond, tiny_control_file, tiny_latent, tiny_model, tiny_vae
from .finite_difference import extrapolated

SIGMAS = torch.tensor([0.7, 0.0])


def both_gradients(model, conds, latent, *, cfg: float = 1.0) -> tuple[float, float]:
    """(finite difference, gradient) of a loss at x0 along the gradient's own direction; both by `with_denoiser`."""
    generator = torch.Generator().manual_seed(5)
    x, target = (torch.randn(latent.shape, generator=generator) for _ in range(2))

    def by_gradient(session):
        leaf = plain(x).clone().requires_grad_(True)
        loss = ((session.guided(leaf, 0.7) - plain(target)) ** 2).sum()
        return torch.autograd.grad(loss, leaf)[0]

    gradient = with_denoiser(model, conds, latent, SIGMAS, by_gradient, cfg=cfg, gradients=True)
    length = gradient.norm()

    def difference(session, size: float):
        step = size * gradient / length * x.norm()
        above, below = (session.guided(x + s * step, 0.7).double() for s in (1, -1))
        # a^2 - b^2 as (a - b)(a + b): the loss itself is too large for the difference of two of them.
        return ((above - below) * (above + below - 2 * target)).sum() / (2 * step.norm())

    by_difference = lambda session: extrapolated(lambda size: difference(session, size), 5e-3)
    return float(with_denoiser(model, conds, latent, SIGMAS, by_difference, cfg=cfg)), float(length)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_agrees_with_finite_difference(family):
    with torch.inference_mode():
        model = tiny_model(family)
        conds = {"positive": tiny_cond(family), "negative": tiny_cond(family, seed=1)}
        assert all(weight.is_inference() for weight in model.model.diffusion_model.parameters())
        difference, gradient = both_gradients(model, conds, tiny_latent(family, batch=2), cfg=3.0)
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


def test_normalise_copies_no_memory_and_is_idempotent():
    with torch.inference_mode():
        model = tiny_model("sd1").model
    places = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    normalise(model)
    weights = dict(model.named_parameters())
    assert {name: weight.data_ptr() for name, weight in weights.items()} == places
    assert not any(weight.is_inference() for weight in [*model.parameters(), *model.buffers()])
    normalise(model)
    assert all(weights[name] is weight for name, weight in model.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_gradient_through_weights_that_are_cast(dtype):
    """Weights kept at lower precision and computed in float32, as files are loaded on a CPU or at fp8."""
    with torch.inference_mode():
        model = tiny_model("sd1", dtype=dtype)
        conds = {"positive": tiny_cond("sd1"), "negative": tiny_cond("sd1", seed=1)}
        difference, gradient = both_gradients(model, conds, tiny_latent("sd1"), cfg=3.0)
    assert gradient == pytest.approx(difference, rel=1e-3)


def test_gradient_through_model_and_vae_together():
    """The chain latent -> x0 -> picture -> loss -> latent, with both networks loaded for one run."""
    with torch.inference_mode():
        model, vae = tiny_model("sd1"), tiny_vae()
        wish = [weight.requires_grad for weight in vae.first_stage_model.parameters()]
        conds, latent = {"positive": tiny_cond("sd1")}, tiny_latent("sd1")
        x = torch.randn(latent.shape, generator=torch.Generator().manual_seed(5))

        def picture(session, at):
            return DifferentiableVAE(vae, session.model.latent_format).decode(session.denoise(at, 0.7))

        def by_gradient(session):
            assert not any(weight.requires_grad for weight in vae.first_stage_model.parameters())
            leaf = plain(x).clone().requires_grad_(True)
            return torch.autograd.grad(picture(session, leaf).square().sum(), leaf)[0]

        model.set_additional_models("vae", [vae.patcher])
        run = lambda body, **how: with_denoiser(model, conds, latent, SIGMAS, body, **how)
        gradient = run(by_gradient, gradients=True)
        step = 2e-3 * gradient / gradient.norm() * x.norm()
        above, below = run(lambda s: [picture(s, x + sign * step).double() for sign in (1, -1)])
        difference = ((above - below) * (above + below)).sum() / (2 * step.norm())
        assert float(gradient.norm()) == pytest.approx(float(difference), rel=2e-3)
        assert [weight.requires_grad for weight in vae.first_stage_model.parameters()] == wish


def test_a_model_over_several_gpus_is_named():
    model = tiny_model("sd1")
    model.set_additional_models("multigpu", [tiny_model("sd1")])
    with pytest.raises(ValueError, match="Gradients do not cross several GPUs: connect the model from before"):
        with_denoiser(model, {"positive": tiny_cond("sd1")}, tiny_latent("sd1"), SIGMAS, lambda s: None, gradients=True)


def test_an_attention_override_of_the_users_is_honoured():
    """Sharper attention by an override; one that knows no backward gives way to one that does."""
    model, conds, latent = tiny_model("sd1"), {"positive": tiny_cond("sd1")}, tiny_latent("sd1")
    sharper, blind = model.clone(), model.clone()
    sharper.model_options["transformer_options"]["optimized_attention_override"] = lambda function, q, *rest, **more: (
        function(2 * q, *rest, **more)
    )
    blind.model_options["transformer_options"]["optimized_attention_override"] = lambda function, *args, **more: (
        function(*args, **more).detach()
    )

    def run(patched, gradients):
        def body(session):
            leaf = session.latent.clone().requires_grad_(gradients)
            x0 = session.denoise(leaf, 0.7)
            return x0, torch.autograd.grad(x0.square().sum(), leaf)[0] if gradients else None

        return with_denoiser(patched, conds, latent, SIGMAS, body, gradients=gradients)

    assert torch.allclose(run(sharper, True)[0], run(sharper, False)[0], atol=1e-4)
    assert (run(sharper, True)[0] - run(model, True)[0]).abs().max() > 1e-3
    assert torch.allclose(run(blind, True)[1], run(model, True)[1])


@pytest.fixture
def controlled(tmp_path):
    """(model, conditioning under a ControlNet with attention, the ControlNet's network)."""
    with torch.inference_mode():
        control = comfy.controlnet.load_controlnet(str(tiny_control_file("sd1", tmp_path / "control.safetensors")))
        control.set_cond_hint(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(4)), 0.7, (0.0, 1.0))
        tokens, facts = tiny_cond("sd1")[0]
        cond = [[tokens, {**facts, "control": control, "control_apply_to_uncond": True}]]
        yield tiny_model("sd1"), cond, control.control_model


def test_the_hosts_attention_is_replaced_while_a_controlnet_runs_and_no_longer(controlled):
    model, cond, network = controlled
    stock, seen = host_attention.optimized_attention, []
    attention = next(part for part in network.modules() if isinstance(part, host_attention.CrossAttention))
    handle = attention.register_forward_hook(lambda *_: seen.append(host_attention.optimized_attention))

    def body(session):
        assert host_attention.optimized_attention is stock
        leaf = session.latent.clone().requires_grad_(True)
        x0 = session.denoise(leaf, 0.7)
        assert host_attention.optimized_attention is stock
        return torch.autograd.grad(x0.sum(), leaf)[0]

    try:
        with_denoiser(model, {"positive": cond}, tiny_latent("sd1"), SIGMAS, body, gradients=True)
        assert seen and all(one is not stock for one in seen)
        # Without gradients nothing is touched.
        seen.clear()
        with_denoiser(model, {"positive": cond}, tiny_latent("sd1"), SIGMAS, lambda s: s.denoise(s.latent, 0.7))
        assert seen and all(one is stock for one in seen)
    finally:
        handle.remove()
    assert host_attention.optimized_attention is stock


def test_attention_that_another_has_put_there_meanwhile_stays(controlled, monkeypatch):
    model, cond, network = controlled
    monkeypatch.setattr(host_attention, "optimized_attention", host_attention.optimized_attention)
    other = lambda *args, **kwargs: host_attention.attention_pytorch(*args, **kwargs)
    handle = network.register_forward_hook(lambda *_: setattr(host_attention, "optimized_attention", other))
    try:
        with_denoiser(
            model,
            {"positive": cond},
            tiny_latent("sd1"),
            SIGMAS,
            lambda s: s.denoise(s.latent.clone().requires_grad_(True), 0.7),
            gradients=True,
        )
    finally:
        handle.remove()
    assert host_attention.optimized_attention is other
