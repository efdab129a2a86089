"""The sampler under the host's own guider and models (tiny random ones), as stock nodes would run it."""

from dataclasses import replace

import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy.taesd.taesd
import pytest
import torch
from palimpsest.guidance.flow.fields import Transform, transform_flow
from palimpsest.guidance.motion.recipe import FAITHFUL, MotionRecipe
from palimpsest.host.family import latent_format_name, prediction
from palimpsest.host.fingerprint import fingerprint
from palimpsest.host.images import as_pictures
from palimpsest.host.motion.networks import Tools
from palimpsest.host.motion.sampler import FlowGuidanceSampler
from palimpsest.inversion.trajectory import Trajectory
from palimpsest.nodes.motion import prepared, started
from palimpsest.nodes.motion_report import report

from ..tiny_models import tiny_cond, tiny_latent, tiny_model, tiny_vae

FAST = MotionRecipe(pull_from=0.0)
SLOW = replace(FAITHFUL, recursion=2)


@pytest.fixture(scope="module")
def models():
    with torch.inference_mode():
        return tiny_model("sd1"), tiny_vae()


def motion(move=(16, 8), batch=1, size=64, image=None):
    """image: what a decoder makes of the latent; a picture that it cannot show is not pulled beyond its own error."""
    mask = torch.zeros(batch, size, size)
    mask[:, 12:36, 10:34] = 1
    if image is None:
        image = torch.rand(batch, size, size, 3, generator=torch.Generator().manual_seed(3))
    return prepared(transform_flow(mask, Transform(move=move)), None, as_pictures(image), 4, None)


def sample(model, sampler, latent, sigmas=(5.0, 2.0, 0.7, 0.0), seed=1, noise_mask=None, callback=None):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(tiny_cond("sd1"), tiny_cond("sd1", seed=1))
    guider.set_cfg(3.0)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    return guider.sample(
        noise,
        latent,
        sampler,
        torch.tensor(sigmas),
        denoise_mask=noise_mask,
        seed=seed,
        callback=callback,
        disable_pbar=True,
    )


def scaled(model, latent):
    return model.model.process_latent_out(model.model.process_latent_in(latent))


@torch.inference_mode()
@pytest.mark.parametrize("recipe", [FAST, SLOW])
def test_only_what_may_change_changes_and_stock_sampling_is_as_before(models, recipe):
    model, vae = models
    latent, moving = tiny_latent("sd1"), motion()
    euler = comfy.samplers.ksampler("euler")
    before = sample(model, euler, latent)
    moved = replace(moving, started=started(vae, moving.picture)) if recipe is FAST else moving
    sampler = FlowGuidanceSampler(moved, Tools(vae), recipe)
    result = sample(model, sampler, latent)
    free = torch.nn.functional.adaptive_max_pool2d(moving.edit[:, None].float(), (8, 8)).expand_as(latent) > 0
    assert torch.equal(result[~free], scaled(model, latent)[~free])
    assert torch.isfinite(result).all() and not torch.equal(result[free], latent[free])
    assert torch.equal(result, sample(model, sampler, latent))
    assert torch.equal(before, sample(model, euler, latent))
    assert not any(weight.requires_grad for weight in model.model.parameters())
    record = sampler.record
    assert record.model_calls == (3 if recipe is FAST else 6)
    assert record.model_gradients == (0 if recipe is FAST else 6)
    assert record.decoder_gradients == 6 and f"{record.model_calls} evaluations" in report(sampler)


@torch.inference_mode()
def test_zero_flow_gives_the_latent_back(models):
    model, vae = models
    latent = tiny_latent("sd1")
    for recipe in (FAST, SLOW):
        assert torch.equal(
            sample(model, FlowGuidanceSampler(motion((0, 0)), Tools(vae), recipe), latent), scaled(model, latent)
        )


@torch.inference_mode()
def test_guidance_lowers_the_loss_of_the_clean_estimate(models):
    model, vae = models[0], taesd()
    latent = tiny_latent("sd1")
    goal = motion(image=vae.decode(latent))
    losses = []
    # Without guidance, following the moved latent alone, and pulled as well.
    for numbers in ({"guidance": 0.0}, {"inner": 0}, {"inner": 6}):
        sampler = FlowGuidanceSampler(goal, Tools(vae), replace(FAST, **numbers))
        result = sample(model, sampler, latent)
        picture = as_pictures(vae.decode(result))
        arrived = goal.landing.arrived
        from palimpsest.guidance.flow.warp import forward_warp

        losses.append(float((picture - forward_warp(goal.picture, goal.landing)).abs().mean(dim=1)[arrived].mean()))
    assert losses[2] < 0.95 * losses[1] < 0.95 * 0.95 * losses[0], losses


