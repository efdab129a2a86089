"""Inversion-free edits: the papers' own lines in double precision, closed forms on a Gaussian model, limits."""

import math

import pytest
import torch
from palimpsest.guidance.inversion_free import MODES, ZETA, edited
from palimpsest.inversion.diffusion import noised

from ..inversion.analytic import Gaussian

SHAPE = (2, 4, 6, 5)
FLOW_LEVELS = torch.linspace(1, 0, 9, dtype=torch.float64).tolist()
EPS_LEVELS = [10.0, 5.0, 2.5, 1.2, 0.6, 0.3, 0.0]


def levels_of(flow):
    return FLOW_LEVELS if flow else EPS_LEVELS


def drawn(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *SHAPE, generator=generator, dtype=torch.float64)


class Nonlinear:
    """A prediction of the picture that no formula below can undo: each prompt has its own matrix."""

    def __init__(self, seed):
        self.mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def __call__(self, x, sigma):
        return torch.einsum("dc,bchw->bdhw", self.mix, x / (1 + sigma)).tanh()


SOURCE, TARGET = Nonlinear(1), Nonlinear(2)


def flow_edit(x0, noises, levels):
    """FlowEdit, algorithm 1, in velocities."""
    x = x0.clone()
    for n, t, s in zip(noises, levels, levels[1:]):
        q = (1 - t) * x0 + t * n
        p = x + q - x0
        v_p, v_q = (p - TARGET(p, t)) / t, (q - SOURCE(q, t)) / t
        x = x + (s - t) * (v_p - v_q)
    return x


def flow_align(x0, noises, levels, w=7.5):
    """FlowAlign, algorithm 1, in velocities; the guidance goes from the source to the target."""
    x = x0.clone()
    for n, t, s in zip(noises, levels, levels[1:]):
        q = (1 - t) * x0 + t * n
        p = x + q - x0
        target, source = ((p - one(p, t)) / t for one in (TARGET, SOURCE))
        v_p, v_q = source + w * (target - source), (q - SOURCE(q, t)) / t
        x = x + (s - t) * (v_p - v_q) + ZETA * ((q - t * v_q) - (p - t * v_p))
    return x


def ddcm(x0, noises, levels):
    """InfEdit, virtual inversion, in the scaled form z = sqrt(a) x, and in noise."""
    edit = x0.clone()
    for n, sigma in zip(noises, levels):
        a = 1 / (1 + sigma**2)
        root, rest = math.sqrt(a), math.sqrt(1 - a)
        z_source, z_target = root * x0 + rest * n, root * edit + rest * n
        consistent = (z_source - root * x0) / rest
        eps = [(z / root - one(z / root, sigma)) / sigma for z, one in ((z_target, TARGET), (z_source, SOURCE))]
        edit = (z_target - rest * (eps[0] - eps[1] + consistent)) / root
    return edit


def plain(p, q, sigma):
    return TARGET(p, sigma), SOURCE(q, sigma)


def from_source(p, q, sigma, w=7.5):
    source = SOURCE(p, sigma)
    return source + w * (TARGET(p, sigma) - source), SOURCE(q, sigma)


@pytest.mark.parametrize(
    "mode, predict, paper, flow",
    [
        ("FlowEdit", plain, flow_edit, True),
        ("FlowAlign", from_source, flow_align, True),
        ("DDCM", plain, ddcm, False),
    ],
    ids=MODES,
)
def test_it_is_the_papers_algorithm(mode, predict, paper, flow):
    levels = levels_of(flow)
    x0, *noises = drawn(len(levels))
    found = edited(predict, x0, levels, noises, mode, flow=flow)
    wanted = paper(x0, noises, levels)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-10 * float(wanted.abs().max()))
    assert float((found - x0).abs().max()) > 0.1


@pytest.mark.parametrize("flow", [True, False], ids=["flow", "noise"])
@pytest.mark.parametrize("mode", MODES)
def test_equal_prompts_and_a_black_mask_leave_the_source_to_the_bit(mode, flow):
    levels = levels_of(flow)
    x0, *noises = (one.float() for one in drawn(len(levels)))
    same = lambda p, q, sigma: (SOURCE(p.double(), sigma).float(), SOURCE(q.double(), sigma).float())
    assert torch.equal(edited(same, x0, levels, noises, mode, flow=flow), x0)
    other = lambda p, q, sigma: (p * 3 + 1, q)
    black = torch.zeros(1, 1, 6, 5)
    assert torch.equal(edited(other, x0, levels, noises, mode, flow=flow, mask=black), x0)


