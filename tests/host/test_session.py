"""The denoiser is the host's: equal to its own samplers and guiders, for every family, with everything attached."""

import comfy.model_management
import comfy.samplers
import pytest
import torch
from palimpsest.host.session import BodySampler, with_denoiser

from ..tiny_models import FAMILIES, tiny_cond, tiny_latent, tiny_lora, tiny_model

SIGMAS = torch.tensor([0.8, 0.4, 0.0])


@pytest.mark.parametrize("family", FAMILIES)
def test_guided_is_the_stock_guider(family):
    model = tiny_model(family)
    positive, negative = tiny_cond(family), tiny_cond(family, seed=1)
    latent = tiny_latent(family, batch=2)
    x = torch.randn(latent.shape, generator=torch.Generator().manual_seed(3))
    ours = with_denoiser(
        model, {"positive": positive, "negative": negative}, latent, SIGMAS, lambda s: s.guided(x, 0.8), cfg=4.0
    )
    seen = {}

    class Probe(comfy.samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *rest, **more):
            seen["x0"] = model_wrap(x, torch.full((2,), 0.8), **extra_args)
            return latent_image

    guider = comfy.samplers.CFGGuider(model.clone())
    guider.set_conds(positive, negative)
    guider.set_cfg(4.0)
    guider.sample(torch.zeros_like(latent), latent, Probe(), SIGMAS, seed=0)
    assert torch.equal(ours, seen["x0"])


def ask(model, conds, latent, body, **options):
    return with_denoiser(model, conds, latent, SIGMAS, body, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_independent(family):
    """Each row of a batch, with a prompt and a noise level of its own, is what it is alone."""
    model, latent = tiny_model(family), tiny_latent(family, batch=3)
    cond = tiny_cond(family, batch=3)
    levels = torch.tensor([0.8, 0.3, 0.5])
    together = ask(model, {"positive": cond}, latent, lambda s: s.denoise(s.latent, levels))
    for row in range(3):
        mine = [[cond[0][0][row : row + 1], {k: pick(v, row) for k, v in cond[0][1].items()}]]
        alone = ask(model, {"positive": mine}, latent[row : row + 1], lambda s: s.denoise(s.latent, levels[row]))
        assert torch.allclose(alone[0], together[row], atol=2e-5)


def pick(value, row):
    return value[row : row + 1] if isinstance(value, torch.Tensor) else value


def test_ranges_follow_each_rows_own_level():
    """The host itself looks at the first row alone."""
    model, latent = tiny_model("sd1"), tiny_latent("sd1", batch=2)
    high, low = tiny_cond("sd1", seed=1), tiny_cond("sd1", seed=2)
    ranged = [[high[0][0], {"timestep_start": 100.0, "timestep_end": 0.5}]]
    ranged += [[low[0][0], {"timestep_start": 0.5 - 1e-6, "timestep_end": 0.0}]]
    for levels in ([0.8, 0.3], [0.3, 0.8]):
        got = ask(model, {"positive": ranged}, latent, lambda s: s.denoise(s.latent, torch.tensor(levels)))
        for row, level in enumerate(levels):
            cond = high if level > 0.5 else low
            alone = ask(model, {"positive": cond}, latent, lambda s: s.denoise(s.latent, level))
            assert torch.allclose(got[row], alone[row], atol=1e-5)


def test_several_conditionings_at_once():
    model, latent = tiny_model("sd1"), tiny_latent("sd1")
    conds = {name: tiny_cond("sd1", seed=seed) for seed, name in enumerate(("positive", "negative", "source"))}
    names = ["source", "positive", "source"]
    together = ask(model, conds, latent, lambda s: s.denoise_each(s.latent, 0.8, names))
    each = ask(model, conds, latent, lambda s: [s.denoise(s.latent, 0.8, name) for name in names])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(together, each))
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_cfg_one_needs_no_negative_and_any_other_does():
    model, latent, conds = tiny_model("sd1"), tiny_latent("sd1"), {"positive": tiny_cond("sd1")}
    guided, alone = ask(model, conds, latent, lambda s: (s.guided(s.latent, 0.8), s.denoise(s.latent, 0.8)))
    assert torch.equal(guided, alone)
    with pytest.raises(ValueError, match="needs a negative conditioning"):
        ask(model, conds, latent, lambda s: None, cfg=3.0)


def test_a_name_that_is_not_there():
    with pytest.raises(KeyError, match="No conditioning 'other' here; there are positive"):
        conds = {"positive": tiny_cond("sd1")}
        ask(tiny_model("sd1"), conds, tiny_latent("sd1"), lambda s: s.denoise(s.latent, 0.8, "other"))


