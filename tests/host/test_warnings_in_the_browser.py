"""What a node warns of stays on it, and as a toast, until it runs again: in both renderers of both front ends.

Needs a browser; see tests/browser.py.
"""

import json
from pathlib import Path

import pytest

from ..browser import both_renderers, browse, needs_browser

pytestmark = needs_browser
SENTENCE = "Nothing is drawn, so nothing moves: choose a tool and mark a region."
DRAWING = json.dumps(
    {
        "version": 1,
        "width": 256,
        "height": 256,
        "regions": [
            {
                "area": {"ellipse": [128, 128, 40, 40]},
                "pivot": [128, 128],
                "move": [20, 0],
                "turn": 0,
                "scale": [1, 1],
                "still": False,
            }
        ],
    }
)


def node(number, kind, x, width, height, inputs=(), outputs=(), values=()):
    return {
        "id": number, "type": kind, "pos": [x, 60], "size": [width, height], "flags": {}, "mode": 0, "order": number,
        "inputs": [{"name": name, "type": kind_of, "link": link} for name, kind_of, link in inputs],
        "outputs": [{"name": name, "type": kind_of, "links": links} for name, kind_of, links in outputs],
        "properties": {}, "widgets_values": list(values),
    }  # fmt: skip


def workflow(graph: str) -> dict:
    """A Flow Canvas on which nothing is drawn. graph: the workflow's id, by which front ends distinguish workflows."""
    return {
        "id": graph, "version": 0.4, "last_node_id": 3, "last_link_id": 2, "groups": [], "config": {}, "extra": {},
        "nodes": [
            node(1, "LoadImage", 0, 300, 400, (), [("IMAGE", "IMAGE", [1]), ("MASK", "MASK", [])],
                 ["papercut_source.png", "image"]),
            node(2, "PalimpsestFlowCanvas", 350, 420, 560, [("image", "IMAGE", 1)],
                 [("flow", "FLOW", []), ("layers", "MASK", [2]), ("regions", "MASK", [])], [""]),
            node(3, "MaskPreview", 850, 300, 300, [("mask", "MASK", 2)], [("mask", "MASK", [])]),
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 1, 3, 0, "MASK"]],
    }  # fmt: skip


@pytest.fixture(scope="module")
def staged(front_end):
    """renderer -> the stages that warnings_browser.mjs went through."""
    found = {}

    def of(vue):
        if vue not in found:
            front_end.client.free()
            one, other = (workflow(f"00000000-0000-4000-8000-{number:012}") for number in (1, 2))
            found[vue] = browse(
                Path(__file__).with_name("warnings_browser.mjs"),
                front_end,
                vue,
                workflow=one,
                other=other,
                drawing=DRAWING,
                sentence=SENTENCE,
                name=front_end.front_end,
            )
        return found[vue]

    return of


@both_renderers
def test_a_warning_stays_after_its_run(staged, vue):
    stages = staged(vue)
    assert stages["ran"][0] == "execution_success"
    assert stages["before"]["node"] == [] and stages["before"]["toasts"] == []
    [shown] = stages["warned"]["node"]
    assert shown["text"] == SENTENCE and shown["width"] > 100 and shown["height"] > 10 and shown["cut"] <= 1
    assert any("Flow Canvas" in toast for toast in stages["warned"]["toasts"])


@both_renderers
def test_a_warning_goes_when_its_node_runs_without_it(staged, vue):
    stages = staged(vue)
    assert stages["again"][0] == "execution_success"
    assert stages["silent"]["node"] == [] and stages["silent"]["toasts"] == []
    assert stages["silent"]["size"] == pytest.approx(stages["before"]["size"], abs=1)


@both_renderers
def test_a_warning_stands_in_its_own_workflow_alone(staged, vue):
    stages = staged(vue)
    assert stages["elsewhere"]["node"] == []
    assert [one["text"] for one in stages["back"]["node"]] == [SENTENCE]


@both_renderers
def test_a_warning_is_in_neither_the_prompt_nor_the_saved_workflow(staged, vue):
    stages = staged(vue)
    for key in ("prompt", "saved"):
        assert stages["warned"][key] == stages["before"][key]
