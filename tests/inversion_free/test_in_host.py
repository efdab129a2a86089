"""Inversion-Free Edit with the host's guiders: random models of every family."""

import comfy.samplers
import comfy_extras.nodes_post_processing  # noqa: F401  (first: nodes_latent and it import each other)
import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicGuider, CFGGuider, DualCFGGuider
from comfy_extras.nodes_easycache import EasyCacheNode
from palimpsest.guidance.diffedit.heat_map import item_noises
from palimpsest.guidance.inversion_free import edited
from palimpsest.host.session import with_denoiser
from palimpsest.nodes.inversion_free import InversionFreeEdit

from ..tiny_models import FAMILIES, tiny_cond, tiny_latent, tiny_model

STEPS, SEED = 4, 7
FLOW = ("sd3", "flux")
MODES_OF = [
    (family, mode) for family in FAMILIES for mode in (("FlowEdit", "FlowAlign") if family in FLOW else ("DDCM",))
]
each_family = pytest.mark.parametrize("family", FAMILIES)
each_mode = pytest.mark.parametrize("family, mode", MODES_OF)


@pytest.fixture(scope="module")
def models():
    with torch.inference_mode():
        return {family: tiny_model(family) for family in FAMILIES}


@pytest.fixture(autouse=True)
def as_in_the_host():
    with torch.inference_mode():
        yield


def schedule(model):
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 2 * STEPS).cpu()[STEPS:]


def sampler(mode="by the model"):
    return InversionFreeEdit.execute(mode).args[0]


def noted(cond):
    """The same prompt, which nobody can tell: an entry has a note besides."""
    return [[values, {**extra, "note": "the same"}] for values, extra in cond]


def guider(model, family, cfg=1.0, target=None, source=None):
    return CFGGuider.execute(model, target or tiny_cond(family), source or tiny_cond(family, seed=1), cfg).args[0]


def run(guider, family, batch=1, *, mode="by the model", mask=None, seed=SEED, latent=None, sigmas=None, callback=None):
    latent = tiny_latent(family, batch) if latent is None else latent
    noise = torch.zeros_like(latent)
    sigmas = schedule(guider.model_patcher) if sigmas is None else sigmas
    ends = {"denoise_mask": mask, "disable_pbar": True, "seed": seed, "callback": callback}
    return guider.sample(noise, latent, sampler(mode), sigmas, **ends)


def there_and_back(model, latent):
    """What the host makes of a latent that nothing has changed: scaled for the model and back."""
    return model.model.process_latent_out(model.model.process_latent_in(latent))


def reference(model, family, mode, predict, conds, batch=2):
    """The core's loop in double precision with the model's predictions."""
    sigmas = schedule(model)

    def body(session):
        ask = lambda x, sigma, name: session.denoise(x.float(), sigma, name).double()
        source = session.latent.double()
        noises = [one.double() for one in item_noises(source.shape[1:], STEPS, SEED, range(batch))]
        ends = {"flow": family in FLOW}
        by = lambda p, q, sigma: predict(ask, p, q, sigma)
        return session.to_raw(edited(by, source, sigmas.tolist(), noises, mode, **ends))

    return with_denoiser(model, conds, tiny_latent(family, batch), sigmas, body)


def near(found, wanted):
    return float((found - wanted).abs().max()) < 1e-3 * float(wanted.abs().max())


@each_mode
def test_with_cfg_guider_the_negative_is_the_source_and_the_cfg_goes_from_it_to_the_target(models, family, mode):
    conds = {"target": tiny_cond(family), "source": tiny_cond(family, seed=1)}

    def predict(ask, p, q, sigma):
        source = ask(p, sigma, "source")
        return source + 3 * (ask(p, sigma, "target") - source), ask(q, sigma, "source")

    found = run(guider(models[family], family, 3.0), family, 2, mode=mode)
    assert near(found, reference(models[family], family, mode, predict, conds))


@each_family
def test_with_dual_cfg_guider_either_prompt_has_a_cfg_from_the_negative(models, family):
    model, mode = models[family], "FlowEdit" if family in FLOW else "DDCM"
    conds = {name: tiny_cond(family, seed=seed) for seed, name in enumerate(("target", "source", "negative"))}

    def predict(ask, p, q, sigma):
        ends = []
        for x, name, cfg in ((p, "target", 4.0), (q, "source", 2.0)):
            negative = ask(x, sigma, "negative")
            ends.append(negative + cfg * (ask(x, sigma, name) - negative))
        return ends

    dual = DualCFGGuider.execute(model, *conds.values(), 4.0, 2.0, "regular").args[0]
    assert near(run(dual, family, 2), reference(model, family, mode, predict, conds))


