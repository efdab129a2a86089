"""Graphs as the canvas saves them, written by their names: nodes by type, inputs by name, links by what they start at.

`object_info` of a running host says which inputs a node has and in which order its widgets are saved.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .stamp import PREFIX
from .widgets import MISSING, default_of, widget_inputs

FACE, RESULT = -10, -20
NAMESPACE = uuid.UUID("5b0b1c52-5f0e-5d0a-9a53-3f1d5a2c1b77")
# Nodes of a subgraph are numbered from here on: the front end gives them new numbers where the canvas has the same, and
# front end 1.47 then loses the picture on the subgraph's face.
INSIDE = 100
COLUMN, GAP, WIDTH = 380, 60, 320  # pixels
# Of nodes that show pictures, or much text.
HEIGHTS = {
    "PreviewImage": 380,
    "LoadImage": 340,
    "SaveImage": 340,
    "SaveAnimatedWEBP": 460,
    "PalimpsestFlowCanvas": 620,
    "MarkdownNote": 380,
}
PREVIEW = "$$canvas-image-preview"
MATCHED = "COMFY_MATCHTYPE_V3"
BLANK = {"STRING": "", "BOOLEAN": False, "INT": 0, "FLOAT": 0.0}
# A number or text that a graph leaves to whoever uses it, in the order of the face: its label and its default.
Control = tuple[str, Any]


def uid(*names: str) -> str:
    """A UUID that is the same whenever it is made."""
    return str(uuid.uuid5(NAMESPACE, "/".join(names)))


@dataclass(frozen=True)
class Ref:
    """Where a link starts."""

    node: int
    slot: int
    kind: str


class Node:
    """A node under construction. `node["name"]` or `node[0]`: one of its outputs."""

    def __init__(self, number: int, kind: str, spec: Mapping, title: str):
        self.number, self.kind, self.spec, self.title = number, kind, spec, title
        self.inputs: list[dict] = []
        self.outputs: list[dict] = []
        self.widgets: list[Any] = []
        self.depth = 0

    def __getitem__(self, name: str | int) -> Ref:
        slot = name if isinstance(name, int) else [one["name"] for one in self.outputs].index(name)
        return Ref(self.number, slot, self.outputs[slot]["type"])


class Graph:
    """One level of a workflow. face: sockets (name -> type) and controls (name -> (label, default)) of a subgraph."""

    def __init__(self, info: Mapping[str, dict], sockets: Mapping[str, str] = {}, controls: Mapping[str, Control] = {}):
        self.info, self.sockets, self.controls = info, dict(sockets), dict(controls)
        self.nodes: dict[int, Node] = {}
        self.links: list[tuple[int, Ref, int, int]] = []
        self.results: dict[str, Ref] = {}

    def __getattr__(self, name: str) -> Ref:
        """A socket or control of the face."""
        names = [*self.sockets, *self.controls]
        if name not in names:
            raise AttributeError(name)
        return Ref(FACE, names.index(name), self.sockets.get(name, ""))

    def replace(self, name: str, ref: Ref) -> None:
        """From here on a socket of the face stands for `ref`."""
        setattr(self, name, ref)

    def add(self, kind: str, title: str = "", **given: Any) -> Node:
        """A node; given: its inputs by name ("__" for a dot), links as `Ref`, the rest widgets' values."""
        given = {name.replace("__", "."): value for name, value in given.items()}
        node = Node(max(self.nodes, default=INSIDE if self.sockets else 0) + 1, kind, self.info[kind], title)
        self.nodes[node.number] = node
        drawn = {name: entry for name, _, entry in widget_inputs(node.spec, {}) if name}
        matched = "*"
        for section in ("required", "optional"):
            for name, entry in node.spec["input"].get(section, {}).items():
                parts = {key: value for key, value in given.items() if key == name or key.startswith(name + ".")}
                if entry[0] == "COMFY_AUTOGROW_V3":
                    for key, ref in parts.items():
                        self._connect(node, key, ref, ref.kind or "*")
                elif isinstance(given.get(name), Ref):
                    kind_of = self._kind(node, name, entry, given[name])
                    matched = given[name].kind if entry[0] == MATCHED else matched
                    self._connect(
                        node, name, given[name], kind_of, widget=name in drawn, optional=section != "required"
                    )
                elif name not in drawn:
                    node.inputs.append({"name": name, "type": entry[0], "link": None, **_optional(section)})
        node.widgets = self._values(node, given)
        for kind_of, name in zip(node.spec["output"], node.spec["output_name"]):
            kind_of = "COMBO" if isinstance(kind_of, list) else kind_of
            node.outputs.append({"name": name, "type": matched if kind_of == MATCHED else kind_of, "links": []})
        return node

    def give(self, **results: Ref) -> None:
        """What the subgraph hands out."""
        for name, ref in results.items():
            self.results[name] = ref
            self._link(ref, RESULT, len(self.results) - 1)

    def _kind(self, node: Node, name: str, entry: list, ref: Ref) -> str:
        if entry[0] == MATCHED:
            return ref.kind
        return "COMBO" if isinstance(entry[0], list) else entry[0]

    def _connect(self, node: Node, name: str, ref: Ref, kind: str, widget: bool = False, optional: bool = False):
        slot = {"name": name, "type": kind, "link": self._link(ref, node.number, len(node.inputs), kind)}
        slot |= {"widget": {"name": name}} if widget else {"shape": 7} if optional else {}
        node.inputs.append(slot)
        if ref.node != FACE:
            node.depth = max(node.depth, self.nodes[ref.node].depth + 1)

    def _link(self, ref: Ref, target: int, slot: int, kind: str = "") -> int:
        kind = ref.kind or kind
        self.links.append((len(self.links) + 1, Ref(ref.node, ref.slot, kind), target, slot))
        if ref.node != FACE:
            self.nodes[ref.node].outputs[ref.slot]["links"].append(len(self.links))
        return len(self.links)

    def _values(self, node: Node, given: Mapping[str, Any]) -> list:
        unknown = {name.split(".")[0] for name in given} - {*self._names(node)}
        if unknown:
            raise ValueError(f"{node.kind} has no input {', '.join(sorted(unknown))}.")
        extra = {"CONTROL": "fixed", "UPLOAD": "image", "FILTER": ""}
        names = [*self.sockets, *self.controls]
        values = []
        for name, kind, entry in widget_inputs(node.spec, {"inputs": node.inputs}):
            value = given.get(name) if name else extra[kind]
            if isinstance(value, Ref) and value.node == FACE:
                value = self.controls[names[value.slot]][1]
            if value is None or isinstance(value, Ref):
                value = default_of(entry)
            values.append(BLANK.get(kind) if value is MISSING else value)
        return values

    @staticmethod
    def _names(node: Node) -> list[str]:
        return [name for section in ("required", "optional") for name in node.spec["input"].get(section, {})]

    # What is saved

    def saved_nodes(self, own: Mapping[str, str] = {}, column: int = COLUMN) -> list[dict]:
        """The nodes from left to right, each right of all that it depends on. own: properties of our nodes."""
        foot: dict[int, int] = {}
        made = []
        for order, node in enumerate(self.nodes.values()):
            top, height = foot.get(node.depth, 0), HEIGHTS.get(node.kind) or _height(node)
            foot[node.depth] = top + height + GAP
            made.append({
                "id": node.number, "type": node.kind, "pos": [node.depth * column, top], "size": [WIDTH, height],
                "flags": {}, "order": order, "mode": 0, "inputs": node.inputs, "outputs": node.outputs,
                "properties": {"Node name for S&R": node.kind, **(own if node.kind.startswith(PREFIX) else {})},
                "widgets_values": node.widgets, **({"title": node.title} if node.title else {}),
            })  # fmt: skip
        return made


