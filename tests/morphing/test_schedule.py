"""Alphas: where frames lie between key pictures."""

import pytest
import torch
from palimpsest.morphing.schedule import PACES, Alphas, as_alphas, schedule


@pytest.mark.parametrize("keyframes", [1, 2, 4])
@pytest.mark.parametrize("pace", ["uniform", "ease at the ends", "ease at each picture"])
def test_runs_from_the_first_key_picture_to_the_last(keyframes, pace):
    alphas = schedule(13, keyframes, pace=pace)
    assert alphas.values[0] == 0.0 and alphas.values[-1] == keyframes - 1
    assert list(alphas.values) == sorted(alphas.values)


def test_uniform_is_even_and_a_cycle_never_repeats_its_first_frame():
    assert schedule(5, 3).values == (0.0, 0.5, 1.0, 1.5, 2.0)
    cycle = schedule(8, 4, cyclic=True)
    assert cycle.values == tuple(row / 2 for row in range(8))
    assert cycle.between(3.5) == (3, 0, 0.5)


@pytest.mark.parametrize("cyclic", [False, True])
def test_weights_are_fractions_of_the_two_key_pictures_around_a_frame(cyclic):
    alphas = schedule(11, 4, cyclic=cyclic)
    weights = alphas.weights()
    assert torch.equal(weights.sum(1), torch.ones(11, dtype=torch.float64))
    assert ((weights > 0).sum(1) <= 2).all()
    if not cyclic:
        # The alpha is the mean of the key pictures' numbers.
        assert torch.allclose(weights @ torch.arange(4.0, dtype=torch.float64), torch.tensor(alphas.values).double())


def test_easing_stands_still_where_it_says():
    steps = torch.tensor(schedule(201, 3, pace="ease at each picture").values).diff()
    assert steps[[0, 99, 100, 199]].max() < 1e-3 < steps.max()
    steps = torch.tensor(schedule(201, 3, pace="ease at the ends").values).diff()
    assert steps[[0, 199]].max() < 1e-3 < steps[100]


def test_a_curve_maps_time_to_progress_and_is_clamped():
    assert schedule(3, 3, pace="curve", curve=lambda time: 2 * time).values == (0.0, 2.0, 2.0)


@pytest.mark.parametrize("cyclic", [False, True])
@pytest.mark.parametrize("pace", ["uniform", "ease at each picture", "curve"])
def test_every_key_picture_is_a_frame_to_the_bit(pace, cyclic):
    """For all numbers of key pictures to 64, with 1 to 7 gaps between two of them."""
    curve = (lambda time: time) if pace == "curve" else None
    for keyframes in range(2, 65):
        for gaps in range(1, 8):
            frames = gaps * keyframes if cyclic else gaps * (keyframes - 1) + 1
            alphas = schedule(frames, keyframes, pace=pace, cyclic=cyclic, curve=curve)
            assert [alphas.values[key * gaps] for key in range(keyframes)] == list(range(keyframes))
            if pace == "uniform":
                assert all(value == row / gaps for row, value in enumerate(alphas.values))


def test_easing_at_the_ends_meets_the_key_pictures_that_it_meets():
    """At a third of the time smoothstep is 7/27, at a quarter 5/32."""
    assert schedule(4, 28, pace="ease at the ends").values[1] == 7.0
    assert schedule(5, 33, pace="ease at the ends").values == (0.0, 5.0, 16.0, 27.0, 32.0)


def test_parts_join_to_the_whole():
    whole = schedule(16, 4, pace="ease at the ends")
    parts = [whole.part(0, 5), whole.part(5, 5), whole.part(10, 0)]
    assert sum((part.values for part in parts), ()) == whole.values
    assert {part.keyframes for part in parts} == {4}


def test_a_part_knows_the_key_pictures_it_needs_and_has():
    part = schedule(9, 3).part(1, 3)
    assert part.values == (0.25, 0.5, 0.75)
    assert part.needed() == (0, 1)
    assert part.frame_of(0) is None
    assert schedule(9, 3).frame_of(1) == 4
    assert schedule(4, 4, cyclic=True).needed() == (0, 1, 2, 3)


def test_plain_numbers_of_other_nodes_are_alphas_too():
    assert as_alphas([0.0, 0.5, 1.0]) == Alphas((0.0, 0.5, 1.0), 2)
    assert as_alphas(torch.tensor([0.0, 2.5])).keyframes == 4
    assert as_alphas([0.0, 14.999999999999998, 29.0]).frame_of(15) == 1


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Alphas((0.0, 1.2), 2), "outside 0 to 1"),
        (lambda: Alphas((float("nan"),), 2), "outside"),
        (lambda: Alphas((-0.1,), 2), "outside"),
        (lambda: Alphas((), 2), "at least one frame"),
        (lambda: schedule(0), "`frames`"),
        (lambda: schedule(4, 0), "key picture"),
        (lambda: schedule(4, pace="curve"), "Curve Editor"),
        (lambda: schedule(4, pace="linear"), PACES[0]),
        (lambda: schedule(4).part(4, 1), "`start`"),
        (lambda: as_alphas([float("inf")]), "outside"),
    ],
)
def test_bad_alphas_are_refused_with_a_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()