@each_mode
def test_equal_prompts_and_a_black_mask_leave_the_latent_to_the_bit(models, family, mode):
    model, latent = models[family], tiny_latent(family, 2)
    prompts = tiny_cond(family, seed=1), noted(tiny_cond(family, seed=1))
    kept = there_and_back(model, latent)
    assert torch.equal(run(guider(model, family, 1.0, *prompts), family, 2, mode=mode), kept)
    dual = DualCFGGuider.execute(model, *prompts, tiny_cond(family), 3.0, 3.0, "regular").args[0]
    assert torch.equal(run(dual, family, 2, mode=mode), kept)
    # With a CFG the edit's two predictions come in one call and the source's alone: equal up to rounding.
    assert near(run(guider(model, family, 3.0, *prompts), family, 2, mode=mode), kept)
    black = torch.zeros(1, 1, 8, 8)
    assert torch.equal(run(guider(model, family), family, 2, mode=mode, mask=black), kept)


@each_mode
def test_a_mask_keeps_the_rest_to_the_bit_and_a_white_one_is_none(models, family, mode):
    model, latent = models[family], tiny_latent(family)
    half = torch.ones(1, 1, 8, 8)
    whole = run(guider(model, family), family, mode=mode)
    assert torch.equal(run(guider(model, family), family, mode=mode, mask=half), whole)
    half[..., :4] = 0
    found = run(guider(model, family), family, mode=mode, mask=half)
    assert torch.equal(found[..., :4], there_and_back(model, latent)[..., :4])
    assert not torch.equal(found[..., 4:], there_and_back(model, latent)[..., 4:])


@each_family
def test_a_picture_has_its_own_noise_in_whatever_batch_it_comes(models, family):
    latent = tiny_latent(family, 3)
    together = run(guider(models[family], family), family, latent=latent)
    alone = run(guider(models[family], family), family, latent=latent[:1])
    assert near(together[:1], alone)
    assert torch.equal(run(guider(models[family], family), family, latent=latent), together)
    assert not torch.equal(run(guider(models[family], family), family, latent=latent, seed=8), together)


def test_every_step_is_reported_with_the_edit_so_far(models):
    seen = []
    found = run(guider(models["sd1"], "sd1"), "sd1", callback=lambda i, x0, x, n: seen.append((i, n, x0)))
    assert [one[:2] for one in seen] == [(i, STEPS) for i in range(STEPS)]
    assert torch.equal(models["sd1"].model.process_latent_out(seen[-1][2]), found)


def test_a_size_of_its_own(models):
    latent = tiny_latent("sd3", size=(6, 10))
    assert run(guider(models["sd3"], "sd3"), "sd3", latent=latent).shape == latent.shape


def test_a_step_cache_is_left_out(models, caplog):
    cached = EasyCacheNode.execute(models["sd1"], 3.0, 0.0, 1.0, False).args[0]
    assert torch.equal(run(guider(cached, "sd1"), "sd1"), run(guider(models["sd1"], "sd1"), "sd1"))
    assert "EasyCache skips model calls" in caplog.text


def test_what_cannot_be_right_is_a_sentence(models):
    unet, flow = guider(models["sd1"], "sd1"), guider(models["sd3"], "sd3")
    with pytest.raises(ValueError, match=r"'FlowEdit' does not serve this model .*choose DDCM"):
        run(unet, "sd1", mode="FlowEdit")
    with pytest.raises(ValueError, match=r"'DDCM' does not serve this model .*choose FlowEdit or FlowAlign"):
        run(flow, "sd3", mode="DDCM")
    with pytest.raises(ValueError, match="needs two prompts: connect CFG Guider"):
        run(BasicGuider.execute(models["sd1"], tiny_cond("sd1")).args[0], "sd1")
    with pytest.raises(ValueError, match="the target prompt are the same"):
        run(guider(models["sd1"], "sd1", target=tiny_cond("sd1", seed=1)), "sd1")
    with pytest.raises(ValueError, match="The latent image is empty"):
        run(unet, "sd1", latent=torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match="never reach the clean picture"):
        run(unet, "sd1", sigmas=schedule(models["sd1"])[:-2])
    with pytest.raises(ValueError, match="There is no mode 'InfEdit'"):
        InversionFreeEdit.execute("InfEdit")
