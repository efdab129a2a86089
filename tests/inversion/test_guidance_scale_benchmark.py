"""The suite of the inversion's guidance scale: what its parts mean, without a model."""

from types import SimpleNamespace

import pytest
import torch
from palimpsest.benchmarks.inversion.suite_guidance_scale import likelihood, plot, random_pivot, rows_of
from palimpsest.inversion.gaussianity import IDEAL_LOG_LIKELIHOOD
from palimpsest.inversion.trajectory import Trajectory


def path(latents: torch.Tensor) -> Trajectory:
    return Trajectory(torch.tensor([0.0, 1.0, 10.0]), latents, "", 1.0, "", "eps", "SD15")


def test_a_random_pivot_is_the_picture_under_one_noise():
    clean = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    found = random_pivot(path(torch.stack([clean, clean, clean])))
    noise = found.latents[1] - clean
    assert torch.equal(found.latents[0], clean)
    assert torch.allclose(found.latents[2], clean + 10 * noise, atol=1e-5) and 0.9 < noise.std() < 1.1


def test_white_noise_has_the_ideal_likelihood_and_larger_noise_less():
    noise = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    white, loud = (path(torch.stack([noise, noise, times * 101**0.5 * noise])) for times in (1.0, 1.5))
    assert likelihood(white).tolist() == pytest.approx([IDEAL_LOG_LIKELIHOOD] * 2, abs=0.05)
    assert (likelihood(loud) < likelihood(white) - 0.3).all()


def test_rows_have_a_spread():
    context = SimpleNamespace(row=lambda *values: values)
    mean, std = rows_of(context, "t", "measure", "mode", torch.tensor([1.0, 3.0]), "dB")
    assert mean[3] == 2 and std[1] == "measure, std" and std[3] == pytest.approx(2**0.5)
    assert [row[3] for row in rows_of(context, "t", "measure", "mode", None, "dB")] == [None, None]


def test_the_plot_has_a_curve_for_each_measure(tmp_path, monkeypatch):
    monkeypatch.setattr("palimpsest.benchmarks.plots.FOLDER", tmp_path)
    one = {"no fit": torch.tensor([20.0]), "fast": torch.tensor([35.0]), "log-likelihood": torch.tensor([-1.5])}
    plot({1.0: one, 7.5: one})
    text = (tmp_path / "null_text_guidance_scale.svg").read_text()
    assert text.count("<polyline") == 3 and "log-likelihood" in text
