"""Even steps: the reschedule equalises any monotone curve."""

import math

import pytest
import torch
from palimpsest.morphing.reschedule import predicted, reschedule, variation
from palimpsest.morphing.schedule import Alphas, schedule

CURVES = {
    "even": lambda x: x,
    "fast at the start": lambda x: x**0.3,
    "slow at the start": lambda x: x**4,
    "a jump": lambda x: 1 / (1 + math.exp(-40 * (x - 0.6))),
    "two jumps": lambda x: math.tanh(25 * (x - 0.2)) + 3 * math.tanh(25 * (x - 0.8)),
    "a plateau": lambda x: min(x, 0.3) + max(x, 0.6),
}


def settle(alphas, measure, *, rounds, hold_keys=True):
    """`reschedule` again and again, each round measured anew at the alphas of the one before."""
    for _ in range(rounds):
        alphas = reschedule(alphas, measure(alphas), hold_keys=hold_keys)
    return alphas


def along(curve):
    """The distances of frames that lie on one line, at the places that the curve says; cyclic: around a ring."""

    def measure(alphas):
        span = max(alphas.top, 1)
        places = list(alphas.values) + ([alphas.top] if alphas.cyclic else [])
        return torch.tensor([curve(value / span) for value in places], dtype=torch.float64).diff().abs()

    return measure


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
@pytest.mark.parametrize("frames", [5, 16, 40])
def test_rounds_make_any_monotone_curve_even(curve, frames):
    measure = along(curve)
    after = settle(schedule(frames), measure, rounds=60)
    assert variation(measure(after)) < 1e-3
    assert after.values[0] == 0.0 and after.values[-1] == 1.0
    assert list(after.values) == sorted(after.values)


@pytest.mark.parametrize("name, rounds", [("even", 0), ("slow at the start", 1), ("a jump", 1), ("a plateau", 1)])
def test_a_round_or_two_are_enough_for_a_tame_curve(name, rounds):
    measure = along(CURVES[name])
    assert variation(measure(settle(schedule(16), measure, rounds=rounds))) < 0.15


def test_the_curve_between_the_knots_never_falls():
    knots = schedule(12)
    for seed in range(20):
        distances = torch.rand(11, generator=torch.Generator().manual_seed(seed)) ** 6
        fine = reschedule(knots, distances, frames=200)
        assert list(fine.values) == sorted(fine.values)


def test_a_fine_probe_makes_a_coarse_morph_even_in_one_round():
    measure = along(CURVES["a jump"])
    probe = schedule(400)
    after = reschedule(probe, measure(probe), frames=10)
    assert len(after) == 10
    assert variation(measure(after)) < 0.02


def test_an_even_morph_is_left_as_it_is():
    before = schedule(9, 3)
    after = reschedule(before, torch.ones(8))
    assert torch.allclose(torch.tensor(after.values), torch.tensor(before.values), atol=1e-6)


def test_frames_that_are_all_alike_are_spread_evenly():
    after = reschedule(Alphas((0.0, 0.7, 0.8, 1.0), 2), torch.zeros(3))
    assert torch.allclose(torch.tensor(after.values), torch.tensor([0.0, 1 / 3, 2 / 3, 1.0]), atol=1e-6)
    assert variation(torch.zeros(3)) == 0.0


def test_one_frame_stays():
    assert reschedule(schedule(1), torch.zeros(0)).values == (0.0,)


def test_key_pictures_keep_frames_of_their_own():
    measure = along(CURVES["slow at the start"])
    after = settle(schedule(20, 4), measure, rounds=20)
    assert {0.0, 1.0, 2.0, 3.0} <= set(after.values)
    gaps = [sum(key < value < key + 1 for value in after.values) for key in range(3)]
    assert gaps == sorted(gaps) and gaps[0] < gaps[2]
    free = settle(schedule(20, 4), measure, rounds=20, hold_keys=False)
    assert variation(measure(free)) < 1e-3 < variation(measure(after)) < 0.5


def test_gaps_get_the_frames_that_make_the_whole_most_even():
    """Against all distributions of twelve steps over three gaps."""
    for seed in range(20):
        lengths = 0.2 + torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        spread = lambda counts: variation(torch.cat([length.div(n).expand(n) for length, n in zip(lengths, counts)]))
        best = min(spread((a, b, 12 - a - b)) for a in range(1, 11) for b in range(1, 12 - a))
        after = reschedule(schedule(4, 4), lengths, frames=13)
        ours = [sum(key <= value < key + 1 for value in after.values[:-1]) for key in range(3)]
        assert spread(ours) < best + 1e-9


def test_too_few_frames_for_all_key_pictures_still_work():
    after = reschedule(schedule(3, 8), torch.tensor([1.0, 3.0]))
    assert len(after) == 3 and after.values[-1] == 7.0


def test_a_cycle_is_even_over_its_seam():
    ring = lambda x: x + 0.12 * math.sin(2 * math.pi * x)
    measure = along(ring)
    before = schedule(16, 4, cyclic=True)
    after = settle(before, measure, rounds=20, hold_keys=False)
    assert len(measure(after)) == 16
    assert variation(measure(after)) < 1e-6 < variation(measure(before))
    assert after.values[0] == 0.0 and after.values[-1] < 4.0


def test_the_prediction_is_even_where_the_reschedule_is_free():
    before = schedule(10)
    distances = torch.rand(9, generator=torch.Generator().manual_seed(0)) + 0.1
    after = reschedule(before, distances, frames=14)
    assert variation(predicted(before, distances, after)) < 0.05 < variation(distances)
    assert torch.allclose(predicted(before, distances, before), distances.double(), atol=1e-6)


@pytest.mark.parametrize(
    "alphas, distances, message",
    [
        (schedule(9).part(2, 3), torch.ones(2), "whole morph"),
        (Alphas((0.0, 0.6, 0.4, 1.0), 2), torch.ones(3), "without turning back"),
        (schedule(4), torch.ones(4), "3 distances"),
        (schedule(3), torch.tensor([1.0, float("nan")]), "not a number"),
    ],
)
def test_bad_measurements_are_refused(alphas, distances, message):
    with pytest.raises(ValueError, match=message):
        reschedule(alphas, distances)
