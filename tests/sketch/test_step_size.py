"""The strength means the same with every stock sampler: the latent after a guided step, with and without guidance."""

from functools import lru_cache
from inspect import signature
from types import SimpleNamespace

import comfy.model_sampling
import comfy.samplers
import pytest
import torch
from palimpsest.guidance.sketch.guidance import OLD_GRADIENT, SketchRecipe
from palimpsest.host.sampler_traits import sampler_name
from palimpsest.host.sketch.patch import CFG_PP, Anew, _Run
from palimpsest.host.sketch.step_size import FittedShifts, step_response

SHAPE = (1, 4, 8, 8)
STRENGTH = 1.6
STEPS = 20


class Sampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
    """Stable Diffusion's noise levels."""


SAMPLING = Sampling()
PATCHER = SimpleNamespace(get_model_object=lambda name: SAMPLING, model_options={})
SCHEDULE = comfy.samplers.calculate_sigmas(SAMPLING, "normal", STEPS)
OWN_STEPS = ("dpm_fast", "dpm_adaptive")
# Bands of an approximation, far wider than rounding: all calls of a step are measured as one, though their shifts
# differ, and effects below LEAST of the step's own are left out.
STRENGTH_BAND = 0.1
MEMORY_BAND = 0.05


def drawn(seed):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


class Model:
    """A model that has made up its mind about the picture; guided at some steps, along a fixed gradient."""

    def __init__(self, sampler, response, guided):
        self.inner_model = SimpleNamespace(
            model_patcher=PATCHER, inner_model=SimpleNamespace(model_sampling=SAMPLING, scale_latent_inpaint=None)
        )
        recipe = SketchRecipe(strength=STRENGTH / OLD_GRADIENT, adapt=0.0)
        guide = SimpleNamespace(recipe=recipe, on_loss=None, predictor=None)
        self.run = _Run(guide, None, None, None, SCHEDULE, {step: Anew(False, False) for step in guided})
        self.run.gradient, self.run.device = drawn(3), torch.device("cpu")
        self.run.whole_shift = CFG_PP in sampler_name(sampler)
        self.run.fitted = None if response is None else FittedShifts(response)
        self.sigmas, self.calls, self.picture = SCHEDULE, [], drawn(1)

    def __call__(self, x, sigma, model_options=None, seed=None, **_):
        self.calls.append(x.clone())
        plain = lambda *_: self.picture.to(x.dtype)
        for function in (model_options or {}).get("sampler_post_cfg_function", ()):
            plain_value = plain()
            function(
                {"denoised": plain_value, "uncond_denoised": plain_value, "cond_denoised": plain_value, "input": x}
            )
        return self.run.predict_noise(plain, x, sigma.expand(1))


@lru_cache
def states(name, guided, start=0.0):
    """The latent where each step begins, in the order of steps. start: is added to the first latent."""
    sampler = comfy.samplers.sampler_object(name)
    response = step_response(sampler, PATCHER, SCHEDULE)
    model, generator = Model(sampler, response, guided), torch.Generator().manual_seed(0)
    options = {"extra_args": {"model_options": {}, "seed": 0}, "callback": None, "disable": True}
    if "noise_sampler" in signature(sampler.sampler_function).parameters:
        options["noise_sampler"] = lambda *_: torch.randn(SHAPE, generator=generator)
    x = model.picture + SCHEDULE[0] * drawn(2) + start
    sampler.sampler_function(model, x, SCHEDULE, **options, **sampler.extra_options)
    steps = [step for _, step in response.calls]
    return [model.calls[steps.index(step)] for step in range(STEPS)]


def ratio(name, guided):
    """What the last of the guided steps adds to |guided - plain| beside Euler's own change of the latent there, both as
    variance-preserving latents."""
    step = guided[-1]
    before, after = states(name, guided[:-1]), states(name, guided)
    sigma, sigma_next = (float(SCHEDULE[i]) for i in (step, step + 1))
    euler = before[step] + (sigma_next - sigma) * (before[step] - drawn(1)) / sigma
    own = before[step] / (1 + sigma**2) ** 0.5 - euler / (1 + sigma_next**2) ** 0.5
    return float((after[step + 1] - before[step + 1]).norm() / (1 + sigma_next**2) ** 0.5 / own.norm())


MEASURED = [name for name in comfy.samplers.SAMPLER_NAMES if name not in OWN_STEPS]


@pytest.mark.parametrize("name", MEASURED)
def test_a_guided_step_goes_as_far_beside_the_step_itself_as_with_euler(name):
    """Whether it is the first one, or the sampler remembers others."""
    found = [ratio(name, steps) for steps in ((1,), (9,), (7, 8), (7, 8, 9))]
    assert all(abs(one / STRENGTH - 1) < STRENGTH_BAND for one in found), found


MULTISTEP = (
    "dpmpp_2m", "lms", "deis", "ipndm", "ipndm_v", "res_multistep", "gradient_estimation", "uni_pc", "sa_solver",
    "dpmpp_2m_sde", "dpmpp_3m_sde", "er_sde", "dpmpp_2m_cfg_pp",
)  # fmt: skip


@pytest.mark.parametrize("name", MULTISTEP)
def test_a_sampler_with_memory_takes_nothing_back_once_guidance_ends(name):
    """After the guided steps what they moved is kept as the sampler keeps any latent: as in a run that starts there."""
    plain, guided = states(name, ()), states(name, (3, 4, 5))
    moved = [float((b - a).flatten() @ drawn(3).flatten()) for a, b in zip(plain, guided)]
    started = [float((b - a).mean()) for a, b in zip(plain, states(name, (), start=1.0))]
    for step in range(6, 12):
        kept = started[step + 1] / started[step]
        assert abs(moved[step + 1] / moved[step] - kept) < MEMORY_BAND * (1 - kept) + 1e-3, step


@pytest.fixture
def said(monkeypatch):
    found = []
    monkeypatch.setattr("palimpsest.host.sketch.step_size.notify", found.append)
    return found


@pytest.mark.parametrize("name", OWN_STEPS)
def test_samplers_that_choose_their_own_steps_say_that_the_strength_may_differ(name, said):
    assert step_response(comfy.samplers.sampler_object(name), PATCHER, SCHEDULE) is None
    assert name in said[0] and "more or less than set" in said[0]


def picky(model, x, sigmas, extra_args=None, callback=None, disable=None, noise_sampler=None):
    raise RuntimeError("no such attribute")


def silent(model, x, sigmas, extra_args=None, callback=None, disable=None):
    for sigma in sigmas[:-1]:
        model(x, sigma * x.new_ones(len(x)))
    return x


@pytest.mark.parametrize("function", [picky, silent])
def test_samplers_that_cannot_be_measured_say_so(function, said):
    assert step_response(comfy.samplers.KSAMPLER(function), PATCHER, SCHEDULE) is None
    assert function.__name__ in said[0]


def test_measuring_leaves_the_random_numbers_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    step_response(comfy.samplers.ksampler("euler_ancestral"), PATCHER, SCHEDULE)
    assert torch.equal(torch.rand(3), expected)


def test_a_run_that_leaves_the_measured_steps_is_shifted_as_for_euler():
    response = step_response(comfy.samplers.ksampler("dpmpp_2m"), PATCHER, SCHEDULE)
    fitted = FittedShifts(response)
    assert fitted.step(float(SCHEDULE[0])) == 0 and fitted.step(float(SCHEDULE[0])) == 0
    assert fitted.step(float(SCHEDULE[2])) == 2 and fitted.step(1.2345 * float(SCHEDULE[0])) is None
    assert fitted.step(float(SCHEDULE[3])) == 3
