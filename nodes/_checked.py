"""Checks every input of a node before it runs, by the table of host/sockets.py, and lets nodes without a network be
interrupted between any two operations; node files say nothing of either."""

from __future__ import annotations

from contextlib import nullcontext

from comfy_api.latest import io

from ..host.progress import Interruptible
from ..host.sockets import check_input
from ..host.validation import require_prompt_of

NETWORKS = {"MODEL", "VAE", "OPTICAL_FLOW", "GUIDER"}


def checked(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node, under the same name, whose inputs are checked first. `execute` then raises ValueError for junk."""

    def execute(cls, **values) -> io.NodeOutput:
        # The host runs a locked copy of the class, which cannot keep a schema of its own.
        schema = made.SCHEMA or made.GET_SCHEMA()
        for one in schema.inputs:
            if one.id in values or not one.optional:
                values[one.id] = _value(one, values.get(one.id), schema.is_input_list)
        _require_prompts_of(schema, values)
        networks = NETWORKS & {one.io_type for one in schema.inputs if values.get(one.id) is not None}
        with nullcontext() if networks else Interruptible():
            return super(made, cls).execute(**values)

    body = {"execute": classmethod(execute), "__module__": node.__module__, "__doc__": node.__doc__}
    made = type(node.__name__, (node,), body)
    return made


def _require_prompts_of(schema: io.Schema, values: dict) -> None:
    """All prompts of a node with a model are of its family."""
    model = values.get("model")
    model = model[0] if isinstance(model, list) else model
    for one in schema.inputs:
        if model is None or values.get(one.id) is None:
            continue
        if isinstance(one, io.Autogrow.Input) and one.template.input.io_type == "CONDITIONING":
            prompts = values[one.id]
        else:
            prompts = {one.id: values[one.id]} if one.io_type == "CONDITIONING" else {}
        for name, value in prompts.items():
            for entries in value if schema.is_input_list else [value]:
                require_prompt_of(model, entries, f"The prompt '{name}'")


def _value(given: io.Input, value, listed: bool):
    """The checked value of an input. listed: the node takes all values of a list at once."""
    if isinstance(given, io.Autogrow.Input):
        return _several(given, value, listed)
    if value is None and given.optional:
        return value
    socket = given.io_type
    if listed and isinstance(value, list):
        return [check_input(socket, one, given.id) for one in value]
    return check_input(socket, value, given.id)


def _several(given: io.Autogrow.Input, values: dict | None, listed: bool) -> dict:
    """Those of the inputs that are connected; what comes from a muted node is None and left out."""
    lists = {name: value if listed else [value] for name, value in (values or {}).items()}
    connected = {name: value for name, value in lists.items() if any(one is not None for one in value)}
    if not connected:
        raise ValueError(f"Nothing is connected to '{given.id}': connect at least one input there.")
    socket = given.template.input.io_type
    fit = {name: [check_input(socket, one, name) for one in value] for name, value in connected.items()}
    return fit if listed else {name: value[0] for name, value in fit.items()}
