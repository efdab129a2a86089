"""Stock patches on guidance before DDIM Invert, Inversion Check and NullText Optimize: what they do to sampling they do
to the fit, and where nothing guides they do nothing."""

import comfy_extras.nodes_post_processing  # noqa: F401  (first: nodes_latent and it import each other)
import pytest
import torch
from comfy_extras.nodes_apg import APG
from comfy_extras.nodes_custom_sampler import CFGGuider
from comfy_extras.nodes_latent import LatentApplyOperationCFG, LatentOperationSharpen
from comfy_extras.nodes_model_advanced import RescaleCFG
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_sag import SelfAttentionGuidance
from palimpsest.nodes.inversion import DDIMInvert, InversionCheck

from ..tiny_models import tiny_cond, tiny_latent, tiny_vae
from .test_nodes import calm, replayed, schedule
from .test_null_text_host import fit, prepared, stock


def sharpened(model):
    operation = LatentOperationSharpen.execute(3, 1.0, 0.5).args[0]
    return LatentApplyOperationCFG.execute(model, operation).args[0]


def by_halves(model):
    """As image prompts do it: what the text says counts less where the negative prompt is predicted."""

    def output(values, options):
        halves = options["cond_or_uncond"]
        scale = torch.tensor([1.0 if half == 0 else 0.3 for half in halves])
        return values * scale.repeat_interleave(values.shape[0] // len(halves))[:, None, None]

    clone = model.clone()
    clone.set_model_attn2_output_patch(output)
    return clone


PATCHES = {
    "RescaleCFG": lambda model: RescaleCFG().patch(model, 0.7)[0],
    "PAG": lambda model: PerturbedAttentionGuidance.execute(model, 3.0).args[0],
    "SAG": lambda model: SelfAttentionGuidance.execute(model, 0.5, 2.0).args[0],
    "APG": lambda model: APG.execute(model, 1.0, 5.0, 0.0).args[0],
    "APG with momentum": lambda model: APG.execute(model, 1.0, 5.0, -0.5).args[0],
    "sharpening": sharpened,
    "attention by halves": by_halves,
}
# What acts on the difference of two prompts alone.
IDLE = ("RescaleCFG", "APG", "APG with momentum", "sharpening")


@pytest.fixture(scope="module")
def model():
    return calm("sd1")


def inverted(model, *, refinement=0, **options):
    options = {"positive": tiny_cond("sd1"), **options}
    latent = {"samples": tiny_latent("sd1")}
    return DDIMInvert.execute(model, latent, schedule(model), refinement=refinement, **options).args


class Clip:
    """Encodes every text as the negative of these tests."""

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, tokens):
        return tiny_cond("sd1", seed=1)


@pytest.mark.parametrize("name", IDLE)
def test_at_cfg_1_a_patch_on_guidance_changes_nothing(model, name):
    plain, patched = (inverted(one)[0] for one in (model, PATCHES[name](model)))
    assert torch.equal(plain.latents, patched.latents)


@pytest.mark.parametrize("name", IDLE)
def test_the_check_leaves_it_out_as_well(model, name):
    trajectory = inverted(model)[0]
    found = [
        InversionCheck.execute(one, tiny_vae(), trajectory, positive=tiny_cond("sd1")).args[1]
        for one in (model, PATCHES[name](model))
    ]
    assert torch.equal(*found)


def test_under_guidance_it_takes_part(model):
    options = {"cfg": 3.0, "negative": tiny_cond("sd1", seed=1)}
    plain, patched = (inverted(one, **options)[0] for one in (model, sharpened(model)))
    assert not torch.allclose(plain.latents, patched.latents, atol=1e-3)


def test_what_guides_even_at_cfg_1_takes_part_and_is_replayed(model):
    """Perturbed-attention guidance needs no negative prompt; nor does the stock sampler at CFG 1 leave it out."""
    patched = PATCHES["PAG"](model)
    guider = CFGGuider.execute(patched, tiny_cond("sd1"), tiny_cond("sd1", seed=1), 1.0).args[0]

    def error(noise) -> float:
        back = replayed(patched, guider, noise, schedule(model), tiny_latent("sd1"))
        return float((back - tiny_latent("sd1")).square().mean())

    assert error(inverted(patched, refinement=8)[2]) < 0.1 * error(inverted(model, refinement=8)[2])


def test_a_patch_that_needs_the_negative_prompt_asks_for_it(model):
    patched = PATCHES["SAG"](model)
    with pytest.raises(ValueError, match="negative prompt"):
        inverted(patched)
    encoded, connected = inverted(patched, clip=Clip())[0], inverted(patched, negative=tiny_cond("sd1", seed=1))[0]
    assert torch.equal(encoded.latents, connected.latents)


@pytest.mark.parametrize("mode", ["fast", "faithful"])
@pytest.mark.parametrize("name", ["RescaleCFG", "PAG", "SAG", "APG", "sharpening", "attention by halves"])
def test_null_text_is_fitted_to_the_guidance_that_samples(name, mode):
    """The stock sampler with the patch arrives where the fit says that it does, and nearer than unfitted."""
    model, _, trajectory = prepared("sd1")
    patched = PATCHES[name](model)
    conditioning, found = fit(patched, "sd1", trajectory, mode)
    fitted, plain = (stock(patched, "sd1", trajectory, one) for one in (conditioning, tiny_cond("sd1", seed=3)))
    assert torch.allclose(fitted, found.latents, atol=5e-3 * float(fitted.abs().max()))
    error, lost = ((x - trajectory.latents[0]).square().mean() for x in (fitted, plain))
    assert error < lost


def test_a_patch_that_remembers_other_steps_cannot_be_fitted():
    model, _, trajectory = prepared("sd1")
    with pytest.raises(ValueError, match="patch on guidance"):
        fit(PATCHES["APG with momentum"](model), "sd1", trajectory, "fast")
