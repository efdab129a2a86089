"""The nodes in one process, on tiny models of every family: what goes in comes back, and bad input gets a sentence."""

import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import BasicGuider, CFGGuider, SamplerCustomAdvanced
from palimpsest.host import folders
from palimpsest.host.prompts import text_behind
from palimpsest.nodes.inversion import DDIMInvert, InversionCheck
from palimpsest.nodes.inversion_files import LoadTrajectory, SaveTrajectory

from ..tiny_models import tiny_cond, tiny_latent, tiny_model, tiny_vae

FAMILIES = ("sd1", "sd2", "sdxl", "sd3", "flux")


class TinyClip:
    """Remembers what it was asked to encode."""

    def __init__(self):
        self.texts = []

    def tokenize(self, text):
        self.texts.append(text)
        return text

    def encode_from_tokens_scheduled(self, tokens):
        return tiny_cond("sd1", seed=len(tokens))


def calm(family, seed=0):
    """A tiny model whose random answers change little with the latent, as a trained one's do: steps can be undone."""
    model = tiny_model(family, seed)
    network = model.model.diffusion_model
    last = network.out[-1] if hasattr(network, "out") else network.final_layer.linear
    with torch.no_grad():
        last.weight.mul_(0.01)
    return model


@pytest.fixture(scope="module")
def models():
    return {family: calm(family) for family in FAMILIES}


def schedule(model, steps=6):
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps).cpu()


def inverted(models, family="sd1", batch=1, refinement=8, **options):
    model = models[family]
    options = {"positive": tiny_cond(family), "sigmas": schedule(model), **options}
    latent = {"samples": tiny_latent(family, batch)}
    return DDIMInvert.execute(model, latent, refinement=refinement, **options).args


def replayed(model, guider, noise, sigmas, latent):
    euler = comfy.samplers.sampler_object("euler")
    return SamplerCustomAdvanced.execute(noise, guider, euler, sigmas, {"samples": latent}).args[0]["samples"]


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_nodes_bring_the_picture_back(models, family):
    model, latent = models[family], tiny_latent(family, 2)
    trajectory, _, noise = inverted(models, family, batch=2)
    guider = BasicGuider.execute(model, tiny_cond(family)).args[0]
    for start in (latent, torch.zeros_like(latent)):
        back = replayed(model, guider, noise, schedule(model), start)
        assert float((back - latent).abs().max()) < 1e-2 * float(latent.abs().max())
    assert trajectory.rows == 2 and len(trajectory) == 7 and trajectory.flow == (family in ("sd3", "flux"))


def test_the_same_guidance_brings_it_back_too(models):
    model, negative = models["sd1"], tiny_cond("sd1", seed=1)
    _, _, noise = inverted(models, cfg=2.0, negative=negative, sigmas=schedule(model, 20))
    guider = CFGGuider.execute(model, tiny_cond("sd1"), negative, 2.0).args[0]
    back = replayed(model, guider, noise, schedule(model, 20), tiny_latent("sd1"))
    assert float((back - tiny_latent("sd1")).abs().max()) < 2e-2


def test_the_inverted_latent_is_the_trajectorys_end(models):
    trajectory, latent, _ = inverted(models, "sdxl")
    scaled = models["sdxl"].model.process_latent_in(latent["samples"])
    assert torch.allclose(scaled, trajectory.latents[-1], rtol=1e-5, atol=1e-5)


def test_inputs_stay_as_they_are_and_unknown_keys_go_along(models):
    model = models["sd1"]
    latent = {"samples": tiny_latent("sd1"), "batch_index": [3], "noise_mask": torch.ones(1, 8, 8)}
    sigmas, before = schedule(model), latent["samples"].clone()
    made = DDIMInvert.execute(model, latent, sigmas, positive=tiny_cond("sd1"), refinement=0).args
    assert torch.equal(latent["samples"], before) and set(latent) == {"samples", "batch_index", "noise_mask"}
    assert torch.equal(sigmas, schedule(model))
    assert made[1]["batch_index"] == [3] and "noise_mask" not in made[1]


