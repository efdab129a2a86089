"""Guidance itself, with models of a few weights: against finite differences, the released formulas and limits."""

import itertools
from dataclasses import replace

import pytest
import torch
from palimpsest.guidance.flow.fields import Transform, transform_flow
from palimpsest.guidance.flow.warp import land
from palimpsest.guidance.motion.guided_ddim import Guide, _through_model, guided_ddim
from palimpsest.guidance.motion.loss import objective
from palimpsest.guidance.motion.recipe import DRAFT, FAITHFUL, MotionRecipe, Record
from palimpsest.guidance.motion.step_size import Damper, Window, clipped, polyak_step, scaled_clip, scaled_weight
from palimpsest.inversion.diffusion import ddim_step, step_up

torch.manual_seed(0)
MIX = 0.4 * torch.randn(3, 4, 1, 1, dtype=torch.float64)


def decode(latent):
    """A tiny decoder: one latent cell is one pixel."""
    return torch.sigmoid(torch.nn.functional.conv2d(latent, MIX.to(latent)))


def flow_net(picture):
    """A tiny 'flow network', smooth in the picture."""
    return torch.stack((picture[:, 0] - picture[:, 1], picture[:, 2] * picture[:, 0]), dim=-1)


class ToySetting:
    """A Gaussian model: x0 ~ N(mean, 1), so x0_hat = (x + sigma^2 mean) / (1 + sigma^2)."""

    def __init__(self, source):
        self.source, self.reports = source, 0

    def denoise(self, x, sigma):
        return (x + sigma**2 * self.source.mean(dim=(-1, -2), keepdim=True)) / (1 + sigma**2)

    def kept(self, sigma, like):
        return self.noised(self.source, self.noise(99, like), sigma)

    def noised(self, x0, noise, sigma):
        return x0 + sigma * noise

    def noise(self, index, like):
        return torch.randn(like.shape, generator=torch.Generator().manual_seed(index), dtype=like.dtype)

    def gradients(self):
        return torch.enable_grad()

    def report(self, step, x0, x):
        self.reports += 1


def scene(size=12, move=(3, 0), dtype=torch.float64, batch=1):
    latent = torch.randn(batch, 4, size, size, dtype=dtype, generator=torch.Generator().manual_seed(5))
    mask = torch.zeros(batch, size, size)
    mask[:, 3:8, 2:7] = 1
    flow = transform_flow(mask, Transform(move=move)).to(dtype)
    landing = land(flow)
    goal = objective(decode(latent), flow, landing, colour=100.0, motion=3.0, grow=1)
    return ToySetting(latent), Guide(goal, decode, flow_net, landing.edit_mask(1)[:, None].to(dtype))


def run(setting, guide, recipe, sigmas=(4.0, 2.0, 1.0, 0.5, 0.2, 0.0), seed=7):
    sigmas = torch.tensor(sigmas, dtype=torch.float64)
    record = Record()
    x = setting.noised(setting.source, setting.noise(seed, setting.source), float(sigmas[0]))
    return guided_ddim(x, sigmas, setting, guide.counted_by(record), recipe, record), record


def test_the_gradient_through_model_decoder_and_flow_agrees_with_finite_differences():
    setting, guide = scene()
    x, sigma = torch.randn(1, 4, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2)), 1.3
    recipe = replace(FAITHFUL, clip=0.0)
    _, _, change = _through_model(x, sigma, 1.0, setting, guide, recipe, Damper(), Record())
    loss = lambda x: guide.objective.total(
        guide.objective.by_estimate(decode(setting.denoise(x, sigma)), flow_net)
    ).sum()
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    step = 1e-6
    finite_difference = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    expected = scaled_weight(recipe.guidance, 12, 12) * sigma * finite_difference
    assert float((change * direction).sum()) == pytest.approx(float(expected), rel=1e-5)


def test_the_fast_losses_agree_with_finite_differences():
    _, guide = scene()
    loss = lambda y: guide.objective.total(guide.objective.by_target(decode(y), flow_net)).sum()
    y = torch.randn(1, 4, 12, 12, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(4))
    (gradient,) = torch.autograd.grad(loss(y), y)
    direction = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        finite_difference = (loss(y + 1e-6 * direction) - loss(y - 1e-6 * direction)) / 2e-6
    assert float((gradient * direction).sum()) == pytest.approx(float(finite_difference), rel=1e-5)


