"""The networks beside the model: which decoder takes the gradients, the flow network at work, and short memory."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import comfy.latent_formats
import comfy.model_management
import folder_paths
import pytest
import torch
from palimpsest.guidance.motion.recipe import DRAFT
from palimpsest.host.motion import networks, sampler as motion_sampler
from palimpsest.host.motion.decode import DifferentiableVAE
from palimpsest.host.motion.networks import Tools, preview_decoder
from palimpsest.host.motion.sampler import FlowGuidanceSampler
from palimpsest.papercut.evaluate import FLOW_FILE
from safetensors.torch import save_file

from ..tiny_models import tiny_latent, tiny_model, tiny_vae
from .test_motion_host import FAST, SLOW, motion, sample, taesd


@pytest.fixture(scope="module")
def models():
    with torch.inference_mode():
        return tiny_model("sd1"), tiny_vae()


@pytest.fixture
def approx(tmp_path, monkeypatch):
    """A folder models/vae_approx of this test's own."""
    kinds = folder_paths.folder_names_and_paths
    monkeypatch.setitem(kinds, "vae_approx", ([str(tmp_path)], kinds["vae_approx"][1]))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


def decoder_file(folder, name):
    weights = taesd().first_stage_model.taesd_decoder.state_dict()
    save_file({key: value.clone().contiguous() for key, value in weights.items()}, folder / f"{name}.safetensors")
    return weights


@torch.inference_mode()
def test_the_hosts_preview_decoder_takes_the_gradients_where_its_file_lies(models, approx, caplog):
    model, vae = models
    latent = tiny_latent("sd1")
    moving = motion(image=taesd().decode(latent))
    sampler = FlowGuidanceSampler(moving, Tools(vae), FAST)
    whole = sample(model, sampler, latent)
    assert sampler.tools.decoder is vae
    assert "put taesd_decoder.safetensors into models/vae_approx" in caplog.text
    weights = decoder_file(approx, "taesd_decoder")
    folder_paths.filename_list_cache.clear()
    caplog.clear()
    found = sample(model, sampler, latent)
    network = sampler.tools.decoder.first_stage_model
    assert torch.equal(network.taesd_decoder[1].weight, weights["1.weight"]) and "vae_approx" not in caplog.text
    connected = sample(model, FlowGuidanceSampler(moving, Tools(vae, gradient_vae=taesd()), FAST), latent)
    assert torch.equal(found, connected) and not torch.equal(found, whole)


@torch.inference_mode()
def test_a_vae_that_is_small_itself_drafts_and_faithful_runs_look_for_no_decoder(models, approx, caplog):
    decoder_file(approx, "taesd_decoder")
    form = comfy.latent_formats.SD15()
    for vae, recipe in ((taesd(), FAST), (models[1], DRAFT), (models[1], SLOW)):
        tools = Tools(vae)
        assert tools.with_decoder(recipe, form) is tools
    assert "gradient_vae" not in caplog.text


@torch.inference_mode()
def test_a_draft_with_a_full_vae_decodes_nothing(models):
    model, vae = models
    for decoder, decodes in ((vae, 0), (taesd(), 1)):
        sampler = FlowGuidanceSampler(motion(), Tools(decoder), DRAFT)
        sample(model, sampler, tiny_latent("sd1"))
        assert sampler.record.decodes == decodes and sampler.record.model_calls == 3


@torch.inference_mode()
def test_a_preview_decoder_reads_the_latents_of_its_own_family(approx, caplog):
    decoder_file(approx, "taesdxl_decoder")
    form = comfy.latent_formats.SDXL()
    network = preview_decoder(form).first_stage_model
    assert float(network.vae_scale) == pytest.approx(form.scale_factor) and float(network.vae_shift) == 0
    save_file({"1.weight": torch.zeros(3)}, approx / "taesd3_decoder.safetensors")
    folder_paths.filename_list_cache.clear()
    assert preview_decoder(comfy.latent_formats.SD3()) is None and "is no preview decoder of this model" in caplog.text
    # Another file, latents with a scale for each channel, and a decoder that is not there.
    for other in ("SD15", "SDXL_Playground_2_5", "SD_X4"):
        assert preview_decoder(getattr(comfy.latent_formats, other)()) is None


@torch.inference_mode()
def test_both_vaes_must_belong_to_the_model_and_the_latent_to_the_motions(models):
    model, vae = models
    latent = tiny_latent("sd1")
    with pytest.raises(ValueError, match="The VAE is of another family"):
        sample(model, FlowGuidanceSampler(motion(), Tools(tiny_vae(16), gradient_vae=vae), FAST), latent)
    with pytest.raises(ValueError, match="The VAE for the gradients is of another family"):
        sample(model, FlowGuidanceSampler(motion(), Tools(vae, gradient_vae=tiny_vae(16)), FAST), latent)
    three = FlowGuidanceSampler(motion(batch=3), Tools(vae), FAST)
    for rows in (1, 2):
        with pytest.raises(ValueError, match=f"make 3 motions, but the latent holds {rows}.*Repeat Latent Batch"):
            sample(model, three, tiny_latent("sd1", batch=rows))
    assert sample(model, FlowGuidanceSampler(motion(), Tools(vae), FAST), tiny_latent("sd1", batch=2)).shape[0] == 2