@pytest.mark.parametrize("mode", MODES)
def test_a_white_mask_is_none_and_a_half_mask_keeps_its_half_to_the_bit(mode):
    x0, *noises = drawn(len(EPS_LEVELS))
    run = lambda mask: edited(plain, x0, EPS_LEVELS, noises, mode, flow=False, mask=mask)
    half = torch.ones(1, 1, 6, 5, dtype=x0.dtype)
    assert torch.equal(run(half), run(None))
    half[..., :2] = 0
    found = run(half)
    assert torch.equal(found[..., :2], x0[..., :2]) and not torch.equal(found[..., 2:], x0[..., 2:])


def on_gaussians(shift, variance, flow):
    """Both prompts' exact predictions: the same Gaussian, moved by `shift` for the target."""
    models = [Gaussian(variance, mean, flow=flow) for mean in (0.5 + shift, 0.5)]
    level = lambda x, sigma: torch.full((x.shape[0],), sigma, dtype=torch.float32)
    return lambda p, q, sigma: tuple(one(x, level(x, sigma)) for one, x in zip(models, (p, q)))


def test_ddcm_comes_nearer_to_the_target_by_a_known_ratio_at_each_level():
    """d = (1 - g) shift + g c with g = variance / (variance + sigma^2): what is missing is multiplied by g."""
    shift, variance = 2.0, 0.7
    levels = [3.0, 1.5, 0.5, 0.0]
    x0, *noises = drawn(len(levels))
    found = edited(on_gaussians(shift, variance, False), x0, levels, noises, "DDCM", flow=False)
    missing = math.prod(variance / (variance + sigma**2) for sigma in levels[:-1])
    assert torch.allclose(found, x0 + shift * (1 - missing), rtol=0, atol=1e-6)


def test_flow_edit_of_a_gaussian_goes_straight_to_the_target_from_pure_noise():
    """c(t) = (1 - t) shift solves the equation below from t = 1 on, and Euler's steps follow a straight line."""
    x0, *noises = drawn(len(FLOW_LEVELS))
    found = edited(on_gaussians(2.0, 0.7, True), x0, FLOW_LEVELS, noises, "FlowEdit", flow=True)
    assert torch.allclose(found, x0 + 2.0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("top", [0.8, 0.5])
def test_flow_edit_of_a_gaussian_goes_as_far_as_the_ordinary_differential_equation_says(top):
    """c(0) = shift (1 - (1 - t) std / sqrt((1 - t)^2 std^2 + t^2)) from the level t, with error of the first order."""
    shift, variance, errors = 2.0, 0.7, []
    wanted = shift * (1 - (1 - top) * variance**0.5 / math.sqrt((1 - top) ** 2 * variance + top**2))
    for steps in (100, 200):
        levels = torch.linspace(top, 0, steps + 1, dtype=torch.float64).tolist()
        x0 = drawn(1)[0]
        noises = [one for seed in range(steps) for one in drawn(1, seed)]
        found = edited(on_gaussians(shift, variance, True), x0, levels, noises, "FlowEdit", flow=True)
        errors.append(float((found - x0 - wanted).abs().max()))
    assert errors[1] < 0.05 and errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("mode", MODES)
def test_the_noisy_edit_differs_from_the_noisy_source_by_the_change_alone(mode):
    x0, *noises = drawn(len(EPS_LEVELS))
    seen, edits = [], [x0]

    def predict(p, q, sigma):
        seen.append((p, q))
        return plain(p, q, sigma)

    edited(predict, x0, EPS_LEVELS, noises, mode, flow=False, on_step=lambda i, n, x: edits.append(x))
    for (p, q), noise, sigma, edit in zip(seen, noises, EPS_LEVELS, edits):
        assert torch.equal(q, noised(x0, noise, sigma))
        assert torch.allclose(p - q, edit - x0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_a_schedule_that_ends_at_the_models_lowest_level_ends_as_one_with_zero(mode):
    x0, *noises = drawn(len(EPS_LEVELS))
    runs = [edited(plain, x0, [*EPS_LEVELS[:-1], last], noises, mode, flow=False) for last in (0.0, 0.02)]
    assert torch.equal(*runs)
