"""The benchmark's judge reads drawn pictures rightly, and its motions are what their names say."""

import json
from types import SimpleNamespace

import comfy.model_management
import pytest
import torch
from palimpsest.benchmarks.context import Context
from palimpsest.benchmarks.motion import cost as motion_cost, fixtures
from palimpsest.benchmarks.motion.cases import COUNTS, Case, attempt, cases
from palimpsest.benchmarks.motion.judge import NOTHING, Asked, reliable_judge
from palimpsest.guidance.flow.warp import land
from palimpsest.host.motion import optical_flow
from palimpsest.papercut.shapes import COLOURS, SHAPES
from palimpsest.tools.examples import example


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
    assert right.sliver < 0.02 and wrong.sliver > 0.9


@pytest.mark.parametrize("kind", ["move 8 px", "turn"])
def test_short_motions_are_judged_up_to_the_new_outline(kind):
    judge = next(cases({kind: 1}, reliable_judge))
    given = asked(judge.case)
    right, wrong = judge.verdict(judge.truth, given), judge.verdict(judge.source, given)
    assert right.sliver < 0.02 and wrong.sliver > 0.9
    assert judge.ghost(judge.truth) is None or int(judge.bare_all.sum()) > int(judge.bare.sum())


def test_a_thing_that_is_gone_is_at_no_goal_and_two_of_it_are_a_ghost(judge):
    assert judge.goal_error(judge.empty) == NOTHING
    both = torch.where(judge.old.any(0), judge.source, judge.truth)
    assert judge.ghost(both) > 0.9 and judge.goal_error(both) > 3


def test_the_same_seed_is_the_same_motion():
    found = [(attempt("turn", seed), attempt("turn", seed)) for seed in range(2_000_000, 2_000_010)]
    assert any(a is not None for a, _ in found) and all(a == b for a, b in found)


def test_the_instant_baseline_is_the_workflow_that_ships():
    workflow = json.loads(example("Instant move").read_text(encoding="utf-8"))
    values = {node["type"]: node["widgets_values"] for node in workflow["nodes"] if node.get("widgets_values")}
    (sampler,) = (str(node["id"]) for node in workflow["nodes"] if node["type"] == "KSampler")
    demo = workflow["extra"]["palimpsest"]["demo"][sampler]
    assert values["PalimpsestFlowWarp"][0] == fixtures.GROW
    *_, sampler, scheduler, denoise = values["KSampler"]
    assert (demo["steps"], demo["cfg"], denoise) == (fixtures.INSTANT_STEPS, fixtures.CFG, fixtures.FILL)
    assert (sampler, scheduler) == ("euler", "normal")


def test_the_instant_workflow_names_only_what_stays_and_pastes_the_moved_pixels():
    """With the moved thing in its prompt the model paints that thing a second time, into the empty place."""
    workflow = json.loads(example("Instant move").read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: (nodes[link[1]]["type"], link[2]) for link in workflow["links"]}
    given = lambda kind: {
        one["name"]: links[one["link"]]
        for node in nodes.values()
        for one in node["inputs"]
        if node["type"] == kind and one["link"] is not None
    }
    pasted, warp = given("ImageCompositeMasked"), "PalimpsestFlowWarp"
    outputs = [one["name"] for node in nodes.values() if node["type"] == warp for one in node["outputs"]]
    assert pasted["destination"] == (warp, outputs.index("image")) and pasted["source"][0] == "VAEDecode"
    assert pasted["mask"] == (warp, outputs.index("fill_mask")) == given("SetLatentNoiseMask")["mask"]
    assert given("SaveImage")["images"][0] == "ImageCompositeMasked"
    texts = [node["widgets_values"][0] for node in nodes.values() if node["type"] == "CLIPTextEncode"]
    texts += [one["text"] for one in workflow["extra"]["palimpsest"]["demo"].values() if "text" in one]
    words = {word for text in texts for word in text.split()}
    assert "ground" in words and not words & {*SHAPES, *(set(COLOURS) - {"green", "blue"})}


def test_the_flow_error_loads_the_network_again_and_goes_where_it_is(judge, monkeypatch):
    given, loaded, places = asked(judge.case), [], []
    network = SimpleNamespace(model=object(), load_device=torch.device("meta"))

    def estimate(model, first, second, **_):
        places.append((first.device.type, second.device.type))
        return given.flow + torch.tensor([3.0, 4.0])

    monkeypatch.setattr(optical_flow, "require_optical_flow", lambda one: one.model)
    monkeypatch.setattr(optical_flow, "estimate_flow", estimate)
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda models, **_: loaded.extend(models))
    fixtures, item = SimpleNamespace(optical_flow=network), SimpleNamespace(judge=judge, asked=given)
    assert motion_cost.flow_error(fixtures, item, judge.truth) == pytest.approx(5.0)
    assert loaded == [network] and places == [("meta", "meta")]


def test_what_is_saved_is_judged_with_the_flow_network_on_both_sides():
    """Arithmetic 100 beside 4 and 10, flow errors 2 beside 1 and 3, of 80 evaluations."""
    costs = {"faithful": (100.0, 2.0), "fast": (4.0, 1.0), "fast, flow network": (10.0, 3.0)}
    record = SimpleNamespace(model_calls=80)
    cost = {mode: motion_cost.Cost(record, value, value, None, flow) for mode, (value, flow) in costs.items()}
    rows = {
        (row.measure, row.mode): row
        for row in motion_cost.beside_faithful(Context(), "a", lambda mode, get: get(cost[mode]))
    }
    saved, error = "arithmetic saved beside 80 faithful evaluations", "flow error beside 80 faithful evaluations"
    assert rows[saved, "fast"].value == 25 and rows[saved, "fast"].target == ""
    assert rows[saved, "fast, flow network"].value == 10 and rows[saved, "fast, flow network"].met is False
    assert rows[error, "fast, flow network"].value == 1.5 and rows[error, "fast, flow network"].met is False
    assert rows["arithmetic saved beside the paper's 5000 evaluations", "fast"].value == 100 / 80 * 5000 / 4
