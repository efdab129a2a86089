"""What moves is as wide on its way as at its ends; at two places at once it is wider, and is passed over."""

import pytest
import torch
from palimpsest.morphing.frame_distance import plain_between, table
from palimpsest.morphing.frame_selection import choose
from palimpsest.morphing.reschedule import reschedule, variation
from palimpsest.morphing.schedule import Alphas, schedule
from palimpsest.morphing.torn_frames import shortened, torn

from .tearing import APART, FROM, RADIUS, SIDE, TO, disc, latents, tearing


def between(first, last, *inner):
    """(frames, alphas) of two key pictures and what lies between them."""
    return latents(first, *inner, last), schedule(len(inner) + 2)


def test_a_thing_half_way_is_not_torn_and_one_at_both_places_is():
    first, last = disc(FROM), disc(TO)
    both, half = torch.maximum(first, last), disc((24, 24))
    tears = torn(*between(first, last, half, both, first, disc((30, 20))))
    # A disc's places vary by R^2 / 2; at two places (d / 2)^2 comes on top.
    wide = RADIUS**2 / 2
    assert float(tears[2]) == pytest.approx(1 - wide / (wide + APART**2 / 4), abs=0.05)
    assert tears[[0, 1, 3, 4, 5]].abs().max() < 0.05


def test_what_has_half_gone_and_half_come_is_torn_too():
    first, last = disc(FROM), disc(TO)
    tears = torn(*between(first, last, (first + last) / 2, 0.8 * first + 0.6 * last))
    assert tears[1:3].min() > 0.8


def test_a_bar_over_the_whole_way_lies_between():
    first, last = disc(FROM), disc(TO)
    bar = torch.zeros_like(first)
    bar[24 - RADIUS : 25 + RADIUS, FROM[1] : TO[1] + 1] = 1
    tears = torn(*between(first, last, torch.maximum(first, last), bar))
    assert 0.3 < tears[2] < tears[1] - 0.05


@pytest.mark.parametrize("last", [disc(FROM, 8), disc((24, 12)), disc(FROM) * 0.3, 1 - disc(FROM)])
def test_what_changes_in_its_place_is_not_torn(last):
    """Its size, its outline, its colour, its ground."""
    first = disc(FROM)
    frames = [torch.lerp(first, last, weight) for weight in (0.25, 0.5, 0.75)]
    assert torn(*between(first, last, *frames)).max() < 0.1


def test_an_empty_frame_and_frames_that_are_all_alike_are_not_torn():
    first, last = disc(FROM), disc(TO)
    assert torn(*between(first, last, torch.zeros_like(first)))[1] == 0
    assert torn(*between(first, first, first)).abs().max() == 0


def test_clutter_that_stays_does_not_count():
    generator = torch.Generator().manual_seed(0)
    clutter = 0.5 * torch.randn(1, 4, SIDE, SIDE, generator=generator, dtype=torch.float64)
    first, last = disc(FROM), disc(TO)
    frames, alphas = between(first, last, torch.maximum(first, last), disc((24, 24)))
    tears = torn(frames + clutter, alphas)
    assert tears[1] > 0.7 and tears[2] < 0.2


def test_a_picture_twice_as_large_is_as_torn():
    found = []
    for scale in (1, 4):  # 48 and 192 cells: the second is looked at in fewer
        first, last = disc(FROM, scale=scale), disc(TO, scale=scale)
        found.append(torn(*between(first, last, torch.maximum(first, last)))[1])
    assert float(found[0]) == pytest.approx(float(found[1]), abs=0.02)


def test_every_gap_has_its_own_key_pictures_and_a_cycle_leads_back():
    first, last = disc(FROM), disc(TO)
    both = torch.maximum(first, last)
    frames = latents(first, first, first, both, last)
    tears = torn(frames, Alphas((0, 0.5, 1, 1.5, 2), 3))
    assert tears[3] > 0.8 and tears[[0, 1, 2, 4]].max() == 0
    tears = torn(latents(first, last, last, both), Alphas((0, 0.5, 1, 1.5), 2, True))
    assert tears[3] > 0.8 and tears[:3].max() < 0.05


def test_a_key_picture_that_is_no_frame_is_the_frame_nearest_to_it():
    first, last = disc(FROM), disc(TO)
    frames = latents(first, first, torch.maximum(first, last), last, last)
    assert torn(frames, Alphas((0, 0.9, 1.5, 1.9, 2), 3))[2] > 0.8


def test_the_choice_passes_over_torn_frames():
    frames, alphas = tearing()
    tears, distances = torn(frames, alphas), table(frames, plain_between)
    plain, careful = choose(alphas, distances, 9), choose(alphas, distances, 9, torn=tears)
    count = lambda rows: int((tears[rows] > 0.5).sum())
    even = list(range(0, 33, 4))
    assert count(plain) > count(even) >= count(careful)
    assert variation(distances[plain[:-1], plain[1:]]) < variation(distances[careful[:-1], careful[1:]])


def test_a_choice_without_torn_frames_is_the_evenest():
    frames, alphas = tearing()
    distances = table(frames, plain_between)
    assert choose(alphas, distances, 9) == choose(alphas, distances, 9, torn=torch.zeros(33))


def test_a_schedule_passes_more_quickly_over_a_tear():
    frames, alphas = tearing()
    tears, steps = torn(frames, alphas), table(frames, plain_between).diagonal(1)
    assert torch.equal(shortened(steps, torch.zeros(33)), steps.double())
    inside = lambda found: sum(0.4 <= value <= 0.6 for value in found.values)
    plain, careful = (reschedule(alphas, found, frames=13) for found in (steps, shortened(steps, tears)))
    assert inside(careful) < inside(plain)


def test_around_a_cycle_the_last_step_ends_at_the_first_frame():
    tears = torch.tensor([0.0, 0.0, 1.0])
    assert shortened(torch.ones(3), tears, 2.0).tolist() == [1.0, 0.5, 0.5]
    assert shortened(torch.ones(2), tears, 2.0).tolist() == [1.0, 0.5]
