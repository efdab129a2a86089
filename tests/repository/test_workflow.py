"""Canvas workflow -> prompt: on the host's own blueprints, and rule by rule on small graphs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from palimpsest.tools.workflow import WorkflowError, node_types, read, to_prompt

BLUEPRINTS = Path(__file__).resolve().parents[2] / ".host" / "ComfyUI" / "blueprints"
SAMPLER = {
    "required": {
        "model": ["MODEL", {}],
        "seed": ["INT", {"default": 0}],
        "steps": ["INT", {"default": 20}],
        "name": [["euler", "ddim"], {}],
        "cfg": ["FLOAT", {"default": 8.0}],
    }
}
INFO = {
    "Load": {"input": {"required": {"file": [["a", "b"], {}]}}, "display_name": "Load It"},
    "Sample": {"input": SAMPLER},
    "Picture": {"input": {"required": {"image": [["x.png"], {"image_upload": True}]}, "optional": {"n": ["INT", {}]}}},
    "Show": {"input": {"required": {"any": ["*", {}]}}},
    "Number": {"input": {"required": {"value": ["FLOAT", {"default": 1.0}]}}},
    "Canvas": {"input": {"required": {"draw": ["MY_CANVAS", {"default": []}], "flow": ["FLOW", {}]}}},
    "Fixed": {"input": {"required": {"seed": ["INT", {"control_after_generate": False}], "b": ["BOOLEAN", {}]}}},
    "Forced": {"input": {"required": {"a": ["INT", {"forceInput": True}], "b": ["INT", {"default": 3}]}}},
    "Recipe": {"input": {"required": {
        "mode": ["COMFY_DYNAMICCOMBO_V3", {"options": [
            {"key": "fast", "inputs": {"required": {"seed": ["INT", {"default": 1}]}}},
            {"key": "slow", "inputs": {"required": {"inner": ["INT", {"default": 10}]},
                                       "optional": {"rate": ["FLOAT", {"default": 0.5}]}}}]}],
        "last": ["STRING", {"default": ""}]}}},
}  # fmt: skip


def node(identifier, kind, values=(), inputs=(), outputs=(), **more):
    """A canvas node; inputs: (name, type, link), outputs: types."""
    slots = [{"name": name, "type": kind_, "link": link} for name, kind_, link in inputs]
    made = [{"name": kind_, "type": kind_, "links": []} for kind_ in outputs]
    return {"id": identifier, "type": kind, "widgets_values": list(values), "inputs": slots, "outputs": made, **more}


def convert(nodes, links=(), **more):
    return to_prompt({"nodes": list(nodes), "links": [list(link) for link in links], **more}, INFO)


def inputs_of(prompt, identifier):
    return prompt[str(identifier)]["inputs"]


# The host's own files

# This one has a height where a checkpoint's name belongs; the front end sends it so, too.
WRONG_IN_THE_FILE = {("Depth to Video (ltx 2.0).json", "143:96")}


def fits(value, entry) -> bool:
    """Whether a widget's value is of the type that the node declares."""
    kind, options = entry[0], entry[1] if len(entry) > 1 else {}
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "INT":
        return numeric and value == int(value)
    if kind == "FLOAT":
        return numeric
    if kind in ("BOOLEAN", "STRING"):
        return value in (True, False) if kind == "BOOLEAN" else isinstance(value, str)
    choices = kind if isinstance(kind, list) else options.get("options") if kind == "COMBO" else None
    files = not choices or any("upload" in key for key in options) or "." in str(value)
    return bool(files) or value in choices


def test_the_values_of_every_blueprint_fall_on_the_widgets_that_declare_them(host_client):
    info = host_client.object_info()
    checked = 0
    for path in sorted(BLUEPRINTS.glob("*.json")):
        workflow = read(path)
        if not node_types(workflow) <= set(info):
            continue
        for identifier, entry in to_prompt(workflow, info).items():
            if (path.name, identifier) in WRONG_IN_THE_FILE:
                continue
            spec = info[entry["class_type"]]["input"]
            for name, kind in {**spec.get("required", {}), **spec.get("optional", {})}.items():
                value = entry["inputs"].get(name)
                if value is not None and not isinstance(value, (list, dict)):
                    assert fits(value, kind), f"{path.name}, node {identifier}, {name}: {value!r}"
                    checked += 1
    assert checked > 500


