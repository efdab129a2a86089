"""What the live line of the judge says of the time that is left."""

import pytest
from palimpsest.benchmarks.judge.editing import Progress, time_text
from palimpsest.benchmarks.judge.techniques import TECHNIQUES


def test_the_time_left_counts_each_technique_by_its_own_cases_and_others_by_the_usual():
    first, second, third = list(TECHNIQUES.values())[:3]
    progress = Progress([first, second, third], cases=10)
    assert progress.left(first.name, 0) is None
    progress.took(first.name, 2.0)
    progress.took(first.name, 4.0)
    assert progress.left(first.name, 2) == pytest.approx(8 * 3 + 10 * 3 + 10 * 3)
    progress.took(second.name, 9.0)
    assert progress.left(second.name, 1) == pytest.approx(9 * 9 + 10 * 6)


@pytest.mark.parametrize(
    "seconds, text",
    [(None, ""), (20, ", less than a minute left"), (600, ", 10 min left"), (7500, ", 2 h 05 min left")],
)
def test_the_time_left_in_words(seconds, text):
    assert time_text(seconds) == text
