"""Frames of several runs of one morph are one, finer measurement of it."""

import math

import torch
from palimpsest.benchmarks.morphing.pace import plain_steps
from palimpsest.morphing.measured_frames import MeasuredFrames, measured_for, remembering, together
from palimpsest.morphing.reschedule import reschedule, variation
from palimpsest.morphing.schedule import Alphas, schedule


def frames_at(alphas):
    """A morph along one line, leaping at 0.31 and at 0.7."""
    places = [math.tanh(60 * (value - 0.31)) + 2 * math.tanh(90 * (value - 0.7)) for value in alphas.values]
    return torch.tensor(places).reshape(-1, 1, 1, 1).expand(-1, 4, 2, 2)


def settled(rounds, remember):
    alphas, measured = schedule(9), []
    for _ in range(rounds):
        measured = [*(measured if remember else ()), MeasuredFrames(alphas, frames_at(alphas))]
        seen = together(measured)
        alphas = reschedule(seen.alphas, plain_steps(seen.latents), frames=9)
    return variation(plain_steps(frames_at(alphas)))


def test_what_is_remembered_evens_a_leaping_morph_sooner():
    assert settled(4, remember=True) < 0.1 < settled(4, remember=False)


def test_frames_stand_in_the_order_of_their_alphas_and_the_latest_counts():
    first = MeasuredFrames(Alphas((0.0, 0.5, 1.0), 2), torch.zeros(3, 4, 2, 2))
    second = MeasuredFrames(Alphas((0.0, 0.25, 0.5, 1.0), 2), torch.ones(4, 4, 2, 2))
    both = together([second, first])
    assert both.alphas.values == (0.0, 0.25, 0.5, 1.0) and both.images is None
    assert both.latents[:, 0, 0, 0].tolist() == [0.0, 1.0, 0.0, 0.0]


def test_frames_of_another_morph_or_of_another_make_are_left_out():
    last = MeasuredFrames(Alphas((0.0, 1.0), 2), torch.zeros(2, 4, 2, 2))
    others = [
        MeasuredFrames(Alphas((0.0, 0.4, 2.0), 3), torch.ones(3, 4, 2, 2)),
        MeasuredFrames(Alphas((0.0, 0.4, 1.0), 2), torch.ones(3, 4, 4, 4)),
        MeasuredFrames(Alphas((0.0, 0.4), 2, True), torch.ones(2, 4, 2, 2)),
        MeasuredFrames(Alphas((0.0, 0.4, 1.0), 2), images=torch.ones(3, 8, 8, 3)),
    ]
    assert together([*others, last]).alphas.values == (0.0, 1.0)


def test_alphas_carry_what_they_were_found_by_and_a_part_does_too():
    frames = MeasuredFrames(schedule(3), torch.zeros(3, 4, 2, 2))
    alphas = remembering(schedule(5), [frames])
    assert measured_for(alphas) == measured_for(alphas.part(1, 2)) == (frames,)
    assert measured_for(schedule(5)) == () and alphas.values == schedule(5).values
