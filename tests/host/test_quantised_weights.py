"""Gradients to the input through weights in the host's quantised forms, made as its loaders make them."""

import logging
import math

import comfy.ops
import pytest
import torch
from palimpsest.host.gradients import normalise, plain
from palimpsest.host.morphing.row_lora import interpolated
from palimpsest.host.session import with_denoiser
from palimpsest.morphing.schedule import schedule
from safetensors.torch import save_file
from torch import Tensor

from ..morphing.parts import random_lora
from ..morphing.scene import Morph
from ..quantised_models import BLOCKS, FORMS, quantised_file, quantised_model, stored
from ..tiny_models import tiny_cond, tiny_latent, tiny_model
from . import techniques
from .prompts import reported, run

SIGMAS = torch.tensor([0.7, 0.0])
# Each product of fp8 numbers says at length that there is none on a CPU, and is computed with what they stand for.
logging.getLogger("comfy_kitchen.tensor.fp8").setLevel(logging.ERROR)


def host_layer(weight: Tensor, form: str) -> torch.nn.Module:
    """A linear layer of the host that holds the weight (out, in) in this form, loaded under inference mode."""
    kind, native = (FORMS | BLOCKS)[form]
    operations = comfy.ops.mixed_precision_ops({}, torch.float32, disabled=() if native else (kind,))
    with torch.inference_mode():
        layer = operations.Linear(*reversed(weight.shape), bias=False)
        layer.load_state_dict(stored(weight, form)[0], strict=False)
    return layer


def bound_of(weight: Tensor, grad: Tensor, form: str) -> Tensor:
    """How far rounding may move each element of `grad @ weight`. grad: (rows, out); weight: (out, in).

    int8: both factors lie on grids, of a 127th of the largest weight and of each row's largest value, and are at most
    half a step off. fp8 (e4m3): three binary digits behind the first, so at most a 16th off, and half a step of
    2^-9 below its normal numbers, at a scale that makes the largest weight 448; the other factor is not rounded.
    """
    largest = weight.abs().max()
    if form == "int8":
        off, step = largest / 254, grad.abs().amax(1, keepdim=True) / 254
        return (grad.abs() + step) @ torch.full_like(weight, float(off)) + step * weight.abs().sum(0)
    return grad.abs() @ (weight.abs() / 16).clamp_min(float(largest / 448) * 2.0**-10)


@pytest.mark.parametrize("form", FORMS)
def test_a_layers_gradient_is_off_by_its_rounding_alone(form):
    """Against the weight before it was quantised; the limit is that of each element, on any machine."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(96, 64, generator=generator)
    x, grad = (torch.randn(2, 24, size, generator=generator) for size in (64, 96))
    layer = host_layer(weight, form)
    normalise(layer)
    leaf = x.clone().requires_grad_(True)
    found = torch.autograd.grad(layer(leaf), leaf, grad)[0].flatten(0, 1)
    exact, limit = grad.flatten(0, 1) @ weight, bound_of(weight, grad.flatten(0, 1), form)
    error = (found - exact).norm() / exact.norm()
    print(f"{form}: {float(error):.2%}, at most {float(limit.norm() / exact.norm()):.2%}")
    assert ((found - exact).abs() <= 1.001 * limit).all() and error > 1e-4
    assert not layer.weight.requires_grad and layer.weight.grad is None


@pytest.mark.parametrize("form", [*BLOCKS, "fp8", "fp8, emulated"])
def test_a_layers_gradient_is_that_of_what_its_weights_stand_for(form):
    """All forms but int8, whose backward rounds what comes back to it as well."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(96, 64, generator=generator)
    x, grad = (torch.randn(24, size, generator=generator) for size in (64, 96))
    layer = host_layer(weight, form)
    normalise(layer)
    leaf = x.clone().requires_grad_(True)
    found = torch.autograd.grad(layer(leaf), leaf, grad)[0]
    assert torch.allclose(found, grad @ stored(weight, form)[1], atol=1e-3)


def gradient(model, family: str) -> Tensor:
    """Of a loss at x0, to the latent, at one noise level."""
    generator = torch.Generator().manual_seed(5)
    x, target = (torch.randn(tiny_latent(family).shape, generator=generator) for _ in range(2))

    def body(session):
        leaf = plain(x).clone().requires_grad_(True)
        return torch.autograd.grad(((session.guided(leaf, 0.7) - plain(target)) ** 2).sum(), leaf)[0]

    conds = {"positive": tiny_cond(family)}
    return with_denoiser(model, conds, tiny_latent(family), SIGMAS, body, gradients=True)


