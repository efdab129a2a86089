"""What Inversion Check says and shows."""

import pytest
import torch
from palimpsest.inversion.gaussianity import IDEAL_LOG_LIKELIHOOD
from palimpsest.inversion.verdict import Check, lines
from palimpsest.nodes._panel import BACKGROUND, _wrapped, error_map, panel
from PIL import ImageFont


def check(**changes) -> Check:
    values = dict(
        psnr=33.0,
        ssim=0.95,
        bound=33.5,
        drift=38.0,
        mean=0.0,
        std=1.0,
        correlation=0.01,
        log_likelihood=IDEAL_LOG_LIKELIHOOD,
    )
    return Check(**{**values, **changes})


def report_text(made_at=1.0, sampled_at=1.0, **changes) -> str:
    return "\n".join(lines(check(**changes), made_at=made_at, sampled_at=sampled_at))


def test_numbers_stand_in_the_report():
    text = report_text()
    assert "PSNR 33.0 dB (the VAE alone 33.5 dB), SSIM 0.950" in text and "good to edit" in text
    assert "the VAE alone" not in report_text(bound=None)
    assert "PSNR equal" in report_text(psnr=100.0)


@pytest.mark.parametrize(
    ("drift", "made_at", "sampled_at", "said"),
    [
        (35.0, 1.0, 7.5, "good to edit"),
        (26.0, 1.0, 1.0, "comes back nearly: raise the refinement"),
        (15.0, 1.0, 1.0, "does not come back: raise the refinement"),
        (15.0, 1.0, 7.5, "inverted at CFG 1 and sampled at 7.5; NullText Optimize"),
    ],
)
def test_what_to_do_is_said(drift, made_at, sampled_at, said):
    assert said in report_text(made_at, sampled_at, drift=drift)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "is white"),
        ({"correlation": -0.1}, "nearly white"),
        ({"std": 0.7}, "still carries"),
        ({"mean": 0.3}, "still carries"),
    ],
)
def test_how_free_edits_are_is_said(changes, said):
    assert said in report_text(**changes)


def test_the_error_map_is_black_for_equal_and_light_for_far():
    a = torch.rand(1, 4, 5, 3, generator=torch.Generator().manual_seed(0)) * 0.5
    assert torch.equal(error_map(a, a), torch.zeros(1, 4, 5, 3))
    far = error_map(a, a + 0.5)
    assert float(far.min()) > 0.75
    lightness = [float(error_map(a, a + step).mean()) for step in (0.0, 0.05, 0.1, 0.2, 0.3)]
    assert lightness == sorted(lightness)


def test_the_panel_shows_its_tiles_unchanged():
    tiles = [(name, torch.rand(64, 64, 3)) for name in ("one", "two")]
    made = panel(tiles, ["some words"])
    assert made.shape[0] == 1 and made.shape[3] == 3 and made.shape[2] > 2 * 320
    pixels = (made[0] * 255).round().byte()
    assert tuple(pixels[-1, 0].tolist()) == BACKGROUND
    block = (tiles[0][1] * 255).round().byte().repeat_interleave(5, 0).repeat_interleave(5, 1)
    rows, columns = pixels.shape[0] - 320 + 1, 40
    found = any(
        torch.equal(pixels[y : y + 320, x : x + 320], block) for y in range(min(rows, 60)) for x in range(columns)
    )
    assert found


def test_long_lines_are_broken_between_words():
    font = ImageFont.load_default(16)
    parts = _wrapped("many words " * 20, font, 200)
    assert len(parts) > 3 and all(font.getlength(part) <= 200 for part in parts)
    assert " ".join(parts).split() == ("many words " * 20).split()
