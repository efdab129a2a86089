"""Frames chosen out of those that are there: the evenest of all paths, through the key pictures, around a cycle."""

from itertools import combinations

import pytest
import torch
from palimpsest.benchmarks.morphing.pace import plain_steps
from palimpsest.morphing.frame_distance import plain_between, table
from palimpsest.morphing.frame_selection import choose
from palimpsest.morphing.reschedule import variation
from palimpsest.morphing.schedule import Alphas, schedule


def scattered(count, top=1, seed=0, cyclic=False):
    """Frames at alphas all over a morph, whole numbers among them, on a winding path in four dimensions."""
    generator = torch.Generator().manual_seed(seed)
    inner = (torch.rand(count, generator=generator, dtype=torch.float64) * top).tolist()
    ends = [float(key) for key in range(top if cyclic else top + 1)]
    alphas = Alphas(tuple(sorted([*inner, *ends])), top if cyclic else top + 1, cyclic)
    return alphas, torch.randn(len(alphas), 4, 1, 1, generator=generator).cumsum(0)


def evenness(frames, rows, cyclic=False):
    return variation(plain_steps(frames[list(rows)], cyclic))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("frames", [2, 4, 7])
def test_no_other_selection_is_evener(seed, frames):
    """Against all of them, to what lies between two of the means that are tried."""
    alphas, seen = scattered(8, seed=seed)
    rows = choose(alphas, table(seen, plain_between), frames)
    last = len(alphas) - 1
    best = min(evenness(seen, (0, *inner, last)) for inner in combinations(range(1, last), frames - 2))
    assert len(rows) == frames and rows[0] == 0 and rows[-1] == last and rows == sorted(rows)
    assert evenness(seen, rows) <= best + 0.02


@pytest.mark.parametrize("seed", range(5))
def test_key_pictures_that_were_seen_stay_unless_they_need_not(seed):
    alphas, seen = scattered(14, top=3, seed=seed)
    distances = table(seen, plain_between)
    with_keys = choose(alphas, distances, 8)
    assert {0.0, 1.0, 2.0, 3.0} <= {alphas.values[row] for row in with_keys}
    free = choose(alphas, distances, 8, hold_keys=False)
    assert evenness(seen, free) <= evenness(seen, with_keys) + 1e-9
    assert len(choose(alphas, distances, 3)) == 3


@pytest.mark.parametrize("seed", range(5))
def test_around_a_cycle_the_seam_counts(seed):
    alphas, seen = scattered(9, top=2, seed=seed, cyclic=True)
    rows = choose(alphas, table(seen, plain_between), 5, hold_keys=False)
    best = min(evenness(seen, (0, *inner), True) for inner in combinations(range(1, len(alphas)), 4))
    assert len(rows) == 5 and rows[0] == 0
    assert evenness(seen, rows, True) <= best + 0.02


def test_of_no_more_frames_than_wanted_all_are_taken():
    alphas, seen = schedule(5), torch.randn(5, 4, 2, 2)
    assert choose(alphas, table(seen, plain_between), 5) == choose(alphas, table(seen, plain_between), 9) == [*range(5)]
    assert choose(alphas, table(seen, plain_between), 1) == [0]


def test_frames_that_are_all_alike_are_no_trouble():
    assert len(choose(schedule(9), torch.zeros(9, 9), 4)) == 4


def test_the_table_holds_the_distances_of_any_two():
    seen = torch.randn(6, 4, 3, 3)
    distances = table(seen, plain_between)
    assert torch.equal(distances, distances.T) and torch.equal(distances.diagonal(), torch.zeros(6))
    assert torch.equal(distances.diagonal(1), plain_steps(seen))
    assert torch.allclose(distances[1, 4], (seen[1] - seen[4]).square().mean().sqrt())