def rounding_of_network(family: str, form: str) -> float:
    """The relative deviation to expect of a gradient at most: independent errors of all layers, in quadrature.

    A gradient passes each layer's weight twice, once where forward puts the point of linearisation and once in
    backward, and each time what it is multiplied by may be rounded as well: at most as far as the weight. As if no
    branch went past a layer, which all but the first and last have.
    """
    before, after = tiny_model(family).model.diffusion_model.state_dict(), quantised_file(family, form)[1]
    each = [float((after[name] - before[name]).norm() / before[name].norm()) for name in before if name in after]
    return math.sqrt(4 * sum(error**2 for error in each))


@pytest.mark.parametrize("family", ["sd1", "flux"])
@pytest.mark.parametrize("form", FORMS)
def test_a_networks_gradient_is_off_as_independent_roundings_are(family, form):
    with torch.inference_mode():
        exact = gradient(tiny_model(family), family)
        found = gradient(quantised_model(family, form), family)
        error, limit = float((found - exact).norm() / exact.norm()), rounding_of_network(family, form)
        print(f"{family}, {form}: {error:.2%}, at most {limit:.2%}")
        assert 1e-4 < error < limit
        if form == "fp8, emulated":  # the host computes with the weights that the stored ones stand for
            same = tiny_model(family)
            same.model.diffusion_model.load_state_dict(quantised_file(family, form)[1])
            assert torch.allclose(found, gradient(same, family), rtol=1e-3, atol=1e-4 * float(found.abs().max()))


@pytest.mark.parametrize("form", FORMS)
def test_guidance_and_null_text_run_on_quantised_weights(form):
    with torch.inference_mode():
        model = quantised_model("sd1", form)
        (guided,), (free,) = techniques.sketch(model), techniques.sampled(model)
        assert torch.isfinite(guided).all() and not torch.allclose(guided, free, rtol=1e-2)
        _, embeddings = techniques.null_text("fast")(model)
        start = techniques.NEGATIVE[0][0]
        assert torch.isfinite(embeddings).all() and not torch.allclose(embeddings, start.expand_as(embeddings))
        assert all(weight.grad is None for weight in model.model.parameters())


def test_motion_guidance_runs_on_quantised_weights():
    with torch.inference_mode():
        (moved,) = techniques.faithful_motion(quantised_model("sd1", "fp8"))
    assert torch.isfinite(moved).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_lora_is_fitted_to_quantised_weights_and_mixed_on_them(form):
    with torch.inference_mode():
        model = quantised_model("sd1", form)
        losses, *factors = techniques.fitted_lora(model)
        ups = factors[2::3]  # in each layer behind alpha and the lower factor; zero before the first step
        assert torch.isfinite(losses).all() and ups and all(up.isfinite().all() and up.any() for up in ups)
        loras = [random_lora(tiny_model("sd1"), seed) for seed in range(2)]
        mixed = interpolated(model, loras, schedule(3))
        (rows,), (plain_rows,) = techniques.sampled(mixed, rows=3), techniques.sampled(model, rows=3)
    assert torch.isfinite(rows).all() and not torch.allclose(rows, plain_rows, rtol=1e-2)


@pytest.mark.parametrize("form", ["int8", "fp8, emulated"])
def test_gradients_and_lora_fit_of_a_quantised_file_through_prompts(host, host_client, form):
    """The stock loader's model, on a CPU, where the host computes natively in int8 alone."""
    folder = host.base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"quantised-{FORMS[form][0]}.safetensors"
    save_file({key: value.contiguous() for key, value in quantised_file("flux", form)[0].items()}, folder / name)
    scene = Morph("flux", file=name)
    shown = scene.gradient(cfg=1.0)
    scene.add("SaveLoRA", lora=[scene.fit(), 0], prefix=f"loras/quantised-{FORMS[form][0]}")
    found = reported(run(host_client, scene), shown)
    assert found["inference"] == 0 and found["gradient"] > 0
    if form != "int8":  # with rounded inputs a model is a staircase, whose finite differences say nothing
        assert found["gradient"] == pytest.approx(found["difference"], rel=2e-3)
    assert list((host.base / "output" / "loras").glob(f"quantised-{FORMS[form][0]}*.safetensors"))
