"""Source Guidance with the host's own samplers: random models of every family."""

import comfy.samplers
import comfy_extras.nodes_post_processing  # noqa: F401  (first: nodes_latent and it import each other)
import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicGuider, CFGGuider
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_model_advanced import RescaleCFG
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from palimpsest.guidance.source_guidance import SourceGuidance, guided_from_source
from palimpsest.host.session import with_denoiser
from palimpsest.inversion.diffusion import ddim_step
from palimpsest.nodes.source_guidance import SourceGuidanceNode

from ..tiny_models import FAMILIES, tiny_cond, tiny_latent, tiny_model

STEPS = 4
each_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def models():
    with torch.inference_mode():
        return {family: tiny_model(family) for family in FAMILIES}


@pytest.fixture(autouse=True)
def as_in_the_host():
    with torch.inference_mode():
        yield


def schedule(model):
    """The low part, as an edit takes it."""
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 2 * STEPS).cpu()[STEPS:]


def source_of(family):
    return tiny_cond(family, seed=1)


def node(model, family, **options):
    """(guider, model)"""
    return SourceGuidanceNode.execute(model, tiny_cond(family), source_of(family), **options).args


def sampled(guider, family, batch=1, *, sampler="euler", mask=None):
    latent = tiny_latent(family, batch)
    sigmas = schedule(guider.model_patcher)
    chosen = comfy.samplers.sampler_object(sampler)
    return guider.sample(torch.zeros_like(latent), latent, chosen, sigmas, disable_pbar=True, seed=0)


def stock(model, family, cfg, positive=None):
    return CFGGuider.execute(model, positive or tiny_cond(family), source_of(family), cfg).args[0]


@each_family
def test_a_run_is_the_formula_in_double_precision(models, family):
    """The model's predictions, and everything else in double precision."""
    model, sigmas = models[family], schedule(models[family])

    def reference(session):
        x = session.start(noise=torch.zeros_like(session.latent)).double()
        for sigma, below in zip(sigmas.tolist(), sigmas.tolist()[1:]):
            target, source = (session.denoise(x.float(), sigma, name).double() for name in ("target", "source"))
            weight = SourceGuidance().weight(target, source)
            x = ddim_step(x, guided_from_source(target, source, weight), sigma, below)
        return session.to_raw(x)

    conds = {"target": tiny_cond(family), "source": source_of(family)}
    wanted = with_denoiser(model, conds, tiny_latent(family, 2), sigmas, reference)
    found = sampled(node(model, family)[0], family, 2)
    # A weight of 11 at each of four steps: the predictions' own rounding grows by so much.
    assert float((found - wanted).abs().max()) < 1e-3 * float(wanted.abs().max())


@each_family
def test_guider_and_model_are_one_at_any_cfg_of_the_sampler(models, family):
    guider, patched = node(models[family], family)
    wanted = sampled(guider, family)
    assert all(torch.equal(sampled(stock(patched, family, cfg), family), wanted) for cfg in (1.0, 7.0))


@each_family
def test_strength_0_and_a_black_mask_are_the_source_prompt_to_the_bit(models, family):
    model = models[family]
    wanted = sampled(stock(model, family, 0.0), family, 2)
    black = torch.zeros(1, 64, 64)
    for options in ({"strength": 0.0}, {"mask": black}):
        assert torch.equal(sampled(node(model, family, **options)[0], family, 2), wanted)


@each_family
def test_equal_prompts_change_nothing(models, family):
    """The same text, which the node cannot tell: an entry has a note besides."""
    (values, extra), *_ = source_of(family)
    noted = [[values, {**extra, "note": "the same"}]]
    guider = SourceGuidanceNode.execute(models[family], noted, source_of(family)).args[0]
    assert torch.equal(sampled(guider, family), sampled(stock(models[family], family, 0.0, noted), family))


def test_a_white_mask_is_plain_guidance(models):
    found = sampled(node(models["sd1"], "sd1", mask=torch.ones(1, 64, 64))[0], "sd1")
    wanted = sampled(stock(models["sd1"], "sd1", 11.0), "sd1")
    assert float((found - wanted).abs().max()) < 1e-3 * float(wanted.abs().max())


def test_a_half_mask_edits_its_half_alone(models):
    mask = torch.zeros(1, 64, 64)
    mask[..., 32:] = 1
    weight = SourceGuidance().weight(torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8), mask[:, None, ::8, ::8])
    assert not weight[..., :4].any() and bool((weight[..., 4:] == 11).all())
    found = sampled(node(models["sd1"], "sd1", mask=mask)[0], "sd1")
    assert not torch.equal(found, sampled(node(models["sd1"], "sd1")[0], "sd1"))


def test_each_picture_has_its_own_mask(models):
    masks = torch.stack([torch.zeros(64, 64), torch.ones(64, 64)])
    found = sampled(node(models["sd1"], "sd1", mask=masks)[0], "sd1", 2)
    assert torch.equal(found[0], sampled(stock(models["sd1"], "sd1", 0.0), "sd1", 2)[0])
    with pytest.raises(ValueError, match="The mask of Source Guidance is a batch of 2, but 1 pictures"):
        sampled(node(models["sd1"], "sd1", mask=masks)[0], "sd1", 1)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "uni_pc", "heun"])
def test_any_sampler_without_fresh_noise_serves(models, sampler):
    assert torch.isfinite(sampled(node(models["sd3"], "sd3")[0], "sd3", sampler=sampler)).all()


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_other_patches_on_guidance_act_too(models, late):
    """RescaleCFG scales by place; Perturbed-Attention Guidance adds its own."""
    patches = {
        "RescaleCFG": lambda model: RescaleCFG().patch(model, 0.7)[0],
        "PAG": lambda model: PerturbedAttentionGuidance.execute(model, 3.0).args[0],
    }
    alone = sampled(node(models["sd1"], "sd1")[0], "sd1")
    for patch in patches.values():
        if late:
            guider = stock(patch(node(models["sd1"], "sd1")[1]), "sd1", 5.0)
        else:
            guider = node(patch(models["sd1"]), "sd1")[0]
        found = sampled(guider, "sd1")
        assert torch.isfinite(found).all() and not torch.equal(found, alone)


def test_the_model_that_came_in_is_as_it_was(models):
    before = sampled(stock(models["sd1"], "sd1", 3.0), "sd1")
    sampled(node(models["sd1"], "sd1")[0], "sd1")
    assert torch.equal(sampled(stock(models["sd1"], "sd1", 3.0), "sd1"), before)


def test_what_cannot_be_right_is_a_sentence(models):
    model = models["sd1"]
    with pytest.raises(ValueError, match="are the same, so nothing would change"):
        SourceGuidanceNode.execute(model, source_of("sd1"), source_of("sd1"))
    with pytest.raises(ValueError, match="needs the source prompt as the sampler's negative"):
        sampled(BasicGuider.execute(node(model, "sd1")[1], tiny_cond("sd1")).args[0], "sd1")
    with pytest.raises(ValueError, match="'euler_ancestral' draws fresh noise"):
        sampled(node(model, "sd1")[0], "sd1", sampler="euler_ancestral")
    with pytest.raises(ValueError, match="is 64 x 32, of another shape than the picture"):
        sampled(node(model, "sd1", mask=torch.ones(1, 32, 64))[0], "sd1")
    cached = EasyCacheNode.execute(model, 0.2, 0.0, 1.0, False).args[0]
    with pytest.raises(ValueError, match="Source Guidance needs every model call, and EasyCache skips some"):
        sampled(node(cached, "sd1")[0], "sd1")