def _optional(section: str) -> dict:
    return {} if section == "required" else {"shape": 7}


def _height(node: Node) -> int:
    texts = sum("multiline" in json.dumps(entry) for _, _, entry in widget_inputs(node.spec, {}))
    return 40 + 22 * max(len(node.inputs), len(node.outputs)) + 26 * len(node.widgets) + 60 * texts


def subgraph(
    name: str, graph: Graph, *, identity: str, description: str, category: str, own: Mapping[str, str]
) -> dict:
    """The definition of a subgraph."""
    names = [*graph.sockets, *graph.controls]
    rights = max((node.depth for node in graph.nodes.values()), default=0) * COLUMN + WIDTH + GAP

    def face(side: str, left: int, names: list[str], kinds: list[str], ends) -> list[dict]:
        return [
            {
                "id": uid(name, side, one), "name": one, "type": kind, "linkIds": ends(slot), "localized_name": one,
                "label": graph.controls.get(one, (one.replace("_", " "), 0))[0], "pos": [left, 20 + 20 * slot],
            }
            for slot, (one, kind) in enumerate(zip(names, kinds))
        ]  # fmt: skip

    starts = lambda slot: [number for number, ref, *_ in graph.links if (ref.node, ref.slot) == (FACE, slot)]
    ends = lambda slot: [number for number, _, node, place in graph.links if (node, place) == (RESULT, slot)]
    kinds = [next((ref.kind for _, ref, *_ in graph.links if (ref.node, ref.slot) == (FACE, i)), "*")
             for i in range(len(names))]  # fmt: skip
    return {
        "id": identity, "version": 1, "revision": 0, "config": {}, "name": name,
        "state": {"lastGroupId": 0, "lastNodeId": max(graph.nodes), "lastLinkId": len(graph.links), "lastRerouteId": 0},
        "inputNode": {"id": FACE, "bounding": [-320, 0, 160, 40 + 20 * len(names)]},
        "outputNode": {"id": RESULT, "bounding": [rights, 0, 120, 40 + 20 * len(graph.results)]},
        "inputs": face("inputs", -180, names, kinds, starts),
        "outputs": face("outputs", rights + 20, list(graph.results), [r.kind for r in graph.results.values()], ends),
        "widgets": [], "nodes": graph.saved_nodes(own), "groups": [],
        "links": [
            {"id": number, "origin_id": ref.node, "origin_slot": ref.slot, "target_id": node, "target_slot": slot,
             "type": ref.kind}
            for number, ref, node, slot in graph.links
        ],
        "extra": {}, "category": category, "description": description,
    }  # fmt: skip