def test_one_faithful_step_is_the_released_formula_in_the_variance_preserving_form():
    setting, guide = scene()
    guide = replace(guide, free=torch.ones_like(guide.free))
    sigma, lower = 1.5, 0.8
    x = setting.noised(setting.source, setting.noise(7, setting.source), sigma)
    result = guided_ddim(
        x, torch.tensor([sigma, lower], dtype=torch.float64), setting, guide, replace(FAITHFUL, recursion=1), Record()
    )
    a, a_next = 1 / (1 + sigma**2), 1 / (1 + lower**2)
    s = (1 - a) ** 0.5
    z = (a**0.5 * x).requires_grad_()
    clean = setting.denoise(z / a**0.5, sigma)
    eps = (z - a**0.5 * clean) / s
    loss = guide.objective.total(guide.objective.by_estimate(decode((z - s * eps) / a**0.5), flow_net)).sum()
    pull = -scaled_weight(300.0, 12, 12) * torch.autograd.grad(loss, z)[0] * s
    cap = scaled_clip(200.0, 4 * 12 * 12)
    pull = pull * min(1.0, cap / float(pull.norm()))
    eps = eps - pull
    z_next = a_next**0.5 * (z - s * eps) / a**0.5 + (1 - a_next) ** 0.5 * eps
    assert torch.allclose(result, (z_next / a_next**0.5).detach(), atol=1e-10)


def test_weight_and_clip_pull_one_element_alike_at_every_size():
    setting, guide = scene(move=(2, 1))
    tile = lambda v: v.repeat(1, 1, 2, 2)
    large = ToySetting(tile(setting.source))
    flow = guide.objective.flow.repeat(1, 2, 2, 1)
    goal = objective(decode(large.source), flow, land(flow), colour=100.0, motion=3.0, grow=1)
    # Without a network: an estimated flow would read beyond the small picture's rim.
    guide = replace(guide, flow_net=None)
    guide_large = replace(guide, objective=goal, free=tile(guide.free))
    x = setting.source + 1.1 * setting.noise(1, setting.source)
    for clip in (0.0, 0.05, 200.0):
        recipe = replace(FAITHFUL, clip=clip)
        _, _, small = _through_model(x, 1.1, 1.0, setting, guide, recipe, Damper(), Record())
        _, _, big = _through_model(tile(x), 1.1, 1.0, large, guide_large, recipe, Damper(), Record())
        assert torch.allclose(tile(small), big, rtol=1e-9, atol=1e-12)
        assert clip != 0.05 or float(small.norm()) == pytest.approx(scaled_clip(0.05, 4 * 144))


def test_the_clip_shortens_rows_apart_and_drops_what_is_not_finite():
    change = torch.ones(3, 4, 2, 2)
    change[1] *= 0.01
    change[2, 0, 0, 0] = torch.nan
    result = clipped(change, 2.0)
    assert float(result[0].norm()) == pytest.approx(2.0)
    assert torch.equal(result[1], change[1]) and not result[2].any()
    assert torch.equal(clipped(change[:2], float("inf")), change[:2])


def test_zero_flow_gives_back_the_source_to_the_last_bit():
    setting, guide = scene(move=(0, 0))
    for recipe in (MotionRecipe(), FAITHFUL):
        assert torch.equal(run(setting, guide, recipe)[0], setting.source)


def test_what_is_not_free_is_the_source_to_the_last_bit_and_follows_it_on_the_way():
    setting, guide = scene()
    fixed = (guide.free == 0).expand_as(setting.source)
    for recipe in (MotionRecipe(), replace(FAITHFUL, recursion=2)):
        assert torch.equal(run(setting, guide, recipe)[0][fixed], setting.source[fixed])
        middle, _ = run(setting, guide, recipe, sigmas=(4.0, 2.0, 1.0))
        assert torch.equal(middle[fixed], setting.kept(1.0, setting.source)[fixed])


def test_no_strength_is_plain_ddim():
    setting, guide = scene()
    guide = replace(guide, free=torch.ones_like(guide.free))
    sigmas = (4.0, 2.0, 1.0, 0.0)
    x = setting.noised(setting.source, setting.noise(7, setting.source), 4.0)
    for sigma, lower in itertools.pairwise(sigmas):
        x = ddim_step(x, setting.denoise(x, sigma), sigma, lower)
    for recipe in (MotionRecipe(window=Window(curve=lambda t: 0.0)), replace(FAITHFUL, window=Window(0.9, 0.1))):
        result, record = run(setting, guide, recipe, sigmas)
        assert torch.equal(result, x)
        assert record.model_calls == 3 and record.decoder_gradients == 0


def test_fast_guidance_brings_the_object_to_its_goal():
    setting, guide = scene()
    guide = replace(guide, flow_net=None)
    arrived = guide.objective.landing.arrived
    unguided, _ = run(setting, guide, MotionRecipe(window=Window(curve=lambda t: 0.0)))
    guided, record = run(setting, guide, MotionRecipe(inner=8, pull_from=0.0))
    error = lambda x: float((decode(x) - guide.objective.warped).abs().mean(dim=1)[arrived].mean())
    assert error(guided) < 0.25 * error(unguided)
    assert [s.flow for s in record.steps] == [None] * 5
    assert record.model_calls == 5 and record.decoder_gradients == 40 and record.model_gradients == 0


