"""Workflows that were saved with 0.1.0 open as they were: every value under its name, every link at its slot.

A saved workflow keeps the values of widgets by their order and links by the number of the slot. saved/ holds the 27
templates of 0.1.0, saved_by_name.json what they said then: id -> class, inputs by name (a link as node and name of the
output), and the control behind the seed. Neither changes any more.
"""

import json
from pathlib import Path

import pytest
from palimpsest.tools.widgets import default_of
from palimpsest.tools.workflow import read, to_prompt

from ..browser import both_renderers, browse, needs_browser

HERE = Path(__file__).parent
SAVED = {path.stem: path for path in sorted((HERE / "saved").glob("*.json"))}
BY_NAME = json.loads((HERE / "saved_by_name.json").read_text(encoding="utf-8"))
# What nodes have gained since has the value that leaves everything as it was; an input without one stays out.
MISSING = object()
SEEDED = [
    "PalimpsestDiffEditMask", "PalimpsestEdgePredictorTrain", "PalimpsestEdgePredictorPreview", "PalimpsestLoRAFit",
    "PalimpsestWordAttentionMask",
]  # fmt: skip


def plain(value):
    """A drawing is JSON, which a front end may write again with 131 for 131.0."""
    return json.loads(value) if isinstance(value, str) and value.startswith("{") else value


def compare(name: str, opened: dict[str, dict], info: dict[str, dict]) -> None:
    """opened: id -> class and inputs by name, as a workflow opens now; info: the host's `/object_info`."""
    assert opened.keys() == BY_NAME[name].keys(), name
    for key, then in BY_NAME[name].items():
        now, place = opened[key], f"{name}, node {key}"
        assert now["class_type"] == then["class_type"], place
        for one, value in then["inputs"].items():
            assert plain(now["inputs"].get(one, MISSING)) == plain(value), f"{place}: '{one}'"
        spec = info[now["class_type"]]["input"]
        for one in now["inputs"].keys() - then["inputs"].keys():
            assert one in spec.get("optional", {}), f"{place}: the new input '{one}' is not optional"
            assert now["inputs"][one] == default_of(spec["optional"][one]), f"{place}: '{one}'"


def test_every_template_of_0_1_0_is_here():
    assert len(SAVED) == 27 and BY_NAME.keys() == SAVED.keys()


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_workflow_is_read_as_it_was(host, name):
    info = host.client.object_info()
    prompt = to_prompt(read(SAVED[name]), info)

    def named(value):
        if not isinstance(value, list):
            return value
        return {"node": value[0], "output": info[prompt[value[0]]["class_type"]]["output_name"][value[1]]}

    opened = {
        key: {"class_type": entry["class_type"], "inputs": {one: named(v) for one, v in entry["inputs"].items()}}
        for key, entry in prompt.items()
    }
    compare(name, opened, info)


@needs_browser
@both_renderers
def test_a_saved_workflow_opens_as_it_was_in_the_front_end(front_end, vue):
    paths = {name: str(path) for name, path in SAVED.items()}
    found = browse(HERE / "saved_browser.mjs", front_end, vue, workflows=paths, seeded=SEEDED)
    assert found["opened"].keys() == SAVED.keys()
    for name, opened in found["opened"].items():
        compare(name, opened, front_end.client.object_info())
        controls = {key: node["control_after_generate"] for key, node in BY_NAME[name].items() if len(node) > 2}
        assert {key: opened[key].get("control_after_generate") for key in controls} == controls, name
        assert all(inputs == ["image"] for inputs in found["sockets"][name]), name
    assert found["fresh"] == {kind: None if kind == "PalimpsestDiffEditMask" else "fixed" for kind in SEEDED}
