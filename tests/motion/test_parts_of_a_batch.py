"""A batch that does not fit goes through the sampler in parts, which come out as the whole would."""

from types import SimpleNamespace

import comfy.model_management
import comfy.samplers
import pytest
import torch
from palimpsest.guidance.flow.fields import Transform, transform_flow
from palimpsest.guidance.motion.cropped_loss import cropped_loss
from palimpsest.guidance.motion.loss import counted_pixels
from palimpsest.guidance.motion.recipe import Record, StepRecord, combined
from palimpsest.host.batching import cuttable
from palimpsest.host.images import as_pictures
from palimpsest.host.motion.decode import DifferentiableVAE
from palimpsest.host.motion.networks import Tools
from palimpsest.host.motion.sampler import FlowGuidanceSampler
from palimpsest.inversion.trajectory import Trajectory
from palimpsest.nodes.motion import prepared
from palimpsest.nodes.motion_report import report

from ..tiny_models import tiny_cond, tiny_latent, tiny_model, tiny_vae
from .test_cropped_loss import goal
from .test_motion_host import FAST, SLOW, taesd

ROWS, SIGMAS = 3, (5.0, 2.0, 0.7, 0.0)


@pytest.fixture(scope="module")
def models():
    with torch.inference_mode():
        return tiny_model("sd1"), tiny_vae()


def three_motions(size=64):
    """Every row has a picture, a flow and so a window of its own."""
    mask = torch.zeros(1, size, size)
    mask[:, 12:36, 10:34] = 1
    flow = torch.cat([transform_flow(mask, Transform(move=move)) for move in ((16, 8), (-6, 2), (9, 20))])
    image = torch.rand(ROWS, size, size, 3, generator=torch.Generator().manual_seed(3))
    return prepared(flow, None, as_pictures(image), 4, None)


def sample(model, sampler, at_once, monkeypatch, callback=None, noise_mask=None):
    """With a prompt for each row; at_once: the rows that fit by the host's estimate."""
    monkeypatch.setattr(sampler, "_load", lambda *_: at_once)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(tiny_cond("sd1", batch=ROWS), tiny_cond("sd1", seed=1))
    guider.set_cfg(3.0)
    latent, noise = tiny_latent("sd1", batch=ROWS), tiny_latent("sd1", batch=ROWS, seed=7)
    options = {"denoise_mask": noise_mask, "seed": 1, "callback": callback, "disable_pbar": True}
    return guider.sample(noise, latent, sampler, torch.tensor(SIGMAS), **options)


def trajectory(refined=False):
    latents = torch.stack([tiny_latent("sd1", batch=ROWS, seed=seed) for seed in range(4)])
    facts = {"prompt": None, "cfg": 1.0, "fingerprint": "", "prediction": "eps", "latent_format": "SD15"}
    evaluated = latents[1:] + 1 if refined else None
    return Trajectory(torch.tensor(SIGMAS).flip(0).contiguous(), latents, **facts, evaluated=evaluated)


def alike(one, other):
    """Up to rounding: the values of random models are large."""
    return torch.allclose(one, other, rtol=0, atol=1e-5 * float(other.abs().max()))


@torch.inference_mode()
@pytest.mark.parametrize("recipe, small", [(FAST, True), (SLOW, False)], ids=["fast", "faithful"])
def test_parts_come_out_as_the_whole(models, monkeypatch, recipe, small):
    model, vae = models[0], taesd() if small else models[1]
    results, records = [], []
    mask = torch.ones(ROWS, 1, 64, 64)
    mask[1, :, :, 32:] = 0
    for at_once in (3, 2):
        sampler = FlowGuidanceSampler(three_motions(), Tools(vae), recipe)
        results.append(sample(model, sampler, at_once, monkeypatch, noise_mask=mask))
        records.append(sampler.record)
    whole, parts = records
    assert alike(*results) and parts.model_calls == 2 * whole.model_calls
    for field in ("sigma", "colour", "pull"):
        one, other = ([getattr(step, field) for step in record.steps] for record in records)
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


@torch.inference_mode()
@pytest.mark.parametrize("refined", [False, True])
def test_each_row_keeps_its_own_trajectory(models, monkeypatch, refined):
    model, vae = models
    results = []
    for at_once in (3, 1):
        sampler = FlowGuidanceSampler(three_motions(), Tools(vae), FAST, trajectory=trajectory(refined))
        monkeypatch.setattr(sampler, "_check", lambda *_: None)
        results.append(sample(model, sampler, at_once, monkeypatch))
    assert alike(*results) and not alike(*results[0][:2])


@torch.inference_mode()
def test_the_host_is_shown_the_whole_batch_and_a_bar_that_only_grows(models, monkeypatch):
    model, vae = models
    seen = []
    sampler = FlowGuidanceSampler(three_motions(), Tools(vae), FAST)
    callback = lambda step, x0, x, total: seen.append((step, x0.clone(), total))
    result = sample(model, sampler, 2, monkeypatch, callback=callback)
    places = [step for step, _, _ in seen]
    assert places == sorted(set(places)) and {total for _, _, total in seen} == {places[-1] + 1}
    assert all(x0.shape[0] == ROWS for _, x0, _ in seen)
    assert alike(model.model.process_latent_out(seen[-1][1]), result)