def test_faithful_guidance_lowers_the_loss_and_counts_its_calls():
    setting, guide = scene()
    arrived = guide.objective.landing.arrived
    # So few levels need a stronger pull than the released 500 x 10 evaluations.
    recipe = replace(FAITHFUL, recursion=6, guidance=300.0 * 2e3)
    unguided, _ = run(setting, guide, replace(recipe, window=Window(curve=lambda t: 0.0)))
    guided, record = run(setting, guide, recipe)
    loss = lambda x: float(guide.objective.total(guide.objective.by_estimate(decode(x), flow_net)))
    assert loss(guided) < 0.8 * loss(unguided) and arrived.any()
    assert record.model_calls == record.model_gradients == record.decoder_gradients == record.flow_gradients == 30
    assert record.decodes == record.flow_calls == 30


def test_the_flow_network_is_asked_once_in_every_three_levels():
    setting, guide = scene()
    _, record = run(setting, guide, MotionRecipe(pull_from=0.0, flow_every=3))
    assert [s.flow is not None for s in record.steps] == [False, True, False, False, True]
    assert record.flow_gradients == record.flow_calls == 2
    # Beside the pulls, the last one is looked at again.
    assert record.decoder_gradients == 10 and record.decodes == 11


@pytest.mark.parametrize("recipe", [MotionRecipe(), replace(FAITHFUL, recursion=2, damping=True)])
@pytest.mark.parametrize("harm", [float("nan"), 1e4])
def test_a_loss_that_diverges_never_blackens_the_picture(recipe, harm):
    setting, guide = scene()
    calls = []

    def broken(latent):
        calls.append(1)
        return decode(latent) * (harm if len(calls) % 3 == 2 else 1.0)

    result, record = run(setting, replace(guide, decode=broken), recipe)
    assert torch.isfinite(result).all() and result.abs().max() < 30
    # The fast preset asks once a level, so there is nothing to compare with; a worse update is halved there anyway.
    assert record.not_finite > 0 if harm != 1e4 else record.damped > 0 or not recipe.faithful


def test_the_last_pull_of_all_is_dropped_where_it_worsens():
    setting, guide = scene()
    guide = replace(guide, flow_net=None)
    unguided, _ = run(setting, guide, MotionRecipe(window=Window(curve=lambda t: 0.0)), (1.0, 0.0))
    loss = lambda x: float(guide.objective.by_target(decode(x), None).colour)
    wild, _ = run(setting, guide, MotionRecipe(inner=1, guidance=300.0 * 1e4, clip=0.0), (1.0, 0.0))
    calm, _ = run(setting, guide, MotionRecipe(inner=1), (1.0, 0.0))
    assert loss(wild) <= loss(unguided) and loss(calm) < loss(unguided)


def test_what_is_not_pulled_is_not_decoded_but_for_the_result():
    setting, guide = scene()
    for recipe, decodes, gradients in ((DRAFT, 1, 0), (MotionRecipe(), 7, 6)):
        _, record = run(setting, replace(guide, flow_net=None), recipe)
        assert (record.decodes, record.decoder_gradients) == (decodes, gradients)
        looked = [step.colour is not None for step in record.steps]
        assert looked == [False, False] + 2 * [recipe is not DRAFT] + [True]
    _, record = run(setting, replace(guide, flow_net=None, cheap=False), DRAFT)
    assert record.decodes == 0 and len(record.steps) == 5


def test_the_damper_halves_recovers_and_keeps_rows_apart():
    damper = Damper()
    assert damper(torch.tensor([1.0, 1.0])).tolist() == [1.0, 1.0]
    assert damper(torch.tensor([2.0, 0.9])).tolist() == [0.5, 1.0]
    assert damper(torch.tensor([1.0, float("inf")])).tolist() == [pytest.approx(0.6), 0.5]
    assert damper(torch.tensor([9.0, 9.0]), True).tolist()[0] == pytest.approx(0.72)  # another kind, no comparison
    assert damper.caught == 2
    assert Damper(active=False)(torch.tensor([1.0])).tolist() == [1.0]


def test_polyaks_step_ends_a_linear_loss_at_its_floor():
    y, finite_difference = torch.tensor([[[[3.0, 1.0]]]]), torch.tensor([[[[2.0, -1.0]]]])
    loss = lambda y: (y * finite_difference).flatten(1).sum(1)
    step = polyak_step(loss(y), torch.tensor([1.5]), finite_difference)
    assert float(loss(y - step[:, None, None, None] * finite_difference)) == pytest.approx(1.5)


