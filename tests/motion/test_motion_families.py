"""The sampler on every family of models, v-prediction and flow models included, and in half precision."""

import comfy.samplers
import pytest
import torch
from palimpsest.host.family import prediction
from palimpsest.host.motion.networks import Tools
from palimpsest.host.motion.sampler import FlowGuidanceSampler
from palimpsest.nodes.motion_report import FlowGuidanceReport

from ..tiny_models import CHANNELS, tiny_cond, tiny_latent, tiny_model, tiny_vae
from .test_motion_host import FAST, SLOW, motion, scaled


def sample(model, family, sampler, latent):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(tiny_cond(family), tiny_cond(family, seed=1))
    guider.set_cfg(3.0)
    levels = (0.9, 0.6, 0.3, 0.0) if prediction(model) == "flow" else (5.0, 2.0, 0.7, 0.0)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    return guider.sample(noise, latent, sampler, torch.tensor(levels), seed=1, disable_pbar=True)


def assert_guided(model, family, vae, recipe):
    """What may not change is as it was, the rest is another, the loss is seen, and no flow changes nothing."""
    latent, moving = tiny_latent(family), motion()
    sampler = FlowGuidanceSampler(moving, Tools(vae), recipe)
    result, before = sample(model, family, sampler, latent), scaled(model, latent)
    free = torch.nn.functional.adaptive_max_pool2d(moving.edit[:, None].float(), (8, 8)).expand_as(latent) > 0
    assert torch.equal(result[~free], before[~free]) and torch.isfinite(result).all()
    assert (result - before)[free].abs().mean() > 0.05
    assert all(step.pull > 0 for step in sampler.record.steps) and sampler.record.damped < len(sampler.record.steps)
    assert sampler.record.model_gradients == (6 if recipe is SLOW else 0)
    assert "evaluations" in FlowGuidanceReport.execute(sampler=sampler, latent={}).args[1]
    still = FlowGuidanceSampler(motion((0, 0)), Tools(vae), recipe)
    assert torch.equal(sample(model, family, still, latent), before)


@torch.inference_mode()
@pytest.mark.parametrize("recipe", [FAST, SLOW], ids=["fast", "faithful"])
@pytest.mark.parametrize("family", ["sd2", "sdxl", "sd3", "flux"])
def test_every_family_is_guided(family, recipe):
    assert_guided(tiny_model(family), family, tiny_vae(CHANNELS[family]), recipe)


@torch.inference_mode()
@pytest.mark.parametrize("recipe", [FAST, SLOW], ids=["fast", "faithful"])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_models_and_vaes_in_half_precision_are_guided(kind, recipe):
    """As hosts load and run them on most GPUs; losses and latents stay in single precision."""
    model, vae = tiny_model("sd1", dtype=kind), tiny_vae()
    model.model.manual_cast_dtype = None
    vae.first_stage_model.to(kind)
    vae.vae_dtype = kind
    assert model.model.get_dtype_inference() == kind
    assert_guided(model, "sd1", vae, recipe)
