"""The example workflows: where they lie, their order, what each says of itself, and how the demo runs it.

An example is made for models and a picture that people have. `extra.palimpsest.demo` holds what the demo sets instead,
by node and widget: `{"1": {"ckpt_name": "papercut.safetensors"}, "22": {"mode": 4}, "7": {"type": "LoadImageMask"}}`.
`mode` mutes (2) or bypasses (4) a node or brings it back (0); `type` puts another node in its place, which keeps the
links of the inputs that it has too. A blueprint's node has the widgets of its face.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path

from .places import ROOT
from .widgets import MISSING, default_of, widget_inputs, widget_names
from .workflow import WorkflowError, read

EXAMPLES = ROOT / "example_workflows"


def facts_of(workflow: Mapping) -> dict:
    """What a workflow says of itself: number, title, story, and the nodes of the pictures before and after."""
    return (workflow.get("extra") or {}).get("palimpsest") or {}


def examples(folder: Path = EXAMPLES) -> list[Path]:
    """All of them by number: those of the Templates dialog, then those in techniques/, which it does not list."""

    def place(path: Path) -> tuple[bool, float, str]:
        try:
            number = facts_of(read(path)).get("number")
        except WorkflowError:
            number = None
        return path.parent != folder, float("inf") if number is None else number, path.stem

    return sorted([*folder.glob("*.json"), *folder.glob("techniques/*.json")], key=place)


def example(name: str) -> Path:
    """The example of that name, wherever it lies."""
    (path,) = (path for path in examples() if path.stem == name)
    return path


def slug(name: str) -> str:
    """A name as part of an address: "Re-weight words" -> "re-weight-words"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def for_demo(workflow: Mapping, info: Mapping[str, dict]) -> dict:
    """A copy of the workflow with all that its demo sets. info: the host's `/object_info`.

    Raises WorkflowError where a node or a widget of that name does not exist.
    """
    changed = copy.deepcopy(dict(workflow))
    nodes = {str(node["id"]): node for node in changed["nodes"]}
    for key, values in facts_of(workflow).get("demo", {}).items():
        if key not in nodes:
            raise WorkflowError(f"The demo sets node {key}, which is not there.")
        values = dict(values)
        nodes[key]["mode"] = values.pop("mode", nodes[key].get("mode", 0))
        if "type" in values:
            _replace(changed, nodes[key], values.pop("type"), info)
        set_widgets(nodes[key], values, info)
    return changed


def widgets_of(node: Mapping, info: Mapping[str, dict]) -> list[str]:
    """The name of each value that is saved for a node, or for a blueprint's face."""
    if node["type"] in info:
        return widget_names(info[node["type"]], node)
    return [slot["name"] for slot in node.get("inputs") or () if slot.get("widget")]


def set_widgets(node: dict, values: Mapping, info: Mapping[str, dict]) -> None:
    """Sets widgets of a node, or of a blueprint's face, by their names."""
    names = widgets_of(node, info)
    for name, value in values.items():
        if name not in names:
            raise WorkflowError(f"Node {node['id']} ({node['type']}) has no widget '{name}'.")
        node["widgets_values"][names.index(name)] = value


def _replace(workflow: dict, node: dict, kind: str, info: Mapping[str, dict]) -> None:
    """Another node in the place of `node`, with its own defaults."""
    specs = info[kind]["input"]
    taken = {name: entry[0] for part in ("required", "optional") for name, entry in specs.get(part, {}).items()}
    cut = {slot["link"] for slot in node["inputs"] if taken.get(slot["name"]) != slot["type"]}
    workflow["links"] = [link for link in workflow["links"] if link[0] not in cut]
    for other in workflow["nodes"]:
        for slot in other.get("outputs") or ():
            slot["links"] = [link for link in slot.get("links") or () if link not in cut]
    kept = [slot for slot in node["inputs"] if slot["link"] not in cut]
    for place, slot in enumerate(kept):
        for link in workflow["links"]:
            if link[0] == slot["link"]:
                link[4] = place
    defaults = [default_of(entry or [""]) for _, _, entry in widget_inputs(info[kind])]
    values = [None if value is MISSING else value for value in defaults]
    node.update(type=kind, inputs=kept, widgets_values=values, properties={"Node name for S&R": kind})
