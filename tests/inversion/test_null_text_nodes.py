"""The nodes round null text: what they return, their limits, and proximal guidance to the last bit."""

import comfy.samplers
import pytest
import torch
from palimpsest.guidance.proximal import changed, proximal, row_quantile
from palimpsest.inversion.negative_prompt import between, slerp
from palimpsest.nodes.inversion_null_text import NegativePromptInversion, NullTextOptimize, ProximalGuidance

from ..tiny_models import tiny_cond, tiny_latent, tiny_model
from .test_null_text_host import CFG, FAMILIES, STEPS, prepared, stock


@pytest.fixture(scope="module")
def sd1():
    return prepared("sd1")


def test_optimize_returns_a_negative_a_picture_and_numbers(sd1):
    model, _, trajectory = sd1
    with torch.inference_mode():
        made = NullTextOptimize.execute(model, trajectory, tiny_cond("sd1"), cfg=CFG, inner_steps=1)
    conditioning, picture, report = made.args
    assert len(conditioning) == STEPS and picture.shape[0] == 1 and picture.shape[-1] == 3
    assert "forward-equivalents" in report and "fast: 4 levels" in report
    assert torch.isfinite(stock(model, "sd1", trajectory, conditioning)).all()


def test_every_entry_keeps_what_its_prompt_had():
    model, _, trajectory = prepared("sdxl")
    with torch.inference_mode():
        positive = tiny_cond("sdxl")
        made = NullTextOptimize.execute(model, trajectory, positive, cfg=CFG, inner_steps=1).args[0]
    for _, options in made:
        assert torch.equal(options["pooled_output"], positive[0][1]["pooled_output"]) and options["width"] == 64
    assert "timestep_start" not in positive[0][1]


def test_open_negative_is_encoded_or_named(sd1):
    model, _, trajectory = sd1

    class Clip:
        def tokenize(self, text):
            return text

        def encode_from_tokens_scheduled(self, tokens):
            assert tokens == ""
            return tiny_cond("sd1", seed=3)

    with torch.inference_mode():
        with pytest.raises(ValueError, match="negative prompt is not connected"):
            NullTextOptimize.execute(model, trajectory, tiny_cond("sd1"), mode="faithful")
        options = {"mode": "faithful", "clip": Clip(), "inner_steps": 1}
        made = NullTextOptimize.execute(model, trajectory, tiny_cond("sd1"), **options)
    assert len(made.args[0]) == STEPS


@pytest.mark.parametrize("cfg", [1.0, 1.0001])
def test_guidance_of_one_is_a_sentence(sd1, cfg):
    model, _, trajectory = sd1
    with pytest.raises(ValueError, match="CFG 1"):
        NullTextOptimize.execute(model, trajectory, tiny_cond("sd1"), cfg=cfg)


def test_the_source_prompt_as_negative_is_no_guidance(sd1):
    model, _, trajectory = sd1
    negative = NegativePromptInversion.execute(tiny_cond("sd1")).args[0]
    guided = stock(model, "sd1", trajectory, negative)
    plain = stock(model, "sd1", trajectory, tiny_cond("sd1"))
    assert torch.allclose(guided, plain, atol=1e-4)


def test_balance_between_prompts():
    source, empty = tiny_cond("sdxl"), tiny_cond("sdxl", seed=1)
    for balance, wanted in ((0.0, empty), (1.0, source)):
        made = NegativePromptInversion.execute(source, empty, balance).args[0]
        assert torch.allclose(made[0][0], wanted[0][0], atol=1e-6)
        assert torch.allclose(made[0][1]["pooled_output"], wanted[0][1]["pooled_output"], atol=1e-5)
    with pytest.raises(ValueError, match="no negative prompt"):
        NegativePromptInversion.execute(source, None, 0.5)
    with pytest.raises(ValueError, match="Combined"):
        NegativePromptInversion.execute(source * 2, empty, 0.5)


def test_slerp_goes_round_and_not_through():
    a, b = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, 4.0]]])
    middle = slerp(a, b, 0.5)
    assert torch.allclose(middle, torch.tensor([[[3.0, 3.0]]]) / 2**0.5)
    assert torch.equal(between(a, a * 1.0, 0.3), a)
    long = between(a, torch.cat([b, b, b], 1), 0.0)
    assert long.shape == (1, 3, 2)