def face_of(definition: dict, graph: Graph) -> dict:
    """What `object_info` would say of the subgraph, for graphs that use it."""
    required = {}
    for one in definition["inputs"]:
        control = graph.controls.get(one["name"])
        options = {"default": control[1], "control_after_generate": False} if control else {}
        required[one["name"]] = [one["type"], options]
    outputs = definition["outputs"]
    return {
        "input": {"required": required},
        "output": [one["type"] for one in outputs],
        "output_name": [one["name"] for one in outputs],
    }


def as_subgraph(node: dict, definition: dict, graph: Graph, shown: int) -> dict:
    """A saved node of `face_of` as the canvas knows one: its controls too are inputs. shown: whose picture it shows."""
    links = {one["name"]: one["link"] for one in node["inputs"]}
    labels = {one["name"]: one["label"] for side in ("inputs", "outputs") for one in definition[side]}
    named = lambda one: {"label": labels[one["name"]], "localized_name": one["name"], "name": one["name"]}
    widget = lambda name: {"widget": {"name": name}} if name in graph.controls else {}
    inputs = [
        {**named(one), "type": one["type"], **widget(one["name"]), "link": links.get(one["name"])}
        for one in definition["inputs"]
    ]  # fmt: skip
    preview = {"name": PREVIEW, "sourceNodeId": str(shown), "sourcePreviewName": PREVIEW}
    outputs = [{**named(one), **one} for one in node["outputs"]]
    properties = {"previewExposures": [preview]}
    size = [420, 300 + 26 * len(graph.controls) + 22 * len(graph.sockets) + 320]
    return {**node, "inputs": inputs, "outputs": outputs, "properties": properties, "size": size,
            "title": definition["name"]}  # fmt: skip


def workflow(
    name: str,
    graph: Graph,
    definitions: Sequence[dict] = (),
    extra: Mapping[str, Any] = {},
    own: Mapping[str, str] = {},
) -> dict:
    """The file of a canvas. own: properties of our nodes."""
    return {
        "id": uid(name, "file"), "revision": 0, "last_node_id": max(graph.nodes), "last_link_id": len(graph.links),
        "nodes": graph.saved_nodes(own, COLUMN + 120),
        "links": [[number, ref.node, ref.slot, node, slot, ref.kind] for number, ref, node, slot in graph.links],
        "groups": [], "config": {}, "version": 0.4, "definitions": {"subgraphs": list(definitions)},
        "extra": dict(extra),
    }  # fmt: skip