@torch.inference_mode()
def test_a_part_that_does_not_fit_after_all_is_halved_and_what_is_done_stays(models, monkeypatch):
    model, vae = models
    expected = sample(model, FlowGuidanceSampler(three_motions(), Tools(vae), FAST), 3, monkeypatch)
    decode, sizes = DifferentiableVAE.decode, []

    def short(self, latent):
        sizes.append(latent.shape[0])
        if latent.shape[0] > 1:
            raise torch.OutOfMemoryError("out of memory")
        return decode(self, latent)

    monkeypatch.setattr(DifferentiableVAE, "decode", short)
    sampler = FlowGuidanceSampler(three_motions(), Tools(vae), FAST)
    assert alike(sample(model, sampler, 3, monkeypatch), expected)
    assert "in 3 parts" in report(sampler)
    assert sizes.count(3) == 1 and len(sampler.parts) == ROWS and sampler.record.model_calls == ROWS * (len(SIGMAS) - 1)


@torch.inference_mode()
def test_an_interruption_between_parts_stops_the_run(models, monkeypatch):
    model, vae = models
    sampler, steps = FlowGuidanceSampler(three_motions(), Tools(vae), FAST), len(SIGMAS) - 1

    def stop(step, x0, x, total):
        if step + 1 == steps:  # the first part is done
            comfy.model_management.interrupt_current_processing()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(model, sampler, 1, monkeypatch, callback=stop)
    assert len(sampler.parts) == 1
    assert torch.isfinite(sample(model, sampler, 1, monkeypatch)).all()


@torch.inference_mode()
def test_the_rows_at_once_are_those_that_the_host_has_memory_for(models, monkeypatch):
    model, vae = models
    sampler, asked = FlowGuidanceSampler(three_motions(), Tools(vae), SLOW), []
    management = comfy.model_management
    monkeypatch.setattr(management, "load_models_gpu", lambda _, **numbers: asked.append(numbers))
    monkeypatch.setattr(management, "is_device_cpu", lambda _: False)
    wrap = SimpleNamespace(model_patcher=model, loaded_models=[])
    load = lambda free: (
        monkeypatch.setattr(management, "get_free_memory", lambda _: free) or sampler._load(wrap, (8, 4, 8, 8))
    )
    assert load(1e15) == 8 and load(0) == 0
    least, most = asked[0]["minimum_memory_required"], asked[0]["memory_required"]
    assert 0 < least < most
    assert load(least) == 1 and 1 < load((least + most) / 2) < 8
    sampler._cuttable = False
    load(1e15)
    assert asked[-1]["minimum_memory_required"] == most


@torch.inference_mode()
def test_a_batch_whose_rows_are_distinguished_stays_whole(models, monkeypatch):
    model, vae = models
    hint = SimpleNamespace(cond_hint_original=torch.zeros(2, 3, 8, 8), previous_controlnet=None)
    guider = SimpleNamespace(model_patcher=model, conds={"positive": [{}], "negative": None})
    assert cuttable(guider)
    assert not cuttable(SimpleNamespace(model_patcher=model, conds={"positive": [{"control": hint}]}))
    patched = model.clone()
    patched.add_wrapper_with_key(
        "outer_sample", "palimpsest_anchor", lambda executor, *args, **kw: executor(*args, **kw)
    )
    assert not cuttable(SimpleNamespace(model_patcher=patched, conds={}))
    sampler = FlowGuidanceSampler(three_motions(), Tools(vae), FAST)
    sample(patched, sampler, 1, monkeypatch)
    assert len(sampler.parts) == 1
    monkeypatch.setattr(DifferentiableVAE, "decode", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError, match="fewer than 3 pictures"):
        sample(patched, sampler, 1, monkeypatch)
    with pytest.raises(MemoryError, match="gradient_vae") as raised:
        sample(model, sampler, 1, monkeypatch)
    assert "fewer" not in str(raised.value)


def test_a_part_of_a_batch_is_seen_through_windows_of_the_wholes_size():
    _, whole = goal(((9, 4), (20, 15), (2, 1)))
    _, one = goal(((9, 4),))
    beside = counted_pixels(whole.landing, 1)
    assert cropped_loss(one, 1, beside=beside).size == cropped_loss(whole, 1).size
    assert cropped_loss(one, 1, beside=beside).corners[0] == cropped_loss(whole, 1).corners[0]


def test_records_of_parts_add_up_and_losses_are_means_over_the_pictures():
    first = Record([StepRecord(2.0, None, None, 3.0), StepRecord(1.0, 0.2, 4.0, 1.0)], model_calls=2, damped=1)
    second = Record([StepRecord(2.0, None, None, 0.0), StepRecord(1.0, 0.5, 1.0, 1.0)], model_calls=2, not_finite=3)
    both = combined([(2, first), (1, second)])
    assert (both.model_calls, both.damped, both.not_finite) == (4, 1, 3)
    assert both.steps[0] == StepRecord(2.0, None, None, pytest.approx(6**0.5))
    assert both.steps[1] == StepRecord(1.0, pytest.approx(0.3), pytest.approx(3.0), pytest.approx(1.0))
    assert combined([(2, first)]) is first
