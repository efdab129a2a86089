"""Flow Guidance Sampler as the node makes it: every input reaches the run, and what is missing is said."""

from types import SimpleNamespace

import pytest
import torch
from palimpsest.guidance.flow.fields import Transform, transform_flow
from palimpsest.guidance.motion.recipe import DRAFT, FAITHFUL, NORMAL
from palimpsest.nodes.motion import FlowGuidanceSamplerNode, recipe_of
from palimpsest.nodes.motion_report import FlowGuidanceReport
from palimpsest.papercut.networks import FILE

from ..tiny_models import tiny_latent, tiny_model, tiny_vae
from .test_motion_host import sample, scaled, taesd


@pytest.fixture(scope="module")
def models():
    with torch.inference_mode():
        return tiny_model("sd1"), tiny_vae()


def made(vae, image=None, **inputs):
    """The node's SAMPLER for a square of 24 pixels that goes to the right and down."""
    mask = torch.zeros(1, 64, 64)
    mask[:, 12:36, 10:34] = 1
    if image is None:
        image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    given = (
        dict(
            vae=vae,
            flow=transform_flow(mask, Transform(move=(16, 8))),
            image=image,
            preset="normal",
            strength=1.0,
            grow=4,
        )
        | inputs
    )
    return FlowGuidanceSamplerNode.execute(**given).args[0]


def recipe(
    preset="normal",
    strength=1.0,
    start=0.0,
    end=1.0,
    curve=None,
    recursion=0,
    inner=0,
    flow_every=-1,
    clip=200.0,
    follow=-1.0,
):
    return recipe_of(preset, strength, start, end, curve, recursion, inner, flow_every, clip, follow)


@pytest.mark.parametrize("preset, base", [("normal", NORMAL), ("draft", DRAFT), ("faithful", FAITHFUL)])
def test_numbers_left_alone_are_the_presets(preset, base):
    assert recipe(preset) == base
    assert recipe(preset, flow_every=0).flow_every == 0 and recipe(preset, follow=0.0).follow == 0
    changed = recipe(preset, strength=0.5, recursion=3, inner=7, flow_every=2, clip=0.0, follow=0.9)
    assert (changed.guidance, changed.recursion, changed.inner) == (0.5 * base.guidance, 3, 7)
    assert (changed.flow_every, changed.clip, changed.follow, changed.faithful) == (2, 0.0, 0.9, base.faithful)


@torch.inference_mode()
def test_a_missing_optical_flow_model_is_said_and_a_wrong_one_refused(models, caplog):
    made(models[1])
    assert "No optical-flow model is connected: the colours alone guide." in caplog.text
    with pytest.raises(ValueError, match="'optical_flow' is not torchvision's RAFT-large"):
        made(models[1], optical_flow=SimpleNamespace(model=torch.nn.Linear(2, 2)))


@torch.inference_mode()
def test_the_edit_mask_takes_the_place_of_the_flows_own(models):
    model, vae = models
    mask, latent = torch.zeros(1, 32, 32), tiny_latent("sd1")
    mask[:, :, 16:] = 1  # of half the picture's size: the right half
    sampler = made(vae, edit_mask=mask)
    assert torch.equal(sampler.motion.edit, torch.arange(64).expand(1, 64, 64) >= 32)
    result, before = sample(model, sampler, latent), scaled(model, latent)
    assert torch.equal(result[..., :4], before[..., :4]) and not torch.equal(result[..., 4:], before[..., 4:])
    # Where nothing moves the model paints as well, for the mask lets it.
    assert not torch.equal(result[..., :1, 7:], before[..., :1, 7:])


@torch.inference_mode()
def test_the_window_and_the_curve_decide_which_steps_are_pulled(models):
    model, vae = models
    asked = []
    curve = SimpleNamespace(interp=lambda fraction: asked.append(fraction) or fraction)
    sampler = made(vae, start=0.4, end=0.9, curve=curve)
    sample(model, sampler, tiny_latent("sd1"), sigmas=(5.0, 3.0, 1.5, 0.7, 0.3, 0.0))
    # Of five steps at 0, 1/4, 1/2, 3/4 and 1 of the run those between 0.4 and 0.9.
    assert [step.sigma for step in sampler.record.steps] == pytest.approx([1.5, 0.7])
    assert asked == pytest.approx([0.5, 0.75]) and sampler.record.model_calls == 5


@torch.inference_mode()
def test_no_strength_pulls_nothing_but_starts_from_the_moved_picture(models):
    model, _ = models
    latent = tiny_latent("sd1")
    sampler = made(taesd(), strength=0.0)
    sample(model, sampler, latent)
    assert all(step.pull == 0 for step in sampler.record.steps)


@torch.inference_mode()
def test_the_gradient_vae_decodes_and_the_report_counts(models, monkeypatch):
    model, vae = models
    small = taesd()
    sampler = made(vae, gradient_vae=small)
    assert sampler.tools.vae is vae and sampler.tools.decoder is small
    monkeypatch.setattr(vae.first_stage_model, "decode", lambda *_: pytest.fail("the full VAE decodes"))
    sample(model, sampler, tiny_latent("sd1"))
    picture, text = FlowGuidanceReport.execute(sampler=sampler, latent={}).args
    # Three steps, the last two of them pulled twice each; the floor and the last pull are looked at beside.
    assert "3 evaluations of the model, 0 of them differentiated" in text
    assert "6 calls of the decoder, 4 of them differentiated" in text
    assert "0 calls of the flow network" in text and "Colour loss" in text and picture.shape[-1] == 3


@torch.inference_mode()
@pytest.mark.skipif(not FILE.exists(), reason="Papercut's weights are not here")
def test_a_vae_that_gives_the_picture_back_starts_the_run(caplog):
    """Papercut's own VAE and a scene of its own: the moved picture's latent, not the moved latent."""
    from palimpsest.papercut.scenes import SPLITS, sample_scene
    from palimpsest.papercut.shipped import load_shipped

    vae = load_shipped()[2]
    scene = sample_scene(SPLITS["validation"][0], objects=1)
    image = scene.render().movedim(0, -1)[None].contiguous()
    flow = transform_flow(scene.masks()[:1].float(), Transform(move=(24, 8)))
    sampler = made(vae, image, flow=flow)
    assert "does not give the picture back" not in caplog.text
    started = sampler.motion.started
    from palimpsest.guidance.flow.warp import forward_warp

    warped = forward_warp(sampler.motion.picture, sampler.motion.landing, grow=4)
    shown = vae.decode(started).movedim(-1, 1)
    assert started.shape == (1, 4, 32, 32) and float((shown - warped).abs().mean()) < 0.02