def test_stepping_up_restores_the_marginal_of_the_noisier_level():
    # The std of n = 640000 numbers has a relative standard error of 1 / sqrt(2 n) = 0.0009.
    noise = torch.randn(2, 1, 1, 800, 800, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    up = step_up(0.7 * noise[0], 0.7, 1.9, noise[1], flow=False)
    assert float(up.std()) == pytest.approx(1.9, rel=0.01)
    clean = torch.full_like(noise[0], 3.0)
    up = step_up(0.6 * clean + 0.4 * noise[0], 0.4, 0.8, noise[1], flow=True)
    assert float(up.mean()) == pytest.approx(0.2 * 3.0, abs=0.02) and float(up.std()) == pytest.approx(0.8, rel=0.01)


def test_rows_of_a_batch_do_not_meet():
    setting, guide = scene(batch=2)
    single = ToySetting(setting.source[1:])
    single.noise = lambda index, like: setting.noise(index, setting.source)[1:]
    goal, whole = guide.objective, land(guide.objective.flow[1:])
    alone = Guide(
        objective(goal.source[1:], goal.flow[1:], whole, colour=100.0, motion=3.0, grow=1),
        decode,
        flow_net,
        guide.free[1:],
    )
    for recipe in (MotionRecipe(), replace(FAITHFUL, recursion=2)):
        assert torch.allclose(run(setting, guide, recipe)[0][1:], run(single, alone, recipe)[0], atol=1e-9)


def test_runs_are_the_same_twice():
    setting, guide = scene()
    for recipe in (MotionRecipe(), FAITHFUL):
        assert torch.equal(run(setting, guide, recipe)[0], run(setting, guide, recipe)[0])


class FlowModelSetting(ToySetting):
    """The same model as a flow model has it: x = (1 - sigma) x0 + sigma noise."""

    def denoise(self, x, sigma):
        return super().denoise(x / (1 - sigma), sigma / (1 - sigma))

    def noised(self, x0, noise, sigma):
        return (1 - sigma) * x0 + sigma * noise


@pytest.mark.parametrize("recursion", [1, 3])
def test_a_flow_model_is_pulled_as_the_same_model_in_the_other_form(recursion):
    """Equal noise levels, equal pictures: sigma of a flow model is sigma / (1 - sigma) of the other form."""
    setting, guide = scene()
    recipe, levels = replace(FAITHFUL, recursion=recursion), (4.0, 1.5, 0.5, 0.0)
    expected, _ = run(setting, guide, recipe, levels)
    other = FlowModelSetting(setting.source)
    sigmas = torch.tensor([level / (1 + level) for level in levels], dtype=torch.float64)
    x = other.noised(other.source, other.noise(7, other.source), float(sigmas[0]))
    found = guided_ddim(x, sigmas, other, guide, recipe, Record(), flow_model=True)
    unguided, _ = run(setting, guide, replace(recipe, guidance=0.0), levels)
    assert not torch.allclose(expected, unguided, atol=1e-3)
    assert torch.allclose(found, expected, atol=1e-9)


def test_a_flow_model_is_pulled_to_a_finite_place_from_pure_noise():
    setting, guide = scene()
    x = torch.randn(1, 4, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    setting.denoise = lambda x, sigma: x * 0.5
    sigmas = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    found = guided_ddim(x, sigmas, setting, guide, FAITHFUL, Record(), flow_model=True)
    assert torch.isfinite(found).all() and found.abs().max() < 1e3


def test_the_faithful_preset_is_not_damped_and_can_be():
    setting, guide = scene()
    calls = []

    def growing(latent):
        calls.append(1)
        return decode(latent) * (100.0 if len(calls) % 2 == 0 else 1.0)

    guide = replace(guide, decode=growing)
    _, record = run(setting, guide, replace(FAITHFUL, recursion=2))
    assert record.damped == 0
    _, record = run(setting, guide, replace(FAITHFUL, recursion=2, damping=True))
    assert record.damped > 0


def test_losses_of_different_noise_levels_are_never_compared():
    damper = Damper()
    assert damper(torch.tensor([1.0])).tolist() == [1.0]
    damper.next_level()
    assert damper(torch.tensor([100.0])).tolist() == [1.0] and damper.caught == 0
    assert damper(torch.tensor([200.0])).tolist() == [0.5] and damper.caught == 1


@pytest.mark.parametrize("recipe", [MotionRecipe(), replace(FAITHFUL, recursion=2)])
def test_a_pull_that_is_not_finite_is_counted_as_such_and_not_as_damped(recipe):
    setting, guide = scene()
    calls = []

    def broken(latent):
        calls.append(1)
        return decode(latent) * (float("nan") if len(calls) == 2 else 1.0)

    result, record = run(setting, replace(guide, decode=broken), recipe)
    assert torch.isfinite(result).all()
    assert record.not_finite == 1 and record.damped == 0
