"""The fingerprint names weights: the same at every precision, another for other weights and for LoRAs."""

import comfy.model_management
import comfy.sd
import torch
from palimpsest.host.fingerprint import fingerprint
from palimpsest.host.session import with_denoiser

from ..tiny_models import FAMILIES, tiny_cond, tiny_latent, tiny_lora, tiny_model


def test_families_and_seeds_differ_and_repeat():
    found = [fingerprint(tiny_model(family, seed)) for family in FAMILIES for seed in (0, 1)]
    assert len(set(found)) == len(found)
    assert fingerprint(tiny_model("sd1")) == found[0] and len(found[0]) == 32


def test_precision_does_not_matter():
    model = tiny_model("sd1")
    first = fingerprint(model)
    for dtype in (torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        other = tiny_model("sd1")
        for weight in other.model.diffusion_model.parameters():
            weight.data = weight.data.to(dtype)
        assert fingerprint(other) == first


def test_a_small_change_of_all_weights_is_seen():
    model, other = tiny_model("sd1"), tiny_model("sd1")
    generator = torch.Generator().manual_seed(1)
    for weight in other.model.diffusion_model.parameters():
        weight.data += 0.01 * weight.std() * torch.randn(weight.shape, generator=generator)
    assert fingerprint(other) != fingerprint(model)


def test_loras_enter_with_their_strength():
    model = tiny_model("sd1")
    found, loras = {fingerprint(model)}, [tiny_lora("sd1", seed=seed) for seed in (0, 1)]
    for load in (comfy.sd.load_lora_for_models, comfy.sd.load_bypass_lora_for_models):
        for seed, strength in ((0, 1.0), (0, 0.5), (1, 1.0)):
            patched, _ = load(model, None, loras[seed], strength, 0.0)
            found.add(fingerprint(patched))
            again, _ = load(model, None, loras[seed], strength, 0.0)
            assert fingerprint(again) == fingerprint(patched)
    assert len(found) == 7


def test_patched_into_the_weights_or_not_is_the_same():
    model = tiny_model("sd1")
    bare = fingerprint(model)
    patched, _ = comfy.sd.load_lora_for_models(model, None, tiny_lora("sd1"), 1.0, 0.0)
    before = fingerprint(patched)
    conds, latent = {"positive": tiny_cond("sd1")}, tiny_latent("sd1")
    during = with_denoiser(patched, conds, latent, torch.tensor([1.0]), lambda session: fingerprint(patched))
    assert before == during == fingerprint(patched)
    # The LoRA now lies in the shared weights; the model without it is still itself.
    assert fingerprint(model) == bare != before
    comfy.model_management.unload_all_models()
    assert fingerprint(patched) == before and fingerprint(model) == bare