# Widgets


def test_the_control_behind_a_seed_is_not_sent():
    prompt = convert([node(1, "Sample", [42, "randomize", 30, "ddim", 7.5])])
    assert inputs_of(prompt, 1) == {"seed": 42, "steps": 30, "name": "ddim", "cfg": 7.5}


def test_a_seed_without_control_has_no_extra_value():
    assert inputs_of(convert([node(1, "Fixed", [42, True])]), 1) == {"seed": 42, "b": True}


def test_the_upload_button_is_not_sent():
    assert inputs_of(convert([node(1, "Picture", ["y.png", "image", 4])]), 1) == {"image": "y.png", "n": 4}


def test_values_that_are_not_saved_become_the_defaults():
    assert inputs_of(convert([node(1, "Sample", [5])]), 1) == {"seed": 5, "steps": 20, "name": "euler", "cfg": 8.0}


def test_an_input_that_is_forced_to_be_a_socket_takes_no_value():
    assert inputs_of(convert([node(1, "Forced", [9])]), 1) == {"b": 9}


def test_a_list_is_wrapped_so_that_it_is_not_taken_for_a_link():
    prompt = convert([node(1, "Canvas", [["1", 0]])])
    assert inputs_of(prompt, 1) == {"draw": {"__value__": ["1", 0]}}


def test_values_saved_by_name_are_read_by_name():
    one = {**node(1, "Sample"), "widgets_values": {"cfg": 2.0, "seed": 3, "steps": 4, "name": "ddim"}}
    assert inputs_of(convert([one]), 1) == {"seed": 3, "steps": 4, "name": "ddim", "cfg": 2.0}


@pytest.mark.parametrize(
    "values, sent",
    [
        (["fast", 7, "z"], {"mode": "fast", "mode.seed": 7, "last": "z"}),
        (["slow", 3, 0.1, "z"], {"mode": "slow", "mode.inner": 3, "mode.rate": 0.1, "last": "z"}),
        ([], {"mode": "fast", "mode.seed": 1, "last": ""}),
    ],
)
def test_a_dynamic_combo_brings_the_widgets_of_its_branch(values, sent):
    assert inputs_of(convert([node(1, "Recipe", values)]), 1) == sent


def test_the_title_is_the_persons_or_the_nodes_own():
    prompt = convert([node(1, "Load", title="Mine"), node(2, "Load"), node(3, "Number")])
    assert [prompt[key]["_meta"]["title"] for key in "123"] == ["Mine", "Load It", "Number"]


# Links


def test_a_link_wins_over_the_widget_and_keeps_its_slot():
    nodes = [
        node(1, "Number", [2.5], outputs=["A", "FLOAT"]),
        node(2, "Sample", [1, "fixed", 2, "euler", 9.0], [("cfg", "FLOAT", 7)]),
    ]
    assert inputs_of(convert(nodes, [(7, 1, 1, 2, 0, "FLOAT")]), 2)["cfg"] == ["1", 1]


def test_reroutes_and_notes_vanish():
    nodes = [
        node(1, "Load", ["a"], outputs=["MODEL"]), node(2, "Reroute", inputs=[("", "*", 1)], outputs=["MODEL"]),
        node(3, "Reroute", inputs=[("", "*", 2)], outputs=["MODEL"]), node(4, "Show", inputs=[("any", "*", 3)]),
        node(5, "Note", ["read me"]), node(6, "MarkdownNote", ["read me"]),
    ]  # fmt: skip
    prompt = convert(nodes, [(1, 1, 0, 2, 0, "MODEL"), (2, 2, 0, 3, 0, "MODEL"), (3, 3, 0, 4, 0, "MODEL")])
    assert set(prompt) == {"1", "4"} and inputs_of(prompt, 4) == {"any": ["1", 0]}


