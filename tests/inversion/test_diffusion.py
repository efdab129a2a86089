"""The shared arithmetic against its definitions, in float64."""

import pytest
import torch
from palimpsest.inversion.diffusion import (
    append_dims,
    ddim_step,
    error_weight,
    gain,
    guided,
    needed_denoised,
    noised,
    step_up,
    to_d,
)

SIGMA, BELOW = torch.tensor([2.0, 0.8], dtype=torch.float64), torch.tensor([0.5, 0.0], dtype=torch.float64)


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 2, 3, 5, 5, generator=generator, dtype=torch.float64)


def test_values_for_rows_take_the_shape_of_rows():
    assert append_dims(SIGMA, 4).shape == (2, 1, 1, 1) and append_dims(SIGMA, 1) is not None
    assert torch.equal(append_dims(SIGMA, 5).flatten(), SIGMA)


@pytest.mark.parametrize("flow", [False, True])
def test_a_step_with_the_true_picture_leads_to_the_picture_at_the_lower_level(drawn, flow):
    latent, noise, *_ = drawn
    level, below = (SIGMA, BELOW) if not flow else (SIGMA / 4, BELOW / 4)
    x = noised(latent, noise, level, flow=flow)
    torch.testing.assert_close(ddim_step(x, latent, level, below), noised(latent, noise, below, flow=flow))
    torch.testing.assert_close(to_d(x, level, latent), noise - latent if flow else noise)


def test_a_step_is_eulers_and_ends_on_the_prediction_itself(drawn):
    x, denoised, *_ = drawn
    euler = x + append_dims(BELOW - SIGMA, 4) * to_d(x, SIGMA, denoised)
    torch.testing.assert_close(ddim_step(x, denoised, SIGMA, BELOW), euler)
    assert torch.equal(ddim_step(x, denoised, SIGMA, BELOW)[1], denoised[1])
    assert torch.equal(ddim_step(x, denoised, 3.0, 0.0), denoised)


def test_numbers_and_rows_of_one_number_agree(drawn):
    x, denoised, wanted, noise = drawn
    rows = [torch.full((2,), value, dtype=torch.float64) for value in (2.0, 0.5)]
    for one in (ddim_step, lambda x, d, s, t: needed_denoised(x, d, s, t), lambda x, d, s, t: noised(x, d, s)):
        torch.testing.assert_close(one(x, denoised, 2.0, 0.5), one(x, denoised, *rows))
    assert wanted.shape == noise.shape


def test_noise_for_every_draw_of_a_picture(drawn):
    latent = drawn[0]
    assert torch.equal(noised(latent, drawn, 2.0)[3], latent + 2.0 * drawn[3])


def test_the_needed_prediction_leads_where_it_is_to_lead(drawn):
    x, wanted, *_ = drawn
    torch.testing.assert_close(ddim_step(x, needed_denoised(x, wanted, SIGMA, BELOW), SIGMA, BELOW), wanted)


def test_an_error_of_the_prediction_arrives_by_its_gain(drawn):
    x, denoised, error, _ = drawn
    moved = ddim_step(x, denoised + error, SIGMA, BELOW) - ddim_step(x, denoised, SIGMA, BELOW)
    torch.testing.assert_close(moved / append_dims((1 + BELOW**2).sqrt(), 4), gain(SIGMA, BELOW, x) * error)
    torch.testing.assert_close(moved, gain(SIGMA, BELOW, x, flow=True) * error)


def test_the_step_up_adds_the_missing_variance(drawn):
    """Noise of both levels in quadrature is the noise of the upper one, and a flow's picture keeps its own weight."""
    latent, one, two, _ = drawn
    up = step_up(noised(latent, one, 0.7), 0.7, 1.9, two)
    torch.testing.assert_close(up - latent, 0.7 * one + (1.9**2 - 0.7**2) ** 0.5 * two)
    up = step_up(noised(latent, one, 0.4, flow=True), 0.4, 0.8, two, flow=True)
    left = (1 - 0.8) / (1 - 0.4) * 0.4
    torch.testing.assert_close(up, 0.2 * latent + left * one + (0.8**2 - left**2) ** 0.5 * two)


def test_guidance_at_its_ends(drawn):
    conditional, unconditional, *_ = drawn
    torch.testing.assert_close(guided(conditional, unconditional, 1.0), conditional)
    assert torch.equal(guided(conditional, unconditional, 0.0), unconditional)
    torch.testing.assert_close(guided(conditional, unconditional, 3.0), 3 * conditional - 2 * unconditional)


@pytest.mark.parametrize("prediction", ["eps", "v", "flow"])
def test_the_weight_of_an_error_is_that_of_the_networks_own_answer(drawn, prediction):
    x, denoised, other, _ = drawn

    def answer(x0):
        if prediction != "v":
            return to_d(x, SIGMA, x0)
        alpha = append_dims((1 + SIGMA**2) ** -0.5, 4)
        return alpha * to_d(x, SIGMA, x0) - append_dims(SIGMA, 4) * alpha * x0

    own = (answer(denoised) - answer(other)).square().flatten(1).mean(1)
    torch.testing.assert_close(own, (denoised - other).square().flatten(1).mean(1) * error_weight(SIGMA, prediction))