def test_twice_is_the_same_and_a_batch_is_its_rows(models):
    first, again = (inverted(models, batch=2, refinement=1)[0] for _ in range(2))
    assert torch.equal(first.latents, again.latents) and first.fingerprint == again.fingerprint
    alone = inverted(models, batch=1, refinement=1)[0]
    assert torch.allclose(first.latents[:, :1], alone.latents, atol=1e-4)


def test_where_memory_is_short_the_batch_is_cut_and_nothing_else_changes(models):
    """Two rows at a time do not fit; every row has a prompt of its own."""
    model = models["sdxl"]
    latent, prompts = {"samples": tiny_latent("sdxl", 3)}, tiny_cond("sdxl", batch=3)
    whole = DDIMInvert.execute(model, latent, schedule(model, 2), positive=prompts).args

    def narrow(executor, x, *args, **kwargs):
        if x.shape[0] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return executor(x, *args, **kwargs)

    small = model.clone()
    small.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "narrow", narrow)
    cut = DDIMInvert.execute(small, latent, schedule(model, 2), positive=prompts).args
    assert torch.allclose(cut[0].latents, whole[0].latents, atol=1e-4)
    assert torch.allclose(cut[1]["samples"], whole[1]["samples"], atol=1e-3)


def test_open_prompts_are_encoded_where_clip_is_there(models):
    clip = TinyClip()
    inverted(models, positive=None, clip=clip, refinement=0)
    assert clip.texts == [""]
    inverted(models, positive=None, clip=clip, cfg=2.0, refinement=0)
    assert clip.texts == ["", "", ""]


def call(models, **changes):
    options = {
        "model": models["sd1"],
        "latent": {"samples": tiny_latent("sd1")},
        "sigmas": schedule(models["sd1"], 2),
        "positive": tiny_cond("sd1"),
        "refinement": 0,
    }
    return DDIMInvert.execute(**{**options, **changes})


NAN = torch.full((1, 4, 8, 8), float("nan"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent": {"samples": torch.zeros(1, 4, 8, 8)}}, "empty"),
        ({"latent": {"samples": NAN}}, "NaN"),
        ({"latent": {"samples": torch.ones(1, 16, 8, 8)}}, "16 channels"),
        ({"latent": {"samples": torch.ones(1, 4, 2, 8, 8)}}, "built like a video model"),
        ({"positive": None}, "positive prompt is not connected"),
        ({"cfg": 2.0}, "negative prompt"),
        ({"sigmas": torch.tensor([])}, "0 noise level"),
        ({"sigmas": torch.tensor([120.0, 1.0, 0.0])}, "made for this model"),
        ({"sigmas": torch.tensor([0.0, 1.0, 14.0])}, "Flip Sigmas"),
    ],
)
def test_bad_input_gets_a_sentence(models, changes, message):
    with pytest.raises(ValueError, match=message):
        call(models, **changes)


@pytest.fixture(scope="module")
def vae():
    return tiny_vae()


@pytest.fixture
def files():
    """The folders that the running host makes known when it loads the pack."""
    folders.register()


def test_the_check_measures_and_shows(models, vae):
    trajectory = inverted(models, batch=2)[0]
    panel, back, psnr, ssim, report = InversionCheck.execute(
        models["sd1"], vae, trajectory, positive=tiny_cond("sd1")
    ).args
    assert back.shape == (2, 64, 64, 3) and panel.shape[0] == 2 and panel.shape[2] > 3 * 64
    assert psnr > 40 and ssim > 0.98 and "Reconstruction" in report and "Noise" in report
    assert 0 <= float(panel.min()) and float(panel.max()) <= 1


