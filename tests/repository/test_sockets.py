"""What `/object_info` says to the front end about each socket: seeds, outputs, and what has no socket."""

import pytest


@pytest.fixture(scope="module")
def nodes(host) -> dict[str, dict]:
    """The pack's part of the running host's `/object_info`, by node id."""
    return {name: node for name, node in host.client.object_info().items() if name.startswith("Palimpsest")}


def inputs(node: dict) -> dict[str, dict]:
    """name -> options of all inputs of a node's entry."""
    both = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
    return {name: entry[1] if len(entry) > 1 else {} for name, entry in both.items()}


def test_a_seed_stays_as_it_is_from_run_to_run(nodes):
    """Where nothing is said front ends draw a new seed at each run, and what was computed is computed again.

    DiffEdit Mask has never had the control; Best Seed looks for new seeds on purpose.
    """
    seeds = {
        (name, one): options.get("control_after_generate")
        for name, node in nodes.items()
        for one, options in inputs(node).items()
        if "seed" in one
    }
    assert seeds.pop(("PalimpsestBestSeed", "seed")) is True
    assert seeds.pop(("PalimpsestDiffEditMask", "seed")) is False
    assert len(seeds) >= 4 and set(seeds.values()) == {"fixed"}, seeds


def test_every_output_has_a_tooltip(nodes):
    bare = [
        (name, output)
        for name, node in nodes.items()
        for output, tip in zip(
            node["output_name"], node["output_tooltips"] or [None] * len(node["output_name"]), strict=True
        )
        if not (tip or "").strip()
    ]
    assert bare == []


def test_a_drawing_is_no_socket(nodes):
    """The widget is the only way in: a socket beside it, without a name, would take nothing."""
    assert inputs(nodes["PalimpsestFlowCanvas"])["canvas"].get("socketless") is True


def numbers(node: dict) -> list[str]:
    both = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
    return [name for name, entry in both.items() if entry[0] in ("INT", "FLOAT")]


# Inputs that have come after the presets of their node; in saved workflows each value goes to its place.
LATER = {"PalimpsestDiffEditMask": ["shape_changes"], "PalimpsestEdgePredictorGuidance": ["step_rule"]}


def test_a_node_with_more_than_eight_numbers_has_presets(nodes):
    """The presets' input comes last but for what is younger, or saved workflows would give its value to another; "as
    set" changes nothing.

    Flow Guidance Sampler has had one from the start, whose numbers stand aside until they are set.
    """
    large = {name: node for name, node in nodes.items() if len(numbers(node)) > 8}
    assert large.pop("PalimpsestFlowGuidanceSampler")["input"]["required"]["preset"]
    assert len(large) == 3
    for name, node in large.items():
        order = [*node["input_order"]["required"], *node["input_order"]["optional"]]
        assert order[order.index("preset") + 1 :] == LATER.get(name, []), name
        options = node["input"]["optional"]["preset"][1]
        assert options["default"] == options["options"][0] == "as set" and len(options["options"]) > 2, name
