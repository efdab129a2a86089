"""The benchmark's judge reads drawn pictures rightly, and its motions are what their names say."""

import pytest
import torch
from palimpsest.benchmarks.motion_cases import COUNTS, Case, attempt, cases
from palimpsest.benchmarks.motion_judge import NOTHING, Asked, reliable_judge
from palimpsest.guidance.flow_warp import land


@pytest.fixture(scope="module")
def judge():
    return next(cases({"move 32 px": 1}, reliable_judge))


def asked(case: Case, grow=10):
    flow, layers = case.flow()
    landing = land(flow, layers)
    return Asked(flow, landing, landing.edit_mask(grow)[0])


def test_there_are_at_least_a_hundred_motions_of_every_kind_that_was_asked_for():
    assert sum(COUNTS.values()) >= 100
    assert {f"move {length} px" for length in (8, 96)} | {"turn", "scale", "stretch", "two objects"} <= set(COUNTS)


def test_the_asked_flow_is_the_scenes_own(judge):
    flow, _ = judge.case.flow()
    true = judge.case.before.motion_to(judge.case.after).flow
    assert (flow[0] - true).abs().max() < 0.01
    assert flow.norm(dim=-1).max() == pytest.approx(32, abs=1)


def test_drawn_pictures_are_read_rightly(judge):
    given = asked(judge.case)
    right, wrong = judge.verdict(judge.truth, given), judge.verdict(judge.source, given)
    assert right.goal < 1 and right.ghost < 0.02 and right.old_place == 0 and right.colour < 0.05
    assert wrong.goal == pytest.approx(32, abs=2) and wrong.ghost > 0.9 and wrong.colour > 0.1
    assert wrong.background == pytest.approx(100, abs=1e-3) and right.background > 40


def test_a_thing_that_is_gone_is_at_no_goal_and_two_of_it_are_a_ghost(judge):
    assert judge.goal_error(judge.empty) == NOTHING
    both = torch.where(judge.old.any(0), judge.source, judge.truth)
    assert judge.ghost(both) > 0.9 and judge.goal_error(both) > 3


def test_the_same_seed_is_the_same_motion():
    found = [(attempt("turn", seed), attempt("turn", seed)) for seed in range(2_000_000, 2_000_010)]
    assert any(a is not None for a, _ in found) and all(a == b for a, b in found)
