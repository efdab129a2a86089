"""A workflow as the canvas saves it -> the prompt that ComfyUI's `/prompt` takes.

Follows the front end's own rules (1.47): widget values are read in the order of `/object_info`, minding the extra
values behind seeds and uploads; reroutes, bypassed and muted nodes and primitives are resolved; subgraphs are
expanded, their inner nodes named `outer:inner`; list values are wrapped so that they are not taken for links.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Mapping

from .widgets import MISSING, default_of, widget_inputs, wrapped

NEVER, BYPASS = 2, 4
INPUT_NODE = "-10"
NOTES = {"Note", "MarkdownNote"}
VIRTUAL = NOTES | {"Reroute", "PrimitiveNode"}


class WorkflowError(ValueError):
    """A workflow that cannot be turned into a prompt; the message names the node."""


@dataclass(frozen=True)
class Link:
    """A connection that ends at a real output."""

    node: str
    slot: int


@dataclass(frozen=True)
class Value:
    """A connection that ends at a widget's value (a primitive, or a widget promoted to a subgraph's face)."""

    value: Any


@dataclass
class Graph:
    """One level of a workflow: the canvas itself, or one instance of a subgraph on it."""

    nodes: dict[str, dict]
    links: dict[int, tuple[str, int, str, int]]
    definition: dict = field(default_factory=dict)
    outer: "Graph | None" = None
    host: dict = field(default_factory=dict)
    path: tuple[str, ...] = ()

    def id(self, node: Mapping) -> str:
        return ":".join((*self.path, str(node["id"])))


def read(path: Path) -> dict:
    """The workflow in a file; an unreadable one raises `WorkflowError` with the file's name."""
    try:
        workflow = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorkflowError(f"{path} cannot be read as a workflow: {error}.") from error
    if not isinstance(workflow, dict) or not isinstance(workflow.get("nodes"), list):
        raise WorkflowError(f"{path} is not a canvas workflow (it has no list of nodes); save it with Export.")
    return workflow


def node_types(workflow: Mapping) -> set[str]:
    """The registered node ids that a workflow needs, those inside its subgraphs included."""
    definitions = _definitions(workflow)
    levels = [workflow, *definitions.values()]
    found = {node["type"] for level in levels for node in level.get("nodes", ())}
    return found - VIRTUAL - set(definitions)


def to_prompt(workflow: Mapping, object_info: Mapping[str, dict]) -> dict[str, dict]:
    """The API prompt of a canvas workflow; `object_info` is the answer of the host's `/object_info`."""
    return _Converter(workflow, object_info).prompt()


def _definitions(workflow: Mapping) -> dict[str, dict]:
    return {str(one["id"]): one for one in workflow.get("definitions", {}).get("subgraphs", ())}