def test_a_primitive_gives_its_value():
    primitive = node(1, "PrimitiveNode", [12.0, "fixed"], outputs=["FLOAT"])
    nodes = [primitive, node(2, "Number", [1.0], [("value", "FLOAT", 1)])]
    assert convert(nodes, [(1, 1, 0, 2, 0, "FLOAT")]) == {
        "2": {"class_type": "Number", "inputs": {"value": 12.0}, "_meta": {"title": "Number"}}
    }


def test_a_bypassed_node_passes_on_the_input_of_its_outputs_type():
    nodes = [
        node(1, "Load", ["a"], outputs=["CLIP"]), node(2, "Load", ["b"], outputs=["MODEL"]),
        node(3, "Patch", inputs=[("clip", "CLIP", 1), ("model", "MODEL", 2)], outputs=["MODEL"], mode=4),
        node(4, "Sample", inputs=[("model", "MODEL", 3)]),
    ]  # fmt: skip
    prompt = convert(nodes, [(1, 1, 0, 3, 0, "CLIP"), (2, 2, 0, 3, 1, "MODEL"), (3, 3, 0, 4, 0, "MODEL")])
    assert set(prompt) == {"1", "2", "4"} and inputs_of(prompt, 4)["model"] == ["2", 0]


def test_a_bypassed_node_without_a_fitting_input_gives_nothing():
    nodes = [node(1, "Load", ["a"], outputs=["MODEL"], mode=4), node(2, "Sample", inputs=[("model", "MODEL", 1)])]
    assert "model" not in inputs_of(convert(nodes, [(1, 1, 0, 2, 0, "MODEL")]), 2)


def test_a_muted_node_is_gone_with_its_links():
    nodes = [node(1, "Load", ["a"], outputs=["MODEL"], mode=2), node(2, "Sample", inputs=[("model", "MODEL", 1)])]
    prompt = convert(nodes, [(1, 1, 0, 2, 0, "MODEL")])
    assert set(prompt) == {"2"} and "model" not in inputs_of(prompt, 2)


# Subgraphs

INNER = {
    "id": "inner-graph", "name": "Inner",
    "inputs": [{"name": "model", "type": "MODEL", "linkIds": [1]},
               {"name": "strength", "type": "FLOAT", "linkIds": [2]}],
    "outputs": [{"name": "out", "type": "MODEL", "linkIds": [3]}],
    "nodes": [node(5, "Sample", [1, "fixed", 2, "euler", 9.0], [("model", "MODEL", 1), ("cfg", "FLOAT", 2)],
                   ["MODEL"])],
    "links": [
        {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 5, "target_slot": 0, "type": "MODEL"},
        {"id": 2, "origin_id": -10, "origin_slot": 1, "target_id": 5, "target_slot": 1, "type": "FLOAT"},
        {"id": 3, "origin_id": 5, "origin_slot": 0, "target_id": -20, "target_slot": 0, "type": "MODEL"},
    ],
}  # fmt: skip
OUTER = {
    "id": "outer-graph", "name": "Outer",
    "inputs": [{"name": "m", "type": "MODEL", "linkIds": [1]}, {"name": "dial", "type": "FLOAT", "linkIds": [2]}],
    "outputs": [{"name": "out", "type": "MODEL", "linkIds": [3]}],
    "nodes": [node(7, "inner-graph", inputs=[("model", "MODEL", 1), ("strength", "FLOAT", 2)], outputs=["MODEL"])],
    "links": [
        {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 7, "target_slot": 0, "type": "MODEL"},
        {"id": 2, "origin_id": -10, "origin_slot": 1, "target_id": 7, "target_slot": 1, "type": "FLOAT"},
        {"id": 3, "origin_id": 7, "origin_slot": 0, "target_id": -20, "target_slot": 0, "type": "MODEL"},
    ],
}  # fmt: skip
LINKS = [(1, 1, 0, 2, 0, "MODEL"), (2, 2, 0, 3, 0, "MODEL")]


def with_subgraph(kind, values, faces=("model", "strength"), **more):
    face = node(2, kind, values, [(faces[0], "MODEL", 1), (faces[1], "FLOAT", None)], ["MODEL"], **more)
    nodes = [node(1, "Load", ["a"], outputs=["MODEL"]), face, node(3, "Show", inputs=[("any", "*", 2)])]
    return convert(nodes, LINKS, definitions={"subgraphs": [INNER, OUTER]})


