"""The heat map's mathematics against closed forms."""

import math

import pytest
import torch
from palimpsest.guidance.diffedit.heat_map import (
    differences,
    flow_level,
    heat_map,
    is_noise,
    item_noises,
    steadiness,
    strongest,
)
from palimpsest.inversion.diffusion import guided, noised


def gaussian_x0(x, sigma, mean, spread):
    """The exact prediction for pictures drawn from N(mean, spread^2)."""
    return (spread**2 * x + sigma**2 * mean) / (spread**2 + sigma**2)


@pytest.mark.parametrize("sigma", [0.3, 1.6, 7.0])
def test_two_gaussians_differ_by_their_means(sigma):
    """|eps_Q - eps_R| = sigma |mean_Q - mean_R| / (spread^2 + sigma^2), whatever the noise."""
    latent, spread = torch.randn(2, 4, 6, 6), 0.8
    query, reference = torch.randn(2, 4, 6, 6), torch.randn(2, 4, 6, 6)
    x = noised(latent, item_noises((4, 6, 6), 5, 3, [0, 1]), sigma)
    predicted = [gaussian_x0(x, sigma, mean, spread) for mean in (query, reference)]
    expected = (sigma * (query - reference).abs() / (spread**2 + sigma**2)).mean(1)
    torch.testing.assert_close(heat_map(differences(*predicted, sigma)), expected)


def test_guidance_with_one_negative_only_scales():
    """The reason why equal negatives cost nothing."""
    query, reference, negative = torch.randn(3, 2, 1, 4, 6, 6).unbind()
    plain = differences(query, reference, 1.0)
    for cfg in (1.5, 7.5, 20.0):
        scaled = differences(guided(query, negative, cfg), guided(reference, negative, cfg), 1.0)
        torch.testing.assert_close(scaled, cfg * plain, atol=1e-4, rtol=1e-5)


def test_noises_belong_to_the_item_not_to_the_batch():
    all_three = item_noises((4, 5, 6), 4, 9, [0, 1, 2])
    assert all_three.shape == (4, 3, 4, 5, 6)
    assert torch.equal(item_noises((4, 5, 6), 4, 9, [2])[:, 0], all_three[:, 2])
    assert torch.equal(item_noises((4, 5, 6), 2, 9, [0, 1, 2]), all_three[:2])
    assert not torch.equal(item_noises((4, 5, 6), 4, 10, [0])[:, 0], all_three[:, 0])
    assert not torch.equal(all_three[0], all_three[1]) and not torch.equal(all_three[:, 0], all_three[:, 1])
    assert abs(float(all_three.mean())) < 0.1 and abs(float(all_three.std()) - 1) < 0.1


def test_noising():
    latent, noise = torch.randn(1, 4, 3, 3), torch.randn(2, 1, 4, 3, 3)
    torch.testing.assert_close(noised(latent, noise, 2.0)[1], latent + 2 * noise[1])
    torch.testing.assert_close(noised(latent, noise, 0.25, flow=True)[0], 0.75 * latent + 0.25 * noise[0])


def test_flow_levels_have_stable_diffusion_s_ratio_of_noise_to_picture():
    betas = torch.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000) ** 2
    bar = torch.cumprod(1 - betas, 0)
    for strength in (0.1, 0.5, 0.9):
        sigma = float(((1 - bar) / bar).sqrt()[round(strength * 999)])
        level = flow_level(strength)
        assert level / (1 - level) == pytest.approx(sigma, rel=1e-4)
    assert flow_level(0.5) == pytest.approx(0.618, abs=0.001)


def test_differences_are_taken_in_fp32():
    query = torch.full((1, 1, 4, 2, 2), 1000.0, dtype=torch.float16)
    reference = query - 1
    assert differences(query, reference, 1.0).dtype == torch.float32
    torch.testing.assert_close(differences(query, reference, 2.0), torch.full((1, 1, 2, 2), 0.5))


def test_the_extreme_noises_can_be_left_out():
    maps = torch.rand(6, 1, 4, 4)
    maps[2] = 100
    assert float(heat_map(maps, trim=True).max()) < 1 < float(heat_map(maps).min())
    assert torch.equal(heat_map(maps[:2], trim=True), heat_map(maps[:2]))


def test_equal_predictions_are_known_as_noise():
    same = torch.randn(3, 2, 4, 5, 5)
    other = same.clone()
    other[:, 1] += 0.1
    assert is_noise(heat_map(differences(same, other + 1e-6, 1.0))).tolist() == [True, False]


def test_the_strongest_hundredth_tells_a_small_object_from_none():
    heat = torch.full((2, 20, 20), 0.01)
    heat[1, :2, :2] = 0.3
    torch.testing.assert_close(strongest(heat), torch.tensor([0.01, 0.3]))
    assert strongest(torch.ones(1, 3, 3)).tolist() == [1.0]


def test_a_map_is_steady_if_other_noises_would_give_it_too():
    generator = torch.Generator().manual_seed(0)
    chance = torch.rand(10, 1, 32, 32, generator=generator)
    object_ = torch.zeros(32, 32)
    object_[8:20, 8:20] = 1
    seen = steadiness(torch.cat((chance, chance + object_, torch.ones_like(chance)), 1))
    assert abs(float(seen[0])) < 0.15 and float(seen[1]) > 0.8 and float(seen[2]) == 0
    assert steadiness(chance[:3]).tolist() == [1.0]
