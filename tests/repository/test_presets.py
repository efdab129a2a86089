"""Presets: what each choice sets is an input of its node, in its range, and on its page."""

import pytest
from palimpsest.nodes import _presets as presets
from palimpsest.nodes.diffedit import DiffEditMask
from palimpsest.nodes.flow import FlowFromTransform
from palimpsest.nodes.inversion_null_text import ProximalGuidance
from palimpsest.nodes.prompt_to_prompt import PromptToPrompt
from palimpsest.nodes.sketch import EdgePredictorGuidance
from palimpsest.tools.places import ROOT

NODES = {
    "PalimpsestDiffEditMask": (DiffEditMask, presets.DIFFEDIT_MASK),
    "PalimpsestEdgePredictorGuidance": (EdgePredictorGuidance, presets.SKETCH_GUIDANCE),
    "PalimpsestFlowFromTransform": (FlowFromTransform, presets.FLOW_TRANSFORM),
    "PalimpsestPromptToPrompt": (PromptToPrompt, presets.PROMPT_TO_PROMPT),
    "PalimpsestProximalGuidance": (ProximalGuidance, presets.PROXIMAL),
}
each_node = pytest.mark.parametrize("node_id", NODES)


def inputs(node) -> dict:
    return {one.id: one for one in node.define_schema().inputs}


@each_node
def test_a_preset_sets_inputs_within_their_range_and_all_of_a_node_the_same(node_id):
    node, table = NODES[node_id]
    known = inputs(node)
    assert len({frozenset(values) for values in table.values()}) == 1
    for values in table.values():
        for name, value in values.items():
            if hasattr(known[name], "min"):
                assert known[name].min <= value <= known[name].max, name
            else:
                assert value in getattr(known[name], "options", (True, False)), name


@each_node
def test_our_defaults_are_the_defaults(node_id):
    node, table = NODES[node_id]
    still = table.get(presets.OURS) or table["nothing moves"]
    assert still == {name: one.default for name, one in inputs(node).items() if name in still}


@each_node
def test_the_page_of_a_node_names_its_presets(node_id):
    text = (ROOT / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
    assert all(f"*{preset}*" in text for preset in NODES[node_id][1])


def test_a_preset_takes_the_place_of_what_is_given():
    @presets.with_presets({"far": {"b": 7, "c": 8}})
    def execute(cls, a, b, c=3):
        return a, b, c

    assert execute(None, 1, 2) == execute(None, a=1, b=2, preset="as set") == (1, 2, 3)
    assert execute(None, 1, 2, preset="far") == execute(None, a=1, b=2, c=0, preset="far") == (1, 7, 8)
    with pytest.raises(ValueError, match="no preset 'near': choose one of as set, far"):
        execute(None, 1, 2, preset="near")