def test_proximal_cuts_the_small_and_keeps_the_large():
    unconditional = torch.zeros(1, 1, 2, 4)
    conditional = torch.tensor([[[[0.1, -0.2, 0.3, -0.4], [0.5, -0.6, 0.7, -0.8]]]])
    hard = proximal(conditional, unconditional, 0.5)
    assert torch.equal(hard.flatten()[:4], torch.zeros(4))
    assert torch.equal(hard.flatten()[4:], conditional.flatten()[4:])
    soft = proximal(conditional, unconditional, 0.5, "soft")
    limit = row_quantile(conditional.abs(), 0.5)
    size = (conditional.abs() - limit).clamp_min(0).flatten().reshape_as(soft)
    assert torch.allclose(soft, size * conditional.sign())
    assert proximal(conditional, unconditional, 0.0) is conditional
    assert torch.equal(proximal(conditional, unconditional, 1.0), unconditional)
    assert changed(conditional, unconditional, 0.8, grow=0).sum() == 2


def test_rows_have_quantiles_of_their_own():
    values = torch.rand(3, 4, 5, 5)
    together = row_quantile(values, 0.7)
    assert all(torch.equal(together[i], row_quantile(values[i : i + 1], 0.7)[0]) for i in range(3))


def sample(model, latent, cfg=4.0, family="sd1"):
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 3)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return comfy.sample.sample_custom(
            model,
            noise,
            cfg,
            comfy.samplers.sampler_object("euler"),
            sigmas,
            tiny_cond(family),
            tiny_cond(family, seed=2),
            latent,
            disable_pbar=True,
            seed=0,
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_proximal_guidance_at_its_limits(family):
    model, raw, trajectory = prepared(family)
    latent = torch.zeros_like(raw)

    def made(cfg=4.0, **options):
        patched = ProximalGuidance.execute(model, **options).args[0] if options else model
        return sample(patched, latent, cfg, family)

    plain, unguided = made(), made(0.0)
    assert torch.equal(made(quantile=0.0), plain)
    assert torch.allclose(made(quantile=1.0), unguided, atol=1e-5)
    assert (made(quantile=0.7) - plain).abs().max() > 1e-3
    # Without guidance there is no unconditional prediction to differ from.
    assert torch.equal(made(1.0, quantile=0.7), made(1.0))
    drawn = made(quantile=1.0, trajectory=trajectory, pull=1.0, pull_from=0.0, grow=0)
    assert torch.allclose(drawn, raw, atol=1e-3)


@pytest.mark.parametrize("quantile", [0.0, 0.7])
def test_a_trajectory_of_another_kind_of_model_is_a_sentence(sd1, quantile):
    with torch.inference_mode(), pytest.raises(ValueError, match="trajectory of Proximal Guidance was made with"):
        ProximalGuidance.execute(sd1[0], quantile, trajectory=prepared("sdxl")[2])


def test_pull_draws_what_does_not_change_to_the_source(sd1):
    model, raw, trajectory = sd1
    latent = torch.zeros_like(raw)
    pulled = ProximalGuidance.execute(model, 1.0, trajectory=trajectory, pull=1.0, pull_from=0.0, grow=0).args[0]
    assert torch.allclose(sample(pulled, latent), raw, atol=1e-3)
    free = ProximalGuidance.execute(model, 0.7, trajectory=trajectory, pull=0.0).args[0]
    assert torch.equal(sample(free, latent), sample(ProximalGuidance.execute(model, 0.7).args[0], latent))
    with pytest.raises(ValueError, match="another size"):
        sample(pulled, torch.zeros(1, 4, 4, 4))


def test_models_without_a_negative_are_a_sentence():
    with torch.inference_mode():
        model = tiny_model("flux")
        model.model.diffusion_model.params.guidance_embed = True
        for call in (
            lambda: ProximalGuidance.execute(model),
            lambda: NullTextOptimize.execute(model, prepared("sd1")[2], tiny_cond("flux")),
        ):
            with pytest.raises(ValueError, match="unconditional"):
                call()
    assert tiny_latent("flux").shape[1] == 16