def taesd():
    """A preview decoder of random weights, in the layout that the host and Papercut use."""
    network = comfy.taesd.taesd.TAESD()
    generator = torch.Generator().manual_seed(0)
    for _name, weight in network.named_parameters():
        weight.data.normal_(0, 0.7 * weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.05, generator=generator)
    network.vae_scale.data.fill_(0.18215)
    network.vae_shift.data.fill_(0.0)
    return comfy.sd.VAE(sd=network.state_dict())


@torch.inference_mode()
def test_a_decoder_of_the_taesd_kind_sees_only_what_arrives_and_pulls_alike(models, monkeypatch):
    from palimpsest.host.motion import rows as motion_rows

    model, small, latent = models[0], taesd(), tiny_latent("sd1", size=(16, 16))
    goal, seen, results = motion((24, 16), size=128, image=small.decode(latent)), [], []
    closer = motion_rows.cropped_loss
    for make in (lambda *given, **more: seen.append(closer(*given, **more)) or seen[-1], lambda *_, **__: None):
        monkeypatch.setattr(motion_rows, "cropped_loss", make)
        results.append(sample(model, FlowGuidanceSampler(goal, Tools(small), FAST), latent))
    assert len(seen) == 1 and seen[0].fraction < 0.5
    unguided = sample(model, FlowGuidanceSampler(goal, Tools(small), replace(FAST, inner=0)), latent)
    near, far = ((one - results[1]).norm() for one in (results[0], unguided))
    # Random weights read far beyond the margin.
    assert far > 0 and near < 0.25 * far


@torch.inference_mode()
def test_a_trajectory_keeps_what_stays_on_its_way(models):
    model, vae = models
    latent = tiny_latent("sd1")
    clean = model.model.process_latent_in(latent)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(9))
    levels = torch.tensor([0.0, 0.7, 2.0, 5.0])
    path = torch.stack([clean + level * noise for level in levels])
    trajectory = Trajectory(levels, path, "", 1.0, fingerprint(model), prediction(model), latent_format_name(model))
    moving = motion()
    free = torch.nn.functional.adaptive_max_pool2d(moving.edit[:, None].float(), (8, 8)).expand_as(latent) > 0
    seen = []
    for recipe in (FAST, SLOW):
        sampler = FlowGuidanceSampler(moving, Tools(vae), recipe, trajectory=trajectory)
        result = sample(
            model,
            sampler,
            torch.zeros_like(latent),
            sigmas=(5.0, 2.0, 0.7),
            callback=lambda i, x0, x, n: seen.append((i, n)),
        )
        kept = model.model.process_latent_in(result)[~free]
        assert torch.equal(kept.round(decimals=3), path[1][~free].round(decimals=3))
    assert seen == [(0, 2), (1, 2)] * 2


@torch.inference_mode()
def test_a_noise_mask_narrows_what_may_change(models):
    model, vae = models
    latent, mask = tiny_latent("sd1"), torch.zeros(1, 8, 8)
    mask[:, :, :3] = 1
    result = sample(model, FlowGuidanceSampler(motion(), Tools(vae), FAST), latent, noise_mask=mask)
    assert torch.equal(result[..., 3:], scaled(model, latent)[..., 3:])
    assert not torch.equal(result[..., :3], scaled(model, latent)[..., :3])


@torch.inference_mode()
def test_wrong_inputs_are_named(models):
    model, vae = models
    sampler = FlowGuidanceSampler(motion(), Tools(vae), FAST)
    with pytest.raises(ValueError, match="The picture is 64 x 64, but the latent is that of 128 x 64"):
        sample(model, sampler, tiny_latent("sd1", size=(8, 16)))
    with pytest.raises(ValueError, match="latent image is empty"):
        sample(model, sampler, torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match="another family"):
        sample(model, FlowGuidanceSampler(motion(), Tools(tiny_vae(16)), FAST), tiny_latent("sd1"))


@torch.inference_mode()
def test_a_vae_without_an_encoder_moves_the_latent_itself(models):
    model, _ = models
    moving = motion()
    blank = tiny_vae()
    for weight in blank.first_stage_model.encoder.parameters():
        weight.fill_(torch.nan)
    assert started(blank, moving.picture) is None
    result = sample(model, FlowGuidanceSampler(moving, Tools(blank), FAST), tiny_latent("sd1"))
    assert torch.isfinite(result).all()


@torch.inference_mode()
def test_an_interruption_leaves_everything_as_it_was(models):
    model, vae = models
    latent = tiny_latent("sd1")
    before = sample(model, comfy.samplers.ksampler("euler"), latent)

    def stop(*_):
        comfy.model_management.interrupt_current_processing()

    for recipe in (FAST, SLOW):
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            sample(model, FlowGuidanceSampler(motion(), Tools(vae), recipe), latent, callback=stop)
        assert torch.is_inference_mode_enabled()
        assert torch.equal(before, sample(model, comfy.samplers.ksampler("euler"), latent))
