"""Reschedule as a node: what it passes over, and what it does not."""

import torch
from palimpsest.benchmarks.morphing.pace import plain_steps
from palimpsest.host.morphing.perceptual import distance_table
from palimpsest.morphing.frame_selection import choose
from palimpsest.morphing.reschedule import reschedule
from palimpsest.morphing.schedule import schedule
from palimpsest.nodes.morphing_reschedule import Reschedule

from .tearing import tearing


def test_frames_that_show_a_thing_at_both_places_are_no_more_than_at_even_alphas():
    """A thing jumps to the right by being at both places between alpha 0.42 and 0.64; it moves down all the while."""
    frames, alphas = tearing()
    in_the_tear = lambda values: sum(0.42 < value < 0.64 for value in values)
    found, _, _, evenest = Reschedule.execute(alphas, frames=9, latent={"samples": frames}).args
    rows = [next(row for row, frame in enumerate(frames) if torch.equal(frame, one)) for one in evenest["samples"]]
    even = in_the_tear(schedule(9).values)
    assert len(rows) == 9 and in_the_tear(alphas.values[row] for row in rows) <= even
    assert in_the_tear(found.values) <= even


def test_torn_frames_count_as_any_other_where_that_is_asked_for():
    frames, alphas = tearing()
    found, _, _, evenest = Reschedule.execute(alphas, frames=9, latent={"samples": frames}, avoid_torn=False).args
    assert found.values == reschedule(alphas, plain_steps(frames).float(), frames=9).values
    rows = choose(alphas, distance_table("latents", latents=frames), 9)
    assert torch.equal(evenest["samples"], frames[rows])
