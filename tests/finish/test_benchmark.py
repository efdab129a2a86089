"""The benchmark's own tools: the truth is where it says, and the colour matches do what they are described as."""

import pytest
import torch
from palimpsest.benchmarks.finish import suite
from palimpsest.benchmarks.finish.baselines import MATCHES, difference_mask
from palimpsest.benchmarks.finish.cases import cases, scenes
from palimpsest.benchmarks.finish.truth import Move, blob, registration_error, seen
from palimpsest.guidance.finish.alignment import warp

from .pictures import textured


def test_what_was_moved_is_found_where_the_truth_says():
    source = textured((90, 120))
    move = Move(size=(96, 112), right=3.0, down=-2.0, wider=1.05, higher=0.98, turned=2.0).alignment((90, 120))
    back = warp(seen(source, move), move, "bicubic")
    inner = (slice(None), slice(20, 70), slice(20, 100))
    assert (back - source)[inner].abs().max() < 0.03
    assert registration_error(move, move) == 0


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.4])
def test_a_region_has_its_size_and_does_not_reach_the_border(fraction):
    region = blob((120, 160), fraction, 3)
    assert float(region.float().mean()) == pytest.approx(fraction, rel=0.02)
    assert not region[0].any() and not region[:, 0].any() and not region[-1].any() and not region[:, -1].any()


@pytest.mark.parametrize("name", MATCHES)
def test_a_match_undoes_a_cast_of_the_whole(name):
    source = textured((60, 80)) * 0.8 + 0.05
    cast = source * torch.tensor([1.1, 1.0, 0.9])[:, None, None]
    before, after = (cast - source).abs().mean(), (MATCHES[name](cast, source) - source).abs().mean()
    assert after < 0.4 * before


def test_a_threshold_marks_what_differs():
    source = torch.full((3, 20, 20), 0.5)
    edited = source.clone()
    edited[:, 5:9, 5:9] = 0.9
    assert int(difference_mask(source, edited).sum()) == 16


def test_the_rows_are_whole_and_unique():
    class Context:
        def row(self, technique, measure, mode, value, unit, target=""):
            return technique, measure, mode

    found = [(case, suite.run(case)) for case in cases(scenes("validation", 2), 2, 7)]
    rows = [row for group, some in suite.groups(found).items() for row in suite.group_rows(Context(), group, some)]
    assert len(set(rows)) == len(rows) and {row[0] for row in rows} == {suite.TECHNIQUE}
