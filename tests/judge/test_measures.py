"""The judge's measures: by hand on flat pictures, and those of torchmetrics on noise and on photographs."""

from __future__ import annotations

import math

import pytest
import torch
from palimpsest.benchmarks.judge import pie_bench
from palimpsest.benchmarks.judge.cases import read_picture
from palimpsest.benchmarks.judge.measures import covered, of_pixels
from palimpsest.inversion.quality import PSNR_EQUAL

from .ten_cases import CASES, SIDE, mse_by_hand, ssim_by_hand, write_edit, write_set


@pytest.mark.parametrize("number", range(10))
def test_a_flat_edit_measures_what_was_worked_out_by_hand(tmp_path, number):
    case, flat = pie_bench.read(write_set(tmp_path))[number], CASES[number]
    edit = read_picture(write_edit(number, tmp_path / "edit.png"))
    found = of_pixels(read_picture(case.picture), edit, case.mask(SIDE, SIDE))
    if not flat.kept:
        assert found == {}
        return
    mse, fraction = mse_by_hand(flat), flat.kept / SIDE**2
    decibels = lambda error: -10 * math.log10(error) if error else PSNR_EQUAL
    assert found["mse"] == pytest.approx(mse, rel=1e-4, abs=1e-9)
    assert found["psnr"] == pytest.approx(decibels(mse), abs=1e-3)
    assert found["psnr_own"] == pytest.approx(decibels(mse / fraction), abs=1e-3)
    # Flat windows have no variance, and float32 has its rounding in the place of it.
    assert found["ssim"] == pytest.approx(flat.ssim, abs=2e-4)
    assert ssim_by_hand(flat) == pytest.approx(flat.ssim, abs=1e-6)


def test_without_a_mask_the_whole_picture_counts():
    source, edit = torch.full((32, 32, 3), 0.5), torch.full((32, 32, 3), 0.6)
    found = of_pixels(source, edit, None)
    assert found["psnr"] == pytest.approx(20.0, abs=1e-4) and "psnr_own" not in found


def photographs() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Pictures and what might have become of them, (H, W, 3): noise, and two photographs."""
    from skimage import data, filters

    random = torch.Generator().manual_seed(0)
    noise = torch.rand(96, 128, 3, generator=random)
    found = {"noise": (noise, torch.rand(96, 128, 3, generator=random))}
    for name in ("astronaut", "cat"):
        picture = torch.from_numpy(getattr(data, name)()).float()[:300, :300] / 255
        blurred = torch.from_numpy(filters.gaussian(picture.numpy(), 2, channel_axis=-1)).float()
        found[name] = picture, (blurred + 0.05).clamp(0, 1)
    return found


@pytest.mark.parametrize("name", ["noise", "astronaut", "cat"])
@pytest.mark.parametrize("masked", [False, True])
def test_they_agree_with_torchmetrics(name, masked):
    """With the version of the time when the published numbers were made, which takes SSIM inside of the border."""
    from torchmetrics.functional import mean_squared_error
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    source, edit = photographs()[name]
    mask = None
    if masked:
        mask = torch.zeros(source.shape[:2])
        mask[20:70, 30:90] = 1
    found = of_pixels(source, edit, mask)
    keep = torch.ones(source.shape[:2]) if mask is None else 1 - mask
    one, two = (covered(x, keep).movedim(-1, 0)[None] for x in (edit, source))
    assert found["mse"] == pytest.approx(float(mean_squared_error(one.flatten(), two.flatten())), rel=1e-5)
    assert found["psnr"] == pytest.approx(float(peak_signal_noise_ratio(one, two, data_range=1.0)), abs=1e-4)
    theirs = structural_similarity_index_measure(one, two, data_range=1.0)
    assert found["ssim"] == pytest.approx(float(theirs), abs=1e-4)
