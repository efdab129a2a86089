"""The strength means the same with every stock sampler: the latent after a guided step, with and without guidance."""

from types import SimpleNamespace

import comfy.model_sampling
import comfy.samplers
import pytest
import torch
from palimpsest.guidance.sketch.guidance import OLD_GRADIENT, SketchRecipe
from palimpsest.host.sampler_traits import replay_kind, sampler_name
from palimpsest.host.sketch.patch import CFG_PP, Anew, _Run

SHAPE = (1, 4, 8, 8)
STRENGTH = 1.6
STEPS = 20


class Sampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
    """Stable Diffusion's noise levels."""


SAMPLING = Sampling()
PATCHER = SimpleNamespace(get_model_object=lambda name: SAMPLING, model_options={})


def step_scale(*arguments):
    from palimpsest.host.sketch import step_size

    return step_size.step_scale(*arguments)


def drawn(seed):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


class Model:
    """A model that has made up its mind about the picture; guided at one step, along a fixed slope."""

    def __init__(self, sampler, schedule, step, scale):
        self.inner_model = SimpleNamespace(
            model_patcher=PATCHER, inner_model=SimpleNamespace(model_sampling=SAMPLING, scale_latent_inpaint=None)
        )
        recipe = SketchRecipe(strength=STRENGTH / OLD_GRADIENT, adapt=0.0)
        guide = SimpleNamespace(recipe=recipe, on_loss=None, predictor=None)
        steps = {} if step is None else {step: Anew(False, False)}
        self.run = _Run(guide, None, None, None, schedule, steps)
        self.run.gradient, self.run.device = drawn(3), torch.device("cpu")
        self.run.whole_shift = CFG_PP in sampler_name(sampler)
        levels = schedule.tolist()
        if scale:
            self.run.scales = {i: step_scale(sampler, PATCHER, levels[i], levels[i + 1]) for i in steps}
        self.sigmas, self.calls, self.picture = schedule, [], drawn(1)

    def __call__(self, x, sigma, model_options=None, seed=None, **_):
        self.calls.append((float(sigma.max()), x.clone()))
        plain = lambda *_: self.picture.to(x.dtype)
        for function in (model_options or {}).get("sampler_post_cfg_function", ()):
            plain_value = plain()
            function(
                {"denoised": plain_value, "uncond_denoised": plain_value, "cond_denoised": plain_value, "input": x}
            )
        return self.run.predict_noise(plain, x, sigma.expand(1))

    def at(self, level):
        return next((x for sigma, x in self.calls if abs(sigma / level - 1) < 1e-4), None)


def ratio(name, step, scale=True):
    """|guided - plain| after the step beside Euler's own change of the latent, both as variance-preserving latents."""
    sampler = comfy.samplers.sampler_object(name)
    schedule = comfy.samplers.calculate_sigmas(SAMPLING, "normal", STEPS)
    after = []
    for where in (None, step):
        model = Model(sampler, schedule, where, scale)
        torch.manual_seed(0)
        x = model.picture + schedule[0] * drawn(2)
        arguments = {"extra_args": {"model_options": {}, "seed": 0}, "callback": None, "disable": True}
        sampler.sampler_function(model, x, schedule, **arguments, **sampler.extra_options)
        after.append(model.at(float(schedule[step + 1])))
        if where is None:
            before = model.at(float(schedule[step]))
    sigma, sigma_next = (float(schedule[i]) for i in (step, step + 1))
    euler = before + (sigma_next - sigma) * (before - model.picture) / sigma
    own = before / (1 + sigma**2) ** 0.5 - euler / (1 + sigma_next**2) ** 0.5
    return float((after[1] - after[0]).norm() / (1 + sigma_next**2) ** 0.5 / own.norm())


DRAWING = [
    name for name in comfy.samplers.KSAMPLER_NAMES if replay_kind(comfy.samplers.ksampler(name)) == "fresh noise"
]
WITHIN = (
    "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "dpm_2", "dpmpp_sde", "dpmpp_sde_gpu", "ddpm",
    "lcm", "gradient_estimation_cfg_pp", "seeds_2", "seeds_3", "ddim",
)  # fmt: skip
MEMORY = pytest.mark.xfail(strict=True, reason="What a sampler takes of a prediction in one step is not measured")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in WITHIN else MEMORY) for n in comfy.samplers.SAMPLER_NAMES]
)
def test_a_guided_step_goes_as_far_beside_the_step_itself_as_with_euler(name):
    assert [ratio(name, step) for step in (1, 5, 9)] == pytest.approx([STRENGTH] * 3, rel=0.1)


@pytest.mark.parametrize("name", [name for name in DRAWING if CFG_PP not in name])
def test_a_shift_that_lasts_does_as_much_in_a_step_as_with_euler(name):
    """Multistep samplers take back in the next step a part of what they overdid; what counts is a lasting shift, which
    moves the latent by 1 - a of it in each step."""
    sampler, schedule = comfy.samplers.ksampler(name), comfy.samplers.calculate_sigmas(SAMPLING, "normal", STEPS)
    seen = []
    for picture in (0.0, 1.0):
        model = Model(sampler, schedule, None, False)
        model.picture = torch.full(SHAPE, picture)
        torch.manual_seed(0)
        arguments = {"extra_args": {"model_options": {}, "seed": 0}, "callback": None, "disable": True}
        sampler.sampler_function(model, schedule[0] * drawn(2), schedule, **arguments, **sampler.extra_options)
        seen.append(model)
    for step in (1, 5, 9):
        sigma, sigma_next = (float(schedule[i]) for i in (step, step + 1))
        before, after = (seen[1].at(level) - seen[0].at(level) for level in (sigma, sigma_next))
        scale = step_scale(sampler, PATCHER, sigma, sigma_next)
        kept = 1 - (1 - sigma_next / sigma) / scale
        assert torch.allclose(after - kept * before, torch.full(SHAPE, 1 - kept), atol=0.02), step


def test_samplers_that_draw_nothing_are_left_as_they_were():
    for name in set(comfy.samplers.KSAMPLER_NAMES) - set(DRAWING):
        assert step_scale(comfy.samplers.ksampler(name), PATCHER, 5.0, 4.0) == 1.0


def test_a_sampler_that_cannot_be_measured_is_taken_as_euler_and_says_so(monkeypatch):
    said = []
    monkeypatch.setattr("palimpsest.host.sketch.step_size.notify", said.append)

    def picky(model, x, sigmas, extra_args=None, callback=None, disable=None, noise_sampler=None):
        raise RuntimeError("no such attribute")

    assert step_scale(comfy.samplers.KSAMPLER(picky), PATCHER, 5.0, 4.0) == 1.0 and "picky" in said[0]


def test_measuring_leaves_the_random_numbers_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    step_scale(comfy.samplers.ksampler("euler_ancestral"), PATCHER, 5.0, 4.0)
    assert torch.equal(torch.rand(3), expected)