def _links(level: Mapping) -> dict[int, tuple[str, int, str, int]]:
    found = {}
    for link in level.get("links") or ():
        if isinstance(link, dict):
            link = [link[key] for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot")]
        found[link[0]] = (str(link[1]), int(link[2]), str(link[3]), int(link[4]))
    return found


def _graph(level: Mapping, **context: Any) -> Graph:
    return Graph({str(node["id"]): node for node in level["nodes"]}, _links(level), **context)


def _connects(one: str, other: str) -> bool:
    """Whether two socket types fit: equal, one a wildcard, or lists (`A,B`) with a common member."""
    if "*" in (one, other) or "" in (one, other):
        return True
    return bool(set(str(one).upper().split(",")) & set(str(other).upper().split(",")))


class _Converter:
    def __init__(self, workflow: Mapping, object_info: Mapping[str, dict]):
        self.info = object_info
        self.definitions = _definitions(workflow)
        self.root = _graph(workflow)

    def prompt(self) -> dict[str, dict]:
        entries = dict(self._entries(self.root))
        for entry in entries.values():
            links = {name: v for name, v in entry["inputs"].items() if isinstance(v, list)}
            for name in (name for name, link in links.items() if link[0] not in entries):
                del entry["inputs"][name]
        return entries

    def _entries(self, graph: Graph) -> Iterator[tuple[str, dict]]:
        for node in graph.nodes.values():
            if node.get("mode", 0) in (NEVER, BYPASS) or node["type"] in VIRTUAL:
                continue
            if node["type"] in self.definitions:
                yield from self._entries(self._inside(graph, node))
            else:
                yield graph.id(node), self._entry(graph, node)

    def _entry(self, graph: Graph, node: dict) -> dict:
        if node["type"] not in self.info:
            raise WorkflowError(f"Node {graph.id(node)} is a '{node['type']}', which this ComfyUI does not know.")
        spec = self.info[node["type"]]
        inputs = self._widget_values(graph, node, spec)
        for index, slot in enumerate(node.get("inputs") or ()):
            source = self._input(graph, node, index, slot["type"])
            if isinstance(source, Link):
                inputs[slot["name"]] = [source.node, source.slot]
            elif isinstance(source, Value):
                inputs[slot["name"]] = wrapped(source.value, str(slot["type"]))
        title = node.get("title") or spec.get("display_name") or node["type"]
        return {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}

    # Widgets

    def _widget_values(self, graph: Graph, node: dict, spec: Mapping) -> dict[str, Any]:
        saved = node.get("widgets_values")
        saved = [] if saved is None else saved
        values: dict[str, Any] = {}
        self._take(values, "", spec, node, saved if isinstance(saved, dict) else list(saved))
        values.update(self._proxied(graph, node))
        return values

    def _take(self, values: dict, prefix: str, spec: Mapping, node: dict, saved: list | dict) -> None:
        """Moves the saved values of one node, or of the chosen branch of its dynamic combo, into `values`."""
        for name, kind, entry in widget_inputs(spec, node, prefix):
            if isinstance(saved, dict):
                value = saved.get(prefix + name, MISSING)
            else:
                value = saved.pop(0) if saved else MISSING
            if not name:
                continue
            value = default_of(entry) if value is MISSING else value
            if value is MISSING:
                continue
            values[prefix + name] = wrapped(value, kind)
            if kind == "COMFY_DYNAMICCOMBO_V3":
                branches = {option["key"]: option for option in entry[1].get("options", ())}
                if value in branches:
                    branch = {"input": branches[value].get("inputs", {})}
                    self._take(values, f"{prefix}{name}.", branch, node, saved)

    def _proxied(self, graph: Graph, node: dict) -> dict[str, Any]:
        """Values that older canvases keep on the subgraph's face for a widget of this inner node."""
        pairs = (graph.host.get("properties") or {}).get("proxyWidgets") or ()
        saved = graph.host.get("widgets_values") or ()
        return {
            pair[1]: wrapped(value, "")
            for pair, value in zip(pairs, saved)
            if str(pair[0]) == str(node["id"]) and value is not None and pair[1] != "control_after_generate"
        }

    # Subgraphs

    def _inside(self, graph: Graph, node: dict) -> Graph:
        if len(graph.path) > 32:
            raise WorkflowError(f"The subgraph at node {graph.id(node)} contains itself.")
        definition = self.definitions[node["type"]]
        path = (*graph.path, str(node["id"]))
        return _graph(definition, definition=definition, outer=graph, host=node, path=path)

    def _face_input(self, graph: Graph, slot: int) -> Link | Value | None:
        """What arrives at input `slot` of the subgraph that `graph` is an instance of."""
        face = graph.definition["inputs"][slot]
        for index, outer in enumerate(graph.host.get("inputs") or ()):
            if outer["name"] == face["name"] and outer.get("link") is not None:
                return self._input(graph.outer, graph.host, index, face["type"])
        value = self._face_values(graph).get(face["name"])
        if value is None and (target := self._widget_behind(graph, slot)):
            inside, node, name = target
            return Value(self._widget_values(inside, node, self.info[node["type"]]).get(name))
        return None if value is None else Value(value)

    def _face_values(self, graph: Graph) -> dict[str, Any]:
        """The values that the subgraph's node keeps for its promoted inputs, by the input's name."""
        saved = graph.host.get("widgets_values") or ()
        faces = [face["name"] for face in graph.definition["inputs"]]
        behind = {name: self._widget_behind(graph, slot) for slot, name in enumerate(faces)}
        pairs = (graph.host.get("properties") or {}).get("proxyWidgets")
        if not pairs:
            return dict(zip((name for name, target in behind.items() if target), saved))
        inner = {(str(target[1]["id"]), target[2]): name for name, target in behind.items() if target}
        names = [pair[1] if str(pair[0]) == "-1" else inner.get((str(pair[0]), pair[1])) for pair in pairs]
        return {name: value for name, value in zip(names, saved) if name}

    def _widget_behind(self, graph: Graph, slot: int) -> tuple[Graph, dict, str] | None:
        """The first widget that input `slot` of a subgraph leads to, at whatever depth: (graph, node, widget)."""
        for link in graph.definition["inputs"][slot].get("linkIds") or ():
            node = graph.nodes.get(graph.links[link][2]) if link in graph.links else None
            inner = next((one for one in (node or {}).get("inputs") or () if one.get("link") == link), None)
            if inner is None:
                continue
            name = inner["name"]
            if node["type"] in self.definitions:
                names = [face["name"] for face in self.definitions[node["type"]]["inputs"]]
                found = name in names and self._widget_behind(self._inside(graph, node), names.index(name))
                if found:
                    return found
            elif inner.get("widget") or name in self._widgets(node):
                return graph, node, name
        return None

    def _widgets(self, node: dict) -> set[str]:
        return {name for name, *_ in widget_inputs(self.info.get(node["type"], {}), node)}

    # Links

    def _input(self, graph: Graph, node: dict, index: int, kind: str, depth: int = 0) -> Link | Value | None:
        slot = node["inputs"][index]
        if slot.get("link") is None:
            return None
        if depth > 200:
            raise WorkflowError(f"The links that lead to node {graph.id(node)} form a circle.")
        if slot["link"] not in graph.links:
            raise WorkflowError(f"Input '{slot['name']}' of node {graph.id(node)} has a link that does not exist.")
        origin, origin_slot, *_ = graph.links[slot["link"]]
        if graph.outer is not None and origin == INPUT_NODE:
            return self._face_input(graph, origin_slot)
        if origin not in graph.nodes:
            raise WorkflowError(f"Input '{slot['name']}' of node {graph.id(node)} is linked to a node that is missing.")
        return self._output(graph, graph.nodes[origin], origin_slot, kind, depth + 1)

    def _output(self, graph: Graph, node: dict, slot: int, kind: str, depth: int) -> Link | Value | None:
        mode = node.get("mode", 0)
        if mode == NEVER:
            return None
        if mode == BYPASS:
            index = _bypass_slot(node, slot, kind)
            return None if index is None else self._input(graph, node, index, kind, depth)
        if node["type"] == "Reroute":
            return self._input(graph, node, 0, kind, depth)
        if node["type"] == "PrimitiveNode":
            values = node.get("widgets_values") or []
            return Value(values[0]) if values else None
        if node["type"] in self.definitions:
            return self._face_output(self._inside(graph, node), slot, kind, depth)
        return Link(graph.id(node), slot)

    def _face_output(self, inside: Graph, slot: int, kind: str, depth: int) -> Link | Value | None:
        for link in inside.definition["outputs"][slot].get("linkIds") or ():
            origin, origin_slot, *_ = inside.links[link]
            if origin == INPUT_NODE:
                return self._face_input(inside, origin_slot)
            return self._output(inside, inside.nodes[origin], origin_slot, kind, depth + 1)
        return None


def _bypass_slot(node: Mapping, slot: int, kind: str) -> int | None:
    """The input that stands in for output `slot` of a bypassed node, chosen as the canvas does."""
    kinds = [one["type"] for one in node.get("inputs") or ()]
    if not kinds:
        return None
    if kind in ("*", ""):
        return slot if slot < len(kinds) else 0
    made = node["outputs"][slot]["type"]
    fits = [_connects(one, made) and _connects(one, kind) for one in kinds]
    if slot < len(kinds) and fits[slot]:
        return slot
    if kind in kinds:
        return kinds.index(kind)
    return fits.index(True) if True in fits else None