def test_the_check_sees_another_prompt(models, vae):
    trajectory = inverted(models)[0]
    right, wrong = (
        InversionCheck.execute(models["sd1"], vae, trajectory, positive=tiny_cond("sd1", seed=seed)).args[2]
        for seed in (0, 5)
    )
    assert right > wrong + 5


def test_the_check_compares_with_the_source_and_its_bound(models, vae):
    trajectory = inverted(models)[0]
    source = torch.rand(1, 68, 70, 3, generator=torch.Generator().manual_seed(0))
    report = InversionCheck.execute(models["sd1"], vae, trajectory, image=source, positive=tiny_cond("sd1")).args[4]
    assert "the VAE alone" in report
    with pytest.raises(ValueError, match="128 x 64"):
        InversionCheck.execute(
            models["sd1"], vae, trajectory, image=torch.rand(1, 64, 128, 3), positive=tiny_cond("sd1")
        )


def test_the_check_refuses_what_does_not_belong_together(models, vae):
    trajectory = inverted(models, refinement=0)[0]
    with pytest.raises(ValueError, match="connect the model of the inversion"):
        InversionCheck.execute(models["sdxl"], vae, trajectory, positive=tiny_cond("sdxl"))
    with pytest.raises(ValueError, match="another family"):
        InversionCheck.execute(models["sd1"], tiny_vae(16), trajectory, positive=tiny_cond("sd1"))


def test_a_saved_trajectory_serves_as_the_first(models, files):
    model = models["sd1"]
    trajectory, latent, _ = inverted(models)
    name = SaveTrajectory.execute(trajectory, "tests/kite").args[0]
    loaded, inverted_latent, noise, sigmas, source = LoadTrajectory.execute(model, name).args
    assert torch.equal(loaded.latents, trajectory.latents)
    assert torch.allclose(inverted_latent["samples"], latent["samples"], rtol=1e-5, atol=1e-5)
    assert torch.allclose(source["samples"], tiny_latent("sd1"), atol=1e-5)
    guider = BasicGuider.execute(model, tiny_cond("sd1")).args[0]
    back = replayed(model, guider, noise, sigmas, tiny_latent("sd1"))
    assert float((back - tiny_latent("sd1")).abs().max()) < 2e-2
    assert LoadTrajectory.fingerprint_inputs(file=name) and LoadTrajectory.fingerprint_inputs(file="none") == ""


def test_another_model_is_refused_unless_it_is_meant(models, files):
    name = SaveTrajectory.execute(inverted(models, refinement=0)[0], "tests/other").args[0]
    other = calm("sd1", seed=1)
    with pytest.raises(ValueError, match="another model"):
        LoadTrajectory.execute(other, name)
    assert LoadTrajectory.execute(other, name, any_model=True).args
    with pytest.raises(ValueError, match="latent format"):
        LoadTrajectory.execute(models["sdxl"], name, any_model=True)


def test_the_text_behind_a_prompt_is_found():
    graph = {
        "1": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red kite", "clip": ["9", 1]}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["9", 1]}},
        "3": {"class_type": "ControlNetApplyAdvanced", "inputs": {"positive": ["1", 0], "negative": ["2", 0]}},
        "4": {"class_type": "PalimpsestDDIMInvert", "inputs": {"positive": ["3", 0], "negative": ["3", 1]}},
        "5": {"class_type": "CLIPTextEncode", "inputs": {"text": ["6", 0]}},
        "6": {"class_type": "PrimitiveString", "inputs": {"value": "a blue kite"}},
        "7": {"class_type": "PalimpsestDDIMInvert", "inputs": {"positive": ["5", 0], "negative": ["99", 0]}},
    }
    assert text_behind(graph, "4", "positive").text == "a red kite"
    assert text_behind(graph, "4", "negative").text == "blurry"
    assert text_behind(graph, "7", "positive").text == "a blue kite"
    assert text_behind(graph, "7", "negative") is None
    assert text_behind(None, None, "positive") is None and text_behind(graph, "8", "positive") is None
