"""What the demo sets in an example, on small graphs without a host."""

import copy

import pytest
from palimpsest.tools.examples import facts_of, for_demo
from palimpsest.tools.own_model import with_checkpoint
from palimpsest.tools.workflow import WorkflowError

INFO = {
    "Load": {"input": {"required": {"image": [["a.png"], {"image_upload": True}]}}},
    "Noise": {"input": {"required": {"seed": ["INT", {"default": 0}], "steps": ["INT", {"default": 20}]}}},
    "Cut": {"input": {"required": {"image": ["IMAGE", {}], "model": ["MODEL", {}], "x": ["INT", {"default": 5}]}}},
    "File": {"input": {"required": {"image": [["m.png"], {}], "model": ["MODEL", {}]}}},
}
LINKS = [[1, 1, 0, 3, 0, "IMAGE"], [2, 5, 0, 3, 1, "MODEL"], [3, 3, 0, 6, 0, "MASK"]]


def node(number, kind, values, inputs=(), outputs=()):
    slots = [{"name": name, "type": name.upper(), "link": link} for name, link in inputs]
    return {
        "id": number, "type": kind, "widgets_values": values, "inputs": slots, "mode": 0,
        "outputs": [{"name": "o", "type": "X", "links": list(links)} for links in outputs],
    }  # fmt: skip


def workflow(**demo):
    face = node(4, "blueprint", ["old", 0.5])
    face["inputs"] = [{"name": "text", "widget": {"name": "text"}}, {"name": "depth", "widget": {"name": "depth"}}]
    nodes = [
        node(1, "Load", ["x.png", "image"], outputs=[[1]]), node(2, "Noise", [7, "fixed", 50]),
        node(3, "Cut", [9], [("image", 1), ("model", 2)], [[3]]), face, node(5, "Model", [], outputs=[[2]]),
        node(6, "Show", [], [("mask", 3)]),
    ]  # fmt: skip
    return {"nodes": nodes, "links": copy.deepcopy(LINKS), "extra": {"palimpsest": {"demo": demo}}}


def changed(**demo):
    before = workflow(**demo)
    kept = copy.deepcopy(before)
    after = for_demo(before, INFO)
    assert before == kept, "the workflow itself was changed"
    return {one["id"]: one for one in after["nodes"]}, after


def test_widgets_are_set_by_name_past_what_is_not_sent():
    nodes, _ = changed(**{"1": {"image": "p.png"}, "2": {"steps": 3}, "4": {"depth": 0.8}})
    assert nodes[1]["widgets_values"] == ["p.png", "image"] and nodes[2]["widgets_values"] == [7, "fixed", 3]
    assert nodes[4]["widgets_values"] == ["old", 0.8]


def test_a_node_is_bypassed_and_the_rest_stays():
    nodes, _ = changed(**{"3": {"mode": 4}})
    assert nodes[3]["mode"] == 4 and nodes[1]["mode"] == 0 and nodes[3]["widgets_values"] == [9]


def test_another_node_takes_the_place_and_the_links_of_inputs_that_both_have():
    nodes, after = changed(**{"3": {"type": "File", "image": "mask.png"}})
    assert nodes[3]["type"] == "File" and nodes[3]["widgets_values"] == ["mask.png"]
    assert [slot["name"] for slot in nodes[3]["inputs"]] == ["model"]
    assert (
        after["links"] == [[2, 5, 0, 3, 0, "MODEL"], [3, 3, 0, 6, 0, "MASK"]] and nodes[1]["outputs"][0]["links"] == []
    )


def test_without_settings_nothing_changes():
    assert for_demo(workflow(), INFO) == workflow() and facts_of({}) == {}


@pytest.mark.parametrize("demo, words", [({"9": {}}, "node 9"), ({"2": {"cfg": 1}}, "no widget 'cfg'")])
def test_what_is_not_there_is_named(demo, words):
    with pytest.raises(WorkflowError, match=words):
        for_demo(workflow(**demo), INFO)


def test_a_model_of_ones_own_paints_at_its_size_in_blueprints_too():
    info = {
        "CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": [["a", "b"]]}}},
        "ImageScaleToTotalPixels": {"input": {"required": {"megapixels": ["FLOAT", {"default": 1.0}]}}},
    }
    face = node(3, "blueprint", ["old", 0.25])
    face["inputs"] = [{"name": name, "widget": {"name": name}} for name in ("text", "megapixels")]
    shipped = {"nodes": [
        node(1, "CheckpointLoaderSimple", ["a"]), node(2, "ImageScaleToTotalPixels", [0.25]), face,
        node(4, "MarkdownNote", ["megapixels"]),
    ]}  # fmt: skip
    values = lambda *size: [one["widgets_values"] for one in with_checkpoint(shipped, info, "b", *size)["nodes"]]
    assert values(1.0) == [["b"], [1.0], ["old", 1.0], ["megapixels"]]
    assert values() == [["b"], [0.25], ["old", 0.25], ["megapixels"]]
