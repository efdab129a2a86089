"""The checks' sentences, and what a MODEL is said to be."""

import pytest
import torch
from palimpsest.host import validation
from palimpsest.host.family import latent_format_name

from ..tiny_models import FAMILIES, tiny_cond, tiny_latent, tiny_model, tiny_vae

KINDS = {
    "sd1": ("sd1", "eps", "SD15"),
    "sd2": ("sd2", "v", "SD15"),
    "sdxl": ("sdxl", "eps", "SDXL"),
    "sd3": ("flow", "flow", "SD3"),
    "flux": ("flow", "flow", "Flux"),
}


@pytest.fixture(scope="module")
def models():
    return {family: tiny_model(family) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_family_prediction_and_format(models, family):
    model = models[family]
    assert (validation.model_family(model), validation.prediction(model), latent_format_name(model)) == KINDS[family]


def test_a_patch_changes_the_prediction(models):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    (patched,) = ModelSamplingDiscrete().patch(models["sd1"], "v_prediction", False)
    assert validation.prediction(patched) == "v" and validation.prediction(models["sd1"]) == "eps"


def test_transformers_are_distinguished_from_unets(models):
    validation.require_unet(models["sd2"], "Prompt-to-Prompt")
    with pytest.raises(ValueError, match=r"Prompt-to-Prompt works inside the UNet .*this model .Flux. does not"):
        validation.require_unet(models["flux"], "Prompt-to-Prompt")


def test_distilled_guidance_is_named(models):
    for family in ("sd1", "sdxl", "sd3"):
        validation.require_unconditional(models[family], "NullText Optimize")
    with pytest.raises(ValueError, match="NullText Optimize needs a model with an unconditional prediction"):
        validation.require_unconditional(models["flux"], "NullText Optimize")


def test_latents(models):
    good = {"samples": tiny_latent("sd1")}
    assert validation.require_latent(good, "The latent", models["sd1"]) is good["samples"]
    for wrong, words in [
        ({}, "not a picture's latent"),
        (None, "not a picture's latent"),
        ({"samples": torch.zeros(1, 16, 1, 8, 8)}, "a video's, or that of an image model built like a video model"),
        ({"samples": torch.zeros(4, 8, 8)}, "shape 4x8x8"),
        ({"samples": torch.zeros(1, 4, 0, 8)}, "shape 1x4x0x8"),
        ({"samples": torch.full((1, 4, 8, 8), float("nan"))}, "not numbers"),
        ({"samples": torch.zeros(1, 16, 8, 8)}, "16 channels, but the model .* works on 4"),
    ]:
        with pytest.raises(ValueError, match=f"^The source .*{words}"):
            validation.require_latent(wrong, "The source", models["sd1"])


def test_conditioning():
    good = tiny_cond("sdxl")
    assert validation.require_conditioning(good, "The prompt") == good
    for wrong in ([], None, [[torch.zeros(1, 7, 8)]], [torch.zeros(3)]):
        with pytest.raises(ValueError, match=r"^The prompt is empty: connect a CLIP Text Encode"):
            validation.require_conditioning(wrong, "The prompt")
    bad = [[torch.full((1, 7, 8), float("inf")), {}]]
    with pytest.raises(ValueError, match=r"^The prompt holds values that are not numbers"):
        validation.require_conditioning(bad, "The prompt")


def test_sizes_and_batches():
    image, latent = torch.zeros(2, 64, 48, 3), torch.zeros(2, 4, 8, 6)
    validation.require_same_size(image, torch.zeros(1, 64, 48, 3), "A", "B")
    validation.require_same_size(latent, torch.zeros(2, 8, 6), "A", "B")
    validation.require_same_batch(image, latent[:1], "A", "B")
    with pytest.raises(ValueError, match="A is 48 x 64 and B 64 x 48"):
        validation.require_same_size(image, torch.zeros(1, 48, 64, 3), "A", "B")
    with pytest.raises(ValueError, match="A holds 2 pictures and B 3"):
        validation.require_same_batch(image, torch.zeros(3, 64, 48, 3), "A", "B")
    with pytest.raises(ValueError, match=r"48 x 63.*multiples of 8.*48 x 56"):
        validation.require_picture(torch.zeros(1, 63, 48, 3), "A")


def test_schedules():
    validation.require_sigmas(torch.tensor([1.0, 0.0]), "The schedule")
    for wrong, words in [
        (torch.tensor([1.0]), "too few"),
        (torch.tensor([1.0, -1.0]), "negative"),
        (torch.tensor([float("inf"), 0.0]), "not numbers"),
    ]:
        with pytest.raises(ValueError, match=f"^The schedule .*{words}"):
            validation.require_sigmas(wrong, "The schedule")


def test_vae_and_model_belong_together(models):
    narrow, wide = tiny_vae(4), tiny_vae(16)
    for family in ("sd1", "sd2", "sdxl"):
        validation.require_vae_of(models[family], narrow)
        with pytest.raises(ValueError, match=r"^The VAE is of another family than the model: .* 16 channels"):
            validation.require_vae_of(models[family], wide)
    validation.require_vae_of(models["sd3"], wide)


def test_a_small_vae_tells_its_scale(models):
    """VAEs in the TAESD layout carry their family's scale: SD1's and SDXL's have the same channels."""
    import comfy.sd
    from comfy.taesd.taesd import TAESD

    with torch.no_grad():
        network = TAESD(latent_channels=4)
        network.vae_scale.fill_(0.18215)
        vae = comfy.sd.VAE(sd=network.state_dict(), dtype=torch.float32)
    validation.require_vae_of(models["sd1"], vae)
    with pytest.raises(ValueError, match=r"another family .* 0.18215, the model .* 0.13025"):
        validation.require_vae_of(models["sdxl"], vae)