def test_a_subgraph_is_expanded_with_the_value_on_its_face():
    prompt = with_subgraph("inner-graph", [4.5])
    assert set(prompt) == {"1", "2:5", "3"}
    assert inputs_of(prompt, "2:5") == {"model": ["1", 0], "seed": 1, "steps": 2, "name": "euler", "cfg": 4.5}
    assert inputs_of(prompt, 3) == {"any": ["2:5", 0]}


def test_a_subgraph_inside_a_subgraph_keeps_both_names():
    prompt = with_subgraph("outer-graph", [4.5], ("m", "dial"))
    assert set(prompt) == {"1", "2:7:5", "3"}
    assert inputs_of(prompt, "2:7:5")["cfg"] == 4.5 and inputs_of(prompt, "2:7:5")["model"] == ["1", 0]


def test_without_a_value_on_its_face_a_subgraph_keeps_the_inner_one():
    assert inputs_of(with_subgraph("inner-graph", []), "2:5")["cfg"] == 9.0


def test_values_that_older_canvases_keep_by_inner_node_are_taken():
    pairs = [["-1", "strength"], ["5", "seed"], ["5", "control_after_generate"]]
    prompt = with_subgraph("inner-graph", [3.5, 77, "fixed"], properties={"proxyWidgets": pairs})
    assert (inputs_of(prompt, "2:5")["cfg"], inputs_of(prompt, "2:5")["seed"]) == (3.5, 77)


def test_a_muted_subgraph_is_gone_and_a_bypassed_one_passes_on():
    assert set(with_subgraph("inner-graph", [4.5], mode=2)) == {"1", "3"}
    prompt = with_subgraph("inner-graph", [4.5], mode=4)
    assert set(prompt) == {"1", "3"} and inputs_of(prompt, 3) == {"any": ["1", 0]}


def test_the_types_inside_subgraphs_are_counted():
    nodes = [node(1, "outer-graph"), node(2, "Note"), node(3, "Load")]
    assert node_types({"nodes": nodes, "definitions": {"subgraphs": [INNER, OUTER]}}) == {"Load", "Sample"}


# Bad input


def test_an_unknown_node_is_named():
    with pytest.raises(WorkflowError, match="Node 1 is a 'Nobody'"):
        convert([node(1, "Nobody")])


def test_a_link_that_does_not_exist_is_named():
    with pytest.raises(WorkflowError, match="Input 'any' of node 2 has a link that does not exist"):
        convert([node(2, "Show", inputs=[("any", "*", 9)])])


def test_a_circle_of_reroutes_is_named():
    nodes = [
        node(1, "Reroute", inputs=[("", "*", 1)], outputs=["*"]),
        node(2, "Reroute", inputs=[("", "*", 2)], outputs=["*"]),
        node(3, "Show", inputs=[("any", "*", 3)]),
    ]  # fmt: skip
    with pytest.raises(WorkflowError, match="circle"):
        convert(nodes, [(1, 2, 0, 1, 0, "*"), (2, 1, 0, 2, 0, "*"), (3, 1, 0, 3, 0, "*")])


def test_a_subgraph_that_contains_itself_is_named():
    itself = {**INNER, "nodes": [node(5, "inner-graph")]}
    with pytest.raises(WorkflowError, match="contains itself"):
        convert([node(2, "inner-graph")], definitions={"subgraphs": [itself]})


@pytest.mark.parametrize("text", ["{", "[]", '{"1": {"class_type": "A", "inputs": {}}}'])
def test_a_file_that_is_no_canvas_workflow_is_refused(tmp_path, text):
    (tmp_path / "w.json").write_text(text)
    with pytest.raises(WorkflowError, match=r"w.json"):
        read(tmp_path / "w.json")
    with pytest.raises(WorkflowError, match=r"none.json"):
        read(tmp_path / "none.json")


def test_a_conversion_leaves_the_workflow_as_it_was():
    nodes = [node(1, "Sample", [42, "randomize", 30, "ddim", 7.5])]
    before = json.dumps(nodes)
    convert(nodes)
    assert json.dumps(nodes) == before
