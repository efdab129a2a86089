"""Which widgets a node shows, in which order, and how their values are sent: the front end's rules (1.47)."""

from __future__ import annotations

from typing import Any, Iterator, Mapping

WIDGETS = {
    "INT", "FLOAT", "BOOLEAN", "STRING", "MARKDOWN", "COMBO", "COLOR", "IMAGECOMPARE", "BOUNDING_BOX", "CHART",
    "GALLERIA", "PAINTER", "TEXTAREA", "CURVE", "RANGE", "BOUNDING_BOXES", "COLORS", "COMFY_DYNAMICCOMBO_V3",
}  # fmt: skip
UPLOADS = ("image_upload", "video_upload", "animated_image_upload")
MISSING = object()


def widget_inputs(spec: Mapping, node: Mapping | None = None, prefix: str = "") -> Iterator[tuple[str, str, list]]:
    """The widgets of a node in canvas order as (name, type, [type, options]).

    spec: the node's entry in `/object_info`. Values that the canvas saves but does not send (the control behind a
    seed, the upload button) are given with an empty name. prefix: of the names inside a dynamic combo's branch.
    """
    drawn = {slot["widget"]["name"] for slot in (node or {}).get("inputs") or () if slot.get("widget")}
    for section in ("required", "optional"):
        upload = False
        for name, entry in spec.get("input", {}).get(section, {}).items():
            options = entry[1] if len(entry) > 1 and isinstance(entry[1], dict) else {}
            kind = "COMBO" if isinstance(entry[0], list) else options.get("widgetType") or entry[0]
            if options.get("forceInput") or not (kind in WIDGETS or name in drawn or "default" in options):
                continue
            yield name, kind, entry
            control = options.get("control_after_generate", kind == "INT" and prefix + name in ("seed", "noise_seed"))
            if control:
                yield "", "CONTROL", []
                if kind == "COMBO":
                    yield "", "FILTER", []
            upload = upload or (kind == "COMBO" and any(options.get(key) for key in UPLOADS))
        if upload:
            yield "", "UPLOAD", []


def widget_names(spec: Mapping, node: Mapping) -> list[str]:
    """The name of each value that the canvas saves for a node, in order; empty for those that it does not send.

    The branches that the node's dynamic combos are set to are among them, as `combo.name`.
    """
    saved = list(node.get("widgets_values") or ())
    names: list[str] = []

    def take(level: Mapping, prefix: str) -> None:
        for name, kind, entry in widget_inputs(level, node, prefix):
            value = saved[len(names)] if len(names) < len(saved) else default_of(entry or [""])
            names.append(name and prefix + name)
            if kind == "COMFY_DYNAMICCOMBO_V3":
                branches = {option["key"]: option.get("inputs", {}) for option in entry[1].get("options", ())}
                take({"input": branches.get(value, {})}, f"{prefix}{name}.")

    take(spec, "")
    return names


def default_of(entry: list) -> Any:
    """The value that the canvas gives a fresh widget, or `MISSING`."""
    options = entry[1] if len(entry) > 1 and isinstance(entry[1], dict) else {}
    if "default" in options:
        return options["default"]
    if entry[0] == "IMAGECOMPARE":
        return ["", ""]
    choices = entry[0] if isinstance(entry[0], list) else options.get("options")
    if not choices:
        return MISSING
    return choices[0].get("key") if isinstance(choices[0], dict) else choices[0]


def wrapped(value: Any, kind: str) -> Any:
    if not isinstance(value, list):
        return value
    return {"__type__": "CURVE", "__value__": value} if kind == "CURVE" else {"__value__": value}
