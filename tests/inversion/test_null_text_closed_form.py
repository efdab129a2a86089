"""The needed unconditional prediction: it carries the guided step exactly to where it is wanted."""

import pytest
import torch
from palimpsest.inversion.diffusion import ddim_step, gain, guided, needed_unconditional

from .null_text_toy import Toy, inverted, official_levels, picture


@pytest.mark.parametrize("cfg", [7.5, 0.0, 3.0, -2.0, 15.0])
def test_needed_prediction_reproduces_the_trajectory(cfg):
    toy, levels = Toy(torch.float64), official_levels()
    path = inverted(toy, picture(2, torch.float64), levels)
    x, worst = path[-1], 0.0
    for i in range(len(levels) - 1, 0, -1):
        s, t = float(levels[i]), float(levels[i - 1])
        conditional = toy.conditional(x, torch.full((2,), s, dtype=torch.float64), torch.arange(2))
        needed = needed_unconditional(x, path[i - 1], conditional, s, t, cfg)
        x = ddim_step(x, guided(conditional, needed, cfg), s, t)
        worst = max(worst, float((x - path[i - 1]).abs().max()))
    assert worst < 1e-6


def test_needed_prediction_in_single_precision():
    toy, levels = Toy(), official_levels()
    path = inverted(toy, picture(), levels)
    x = path[-1]
    for i in range(len(levels) - 1, 0, -1):
        s, t = float(levels[i]), float(levels[i - 1])
        conditional = toy.conditional(x, torch.full((1,), s), torch.arange(1))
        needed = needed_unconditional(x, path[i - 1], conditional, s, t, 7.5)
        x = ddim_step(x, guided(conditional, needed, 7.5), s, t)
        # Latents grow with the noise level, and so does what single precision can hold of them.
        assert (x - path[i - 1]).abs().max() < 1e-6 * (1 + t * t) ** 0.5 * 8


def test_rows_of_different_levels_are_steps_of_their_own():
    x, denoised = picture(3), picture(3, seed=6)
    sigma, below = torch.tensor([9.0, 2.0, 0.5]), torch.tensor([8.0, 1.5, 0.0])
    together = ddim_step(x, denoised, sigma, below)
    for row in range(3):
        alone = ddim_step(x[row : row + 1], denoised[row : row + 1], float(sigma[row]), float(below[row]))
        assert torch.allclose(together[row : row + 1], alone, atol=1e-6)
    assert torch.equal(together[2], denoised[2])


def test_gain_is_the_size_of_the_error_of_the_next_latent():
    x, conditional = picture(), picture(seed=6)
    s, t, cfg = 4.0, 3.2, 7.5
    error = 0.01 * picture(seed=7)
    near = ddim_step(x, guided(conditional, conditional, cfg), s, t)
    far = ddim_step(x, guided(conditional, conditional + error, cfg), s, t)
    expected = abs(cfg - 1) * gain(s, t, x) * error.abs()
    assert torch.allclose((far - near).abs() / (1 + t * t) ** 0.5, expected, atol=1e-6)


def test_official_gains_of_fifty_steps():
    """Per epsilon, as the facts of the official code have it: 0.80, 0.42, 0.27, 0.71 at steps 0, 20, 40, 48."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - betas, 0)
    levels = ((1 - alpha_bar) / alpha_bar).sqrt()[::20].flip(0)
    for k, expected in ((0, 0.80), (20, 0.42), (40, 0.27), (48, 0.71)):
        s, t = float(levels[k]), float(levels[k + 1])
        of_epsilon = 6.5 * gain(s, t, picture()) * s
        assert of_epsilon == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("cfg", [1.0, 1.0005])
def test_without_guidance_there_is_nothing_to_fit(cfg):
    x = picture()
    with pytest.raises(ValueError, match="CFG 1"):
        needed_unconditional(x, x, x, 2.0, 1.0, cfg)