@torch.inference_mode()
def test_control_nets_and_the_like_are_loaded_with_the_rest(models, monkeypatch):
    model, vae = models
    sampler, seen, control = FlowGuidanceSampler(motion(), Tools(vae), FAST), [], object()
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda given, **_: seen.extend(given))
    assert sampler._load(SimpleNamespace(model_patcher=model, loaded_models=[control]), (1, 4, 8, 8)) == 1
    assert seen == [model, control, vae.patcher]


@torch.inference_mode()
def test_gradients_in_less_memory_are_the_same_gradients(models, monkeypatch):
    model, vae = models
    latent, results, entered = tiny_latent("sd1"), [], []
    whole = motion_sampler.Session.checkpointed
    monkeypatch.setattr(motion_sampler.Session, "checkpointed", lambda session: entered.append(1) or whole(session))
    for sparing in (False, True):
        sampler = FlowGuidanceSampler(motion(), Tools(vae), SLOW)
        monkeypatch.setattr(sampler, "_load", lambda *_, short=sparing: 0 if short else 1)
        results.append(sample(model, sampler, latent))
        assert len(entered) == sparing * sampler.record.model_gradients
    assert torch.allclose(*results, atol=1e-5)


@torch.inference_mode()
def test_a_faithful_run_that_finds_no_memory_begins_again_in_less(models, monkeypatch, caplog):
    model, vae = models
    latent, decode, calls = tiny_latent("sd1"), DifferentiableVAE.decode, []
    expected = sample(model, FlowGuidanceSampler(motion(), Tools(vae), SLOW), latent)

    def short(self, latent):
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("out of memory")
        return decode(self, latent)

    monkeypatch.setattr(DifferentiableVAE, "decode", short)
    sampler = FlowGuidanceSampler(motion(), Tools(vae), SLOW)
    assert torch.allclose(sample(model, sampler, latent), expected, atol=1e-5)
    assert sampler.sparing and sampler.record.model_calls == 6 and "activations are computed twice" in caplog.text
    calls.clear()
    with pytest.raises(MemoryError, match="small preview decoder"):
        sample(model, FlowGuidanceSampler(motion(), Tools(vae), FAST), latent)


@pytest.fixture(scope="module")
def optical_flow():
    """Papercut's OPTICAL_FLOW, as the host's own loader node gives it."""
    from palimpsest.benchmarks.motion.fixtures import flow_model

    if not FLOW_FILE.exists():
        pytest.skip("Papercut's flow network is not here")
    with torch.inference_mode():
        return flow_model()


@torch.inference_mode()
@pytest.mark.parametrize("recipe", [replace(FAST, flow_every=2), replace(SLOW, recursion=1)], ids=["fast", "faithful"])
def test_the_flow_network_guides_under_the_hosts_guider_and_can_be_interrupted(models, optical_flow, recipe):
    model, vae = models
    latent, moving = tiny_latent("sd1", size=(16, 16)), motion((24, 16), size=128)
    sampler = FlowGuidanceSampler(moving, Tools(vae, optical_flow, updates=2), recipe)
    result = sample(model, sampler, latent)
    record, asked = sampler.record, 3 if recipe.faithful else 1
    assert torch.isfinite(result).all()
    assert record.flow_gradients == asked == sum(step.flow is not None for step in record.steps)
    assert record.flow_calls == asked + (not recipe.faithful)  # fast: once more, for the least that it can say
    assert not torch.equal(result, sample(model, FlowGuidanceSampler(moving, Tools(vae), recipe), latent))
    assert all(weight.grad is None for weight in optical_flow.model.parameters())

    def stop(*_):
        comfy.model_management.interrupt_current_processing()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(model, sampler, latent, callback=stop)
    assert len(sampler.record.steps) == 1 and torch.is_inference_mode_enabled()
    assert torch.equal(sample(model, sampler, latent), result)


@pytest.mark.parametrize("small, faithful, rows, network", itertools.product((False, True), repeat=4))
def test_what_helps_against_short_memory_is_what_is_not_done_yet(monkeypatch, small, faithful, rows, network):
    monkeypatch.setattr(networks, "is_small", lambda vae: small)
    tools = Tools(object(), object() if network else None)
    text = networks.too_large(replace(DRAFT, faithful=faithful), tools, rows=4 if rows else 1)
    assert ("gradient_vae" in text) is not small and ("faithful" in text) is faithful
    assert ("fewer than 4 pictures" in text) is rows and ("optical_flow" in text) is network
    assert ("smaller picture" in text) is (small and not faithful and not rows and not network)