def test_scaled_form_and_back():
    for family in FAMILIES:
        model, latent = tiny_model(family), tiny_latent(family)
        conds = {"positive": tiny_cond(family)}
        scaled, raw = ask(model, conds, latent, lambda s: (s.latent, s.to_raw(s.latent)))
        assert torch.allclose(scaled, model.model.process_latent_in(latent)) and torch.allclose(raw, latent, atol=1e-6)


def test_inputs_stay_as_they_are():
    model, latent, sigmas = tiny_model("sd1"), tiny_latent("sd1"), SIGMAS.clone()
    cond = tiny_cond("sd1")
    keys, before = set(cond[0][1]), latent.clone()
    options = repr(model.model_options)
    with_denoiser(model, {"positive": cond}, latent, sigmas, lambda s: s.denoise(s.latent.mul_(2), 0.8))
    assert torch.equal(latent, before) and torch.equal(sigmas, SIGMAS) and set(cond[0][1]) == keys
    assert repr(model.model_options) == options and not model.wrappers and not model.additional_models


def test_our_loop_as_a_stock_sampler():
    """A SAMPLER of ours under the stock guider gives what the stock Euler sampler gives."""

    def euler(session):
        x, levels = session.start(), session.sigmas
        for i in range(len(levels) - 1):
            x0 = session.guided(x, levels[i])
            x = x + (x - x0) / levels[i] * (levels[i + 1] - levels[i])
            session.report(i, len(levels) - 1, x0, x)
        return x

    model, latent = tiny_model("sd1"), tiny_latent("sd1")
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(3))
    results, calls = [], []
    for sampler in (BodySampler(euler, gradients=False, ends=True), comfy.samplers.sampler_object("euler")):
        guider = comfy.samplers.CFGGuider(model.clone())
        guider.set_conds(tiny_cond("sd1"), tiny_cond("sd1", seed=1))
        guider.set_cfg(3.0)
        count = lambda *values: calls.append(values[0])
        results.append(guider.sample(noise, latent, sampler, SIGMAS, callback=count, disable_pbar=True, seed=0))
    assert torch.equal(*results) and calls == [0, 1, 0, 1]


def test_models_stay_loaded_for_the_next_run():
    """The host's list of loaded models holds the model itself afterwards, not a dead copy of it."""
    model, latent, conds = tiny_model("sd1"), tiny_latent("sd1"), {"positive": tiny_cond("sd1")}
    for gradients in (False, True):
        ask(model, conds, latent, lambda s: s.denoise(s.latent, 0.8), gradients=gradients)
    loaded = [one.model for one in comfy.model_management.current_loaded_models]
    assert None not in loaded and any(one is not None and one.is_clone(model) for one in loaded)


def keyed_lora(family: str, cond: list) -> list:
    """The conditioning under a LoRA whose strength grows in three steps."""
    import comfy.hooks

    hooks = comfy.hooks.create_hook_lora(tiny_lora(family), 1.0, 0.0)
    frames = comfy.hooks.HookKeyframeGroup()
    for strength, start in ((0.2, 0.0), (0.6, 0.4), (1.0, 0.6)):
        frames.add(comfy.hooks.HookKeyframe(strength, start, guarantee_steps=0))
    for hook in hooks.hooks:
        hook.hook_keyframe = frames
    return [[cond[0][0], {**cond[0][1], "hooks": hooks}]]


@pytest.mark.parametrize("gradients", [False, True])
def test_keyframes_hold_in_any_order_of_levels(gradients):
    """Rising levels, as in an inversion, see the same keyframes as a run of each level alone."""
    import comfy.sd

    model, latent = tiny_model("sd1"), tiny_latent("sd1")
    sampling = model.get_model_object("model_sampling")
    levels = [float(sampling.percent_to_sigma(percent)) for percent in (0.9, 0.5, 0.2, 0.5, 0.1, 0.7)]
    keyed = keyed_lora("sd1", tiny_cond("sd1"))
    x = tiny_latent("sd1", seed=5)
    for _ in range(2):
        body = lambda s: [s.denoise(x, level) for level in levels]
        found = with_denoiser(model, {"positive": keyed}, latent, torch.tensor([14.6, 0.0]), body, gradients=gradients)
        for percent, level, got in zip((0.9, 0.5, 0.2, 0.5, 0.1, 0.7), levels, found):
            strength = 0.2 if percent < 0.4 else 0.6 if percent < 0.6 else 1.0
            patched, _ = comfy.sd.load_lora_for_models(model, None, tiny_lora("sd1"), strength, 0.0)
            alone = ask(patched, {"positive": tiny_cond("sd1")}, latent, lambda s: s.denoise(x, level))
            assert torch.allclose(got, alone, atol=1e-4), f"at {percent}"
