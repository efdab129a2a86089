"""Gaussianity and picture quality, where the answers are known."""

import math

import pytest
import torch
from palimpsest.guidance import edit_measures
from palimpsest.inversion import quality
from palimpsest.inversion.gaussianity import IDEAL_LOG_LIKELIHOOD, gaussianity, unit_noise
from palimpsest.inversion.quality import PSNR_EQUAL, psnr, ssim


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_white_noise_measures_as_white_noise():
    found = gaussianity(noise(2, 4, 96, 96))
    assert found.mean.abs().max() < 0.02 and (found.std - 1).abs().max() < 0.02
    assert found.correlation.abs().max() < 0.02
    assert (found.log_likelihood - IDEAL_LOG_LIKELIHOOD).abs().max() < 0.02


def test_log_likelihood_is_the_density():
    x = noise(1, 1, 8, 8)
    expected = torch.distributions.Normal(0, 1).log_prob(x).mean()
    assert float(gaussianity(x).log_likelihood) == pytest.approx(float(expected), abs=1e-5)


def test_correlation_is_the_gratings_own():
    wave = torch.cos(torch.arange(256) * math.pi / 2 + 0.5).expand(1, 1, 256, 256)
    found = gaussianity(wave)
    # Across, neighbours are a quarter wave apart (0); down, they are equal (1).
    assert float(found.correlation) == pytest.approx(0.5, abs=0.02)


def test_a_flat_latent_has_no_correlation():
    assert float(gaussianity(torch.full((1, 4, 8, 8), 0.3)).correlation) == 0.0
    assert float(gaussianity(noise(1, 4, 1, 1)).correlation) == 0.0


def test_rows_are_measured_alone():
    x = torch.cat([noise(1, 4, 32, 32), 3 * noise(1, 4, 32, 32, seed=1)])
    found = gaussianity(x)
    assert float(found.std[0]) == pytest.approx(1.0, abs=0.05)
    assert float(found.std[1]) == pytest.approx(3.0, abs=0.15)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_unit_noise_undoes_the_levels_scale(sigma, flow):
    # The std of n = 262144 numbers has a standard error of 1 / sqrt(2 n) = 0.0014.
    clean, grain = noise(1, 4, 256, 256), noise(1, 4, 256, 256, seed=1)
    x = ((1 - sigma) * clean if flow else clean) + sigma * grain
    assert float(unit_noise(x, sigma, flow=flow).std()) == pytest.approx(1.0, abs=0.02)


def test_psnr_of_a_known_error():
    a = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0)) * 0.8
    b = a + torch.tensor([0.1, 0.01]).reshape(2, 1, 1, 1)
    assert psnr(a, b).tolist() == pytest.approx([20.0, 40.0], abs=1e-3)
    assert psnr(a, a).tolist() == [PSNR_EQUAL] * 2


def test_psnr_counts_only_the_mask():
    a = torch.zeros(1, 8, 8, 3)
    b = a.clone()
    b[:, :, :4] = 0.1
    mask = torch.zeros(1, 8, 8)
    mask[:, :, :4] = 1
    assert float(psnr(a, b, mask=mask)) == pytest.approx(20.0, abs=1e-3)
    assert float(psnr(a, b, mask=1 - mask)) == PSNR_EQUAL


def test_ssim_limits():
    a = torch.rand(2, 24, 24, 3, generator=torch.Generator().manual_seed(0))
    assert ssim(a, a).tolist() == pytest.approx([1.0, 1.0], abs=1e-4)
    assert float(ssim(a, 1 - a).max()) < 0
    assert ssim(a[:, :4, :4], a[:, :4, :4]).shape == (2,)


def test_a_large_picture_is_compared_once_and_in_bands(monkeypatch):
    """What is computed between two questions for Interrupt does not grow with the picture."""
    a = torch.rand(1, 150, 40, 3, generator=torch.Generator().manual_seed(0))
    b, mask = (a + 0.1).clamp(0, 1), torch.zeros(1, 150, 40)
    mask[:, 20:90, 5:30] = 1
    whole, rows, inner = ssim(a, b), [], quality.ssim_map
    monkeypatch.setattr(quality, "ssim_map", lambda one, *given: (rows.append(one.shape[2]), inner(one, *given))[1])
    monkeypatch.setattr(quality, "BAND", 40 * 20)
    # Variances of 0.08 are differences of sums near 0.3 that are rounded to 1e-7.
    assert torch.allclose(ssim(a, b), whole, atol=1e-5)
    rows.clear()
    measured = edit_measures.measure(a, b, mask)[0]
    assert max(rows) <= 20 + quality.SSIM_WINDOW - 1 and sum(rows) < 2 * 150
    for name, part in ((edit_measures.INSIDE, mask), (edit_measures.OUTSIDE, 1 - mask)):
        assert measured.region(name).ssim == pytest.approx(float(ssim(a, b, mask=part)), abs=1e-5)
        assert measured.region(name).psnr == pytest.approx(float(psnr(a, b, mask=part)), abs=1e-3)
