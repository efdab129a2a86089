"""The ladder accepts every falling schedule that reaches the clean picture, and names what is wrong with the rest."""

import pytest
import torch
from palimpsest.inversion.sigmas import rising_sigmas

from .analytic import SIGMA_MAX, SIGMA_MIN, falling, sd_sigmas

RANGE = {"sigma_min": SIGMA_MIN, "sigma_max": SIGMA_MAX}


def test_a_schedule_is_turned_and_nothing_else():
    sigmas = falling(20)
    levels = rising_sigmas(sigmas, **RANGE)
    assert torch.equal(levels, sigmas.flip(0))
    assert levels.dtype == torch.float32 and levels.is_contiguous()
    levels[0] = 5.0
    assert float(sigmas[-1]) == 0.0, "the levels must not alias the input"


def test_the_low_part_of_a_schedule_can_be_climbed():
    sigmas = falling(20)
    assert torch.equal(rising_sigmas(sigmas[12:], **RANGE), sigmas[12:].flip(0))


def test_a_schedule_may_end_at_the_lowest_trained_level():
    assert len(rising_sigmas(falling(20)[:-1], **RANGE)) == 20


def test_levels_quoted_with_few_digits_still_fit():
    assert len(rising_sigmas(torch.tensor([14.615, 3.0, 0.029, 0.0]), **RANGE)) == 4


def test_flow_levels_run_to_one():
    levels = rising_sigmas(torch.linspace(1, 0, 5), sigma_min=0.003, sigma_max=1.0, flow=True)
    assert float(levels[-1]) == 1.0


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        (torch.tensor([]), "0 noise level"),
        (torch.tensor([1.0]), "1 noise level"),
        (torch.zeros(2, 3), "one list"),
        ([3.0, 0.0], "one list"),
        (torch.tensor([3.0, float("nan"), 0.0]), "not a number"),
        (torch.tensor([3.0, 1.0, -1.0]), "below zero"),
        (falling(10).flip(0), "Flip Sigmas"),
        (torch.tensor([3.0, 1.0, 2.0, 0.0]), "up and down"),
        (torch.tensor([3.0, 1.0, 1.0, 0.0]), "repeat"),
        (torch.tensor([80.0, 1.0, 0.0]), "made for this model"),
        (torch.tensor([4518.0, 10.0, 0.0]), "zero terminal SNR"),
        (torch.tensor([float("inf"), 10.0, 0.0]), "zero terminal SNR"),
        (falling(20)[:10], "never reach"),
    ],
)
def test_a_schedule_that_does_not_fit_is_named(sigmas, message):
    with pytest.raises(ValueError, match=message):
        rising_sigmas(sigmas, **RANGE)


def test_zero_terminal_snr_is_refused_even_where_the_model_knows_it():
    with pytest.raises(ValueError, match="Split Sigmas"):
        rising_sigmas(torch.tensor([4518.0, 30.0, 0.0]), sigma_min=0.03, sigma_max=4518.0)


def test_sigmas_above_one_are_no_flow_levels():
    with pytest.raises(ValueError, match="up to 1 only"):
        rising_sigmas(sd_sigmas()[::100].flip(0).float(), sigma_min=0.1, sigma_max=1.0, flow=True)
