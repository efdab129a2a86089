"""The subgraph blueprint "Change Only That" and the example workflows in a real Chromium against the real front end.

Needs a browser; see tests/browser.py.
"""

import json
from pathlib import Path

from palimpsest.tools.examples import examples
from palimpsest.tools.workflow import node_types, read, to_prompt

from ..browser import both_renderers, browse, needs_browser

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = [path for path in examples() if "PalimpsestDiffEditMask" in node_types(read(path))]
BEFORE, AFTER = "a red striped heart on a cream checked ground", "a blue striped heart on a cream checked ground"
VALUES = {
    "what is there": BEFORE,
    "what it becomes": AFTER,
    "depth (0: the photo)": 0.5,
    "megapixels": 0.0625,
    "steps": 2,
}


def node(number, kind, x, inputs=(), outputs=(), values=()):
    return {
        "id": number, "type": kind, "pos": [x, 100 + 350 * (number % 2)], "size": [300, 300], "flags": {}, "mode": 0,
        "order": number, "inputs": [{"name": name, "type": name_of, "link": None} for name, name_of in inputs],
        "outputs": [{"name": name, "type": name, "links": []} for name in outputs],
        "properties": {}, "widgets_values": list(values),
    }  # fmt: skip


def workflow():
    """What the blueprint is wired to."""
    return {
        "version": 0.4, "last_node_id": 4, "last_link_id": 0, "groups": [], "config": {}, "extra": {}, "links": [],
        "nodes": [
            node(1, "CheckpointLoaderSimple", 0, (), ("MODEL", "CLIP", "VAE"), ["papercut.safetensors"]),
            node(2, "LoadImage", 0, (), ("IMAGE", "MASK"), ["papercut_source.png", "image"]),
            node(3, "SaveImage", 1000, [("images", "IMAGE")], (), ["blueprint"]),
            node(4, "MaskPreview", 1000, [("mask", "MASK")], ("mask",)),
        ],
    }  # fmt: skip


def plain(prompt: dict) -> dict:
    """What the host gets, without titles and with floats that JavaScript writes as integers made alike."""
    alike = {key: json.loads(json.dumps(entry["inputs"]), parse_int=float) for key, entry in prompt.items()}
    return {key: (entry["class_type"], alike[key]) for key, entry in prompt.items()}


@needs_browser
# It asks the library of blueprints where the pinned front end keeps it; the newest keeps it elsewhere.
@both_renderers
def test_the_blueprint_in_the_front_end(host, vue):
    report = browse(
        Path(__file__).with_name("blueprint_browser.mjs"),
        host,
        vue,
        workflow=workflow(),
        values=VALUES,
        run=not vue,
        examples={path.stem: read(path) for path in EXAMPLES},
    )
    assert [label for label, *_ in report["face"]["widgets"]] == [
        "what is there",
        "what it becomes",
        "depth (0: the photo)",
        "megapixels",
        "seed",
        "steps",
        "cfg",
        "threshold",
        "edit what was not found",
        "grow",
    ]
    assert report["face"]["outputs"] == ["picture", "mask", "comparison", "report"]

    by_class = {entry["class_type"]: entry["inputs"] for entry in report["prompt"].values()}
    texts = [e["inputs"]["text"] for e in report["prompt"].values() if e["class_type"] == "CLIPTextEncode"]
    assert sorted(texts) == sorted([BEFORE, AFTER, ""])
    assert (by_class["PrimitiveFloat"]["value"], by_class["BasicScheduler"]["steps"]) == (0.5, 2)
    assert by_class["PalimpsestDiffEditMask"]["threshold"] == "adaptive" and by_class["CFGGuider"]["cfg"] == 7.5
    assert plain(report["again"]) == plain(report["prompt"]), "a saved workflow opens as another one"
    info = host.client.object_info()
    assert plain(to_prompt(report["saved"], info)) == plain(report["prompt"])
    for path in EXAMPLES:
        assert plain(to_prompt(read(path), info)) == plain(report["examples"][path.stem]), path.name
    if not vue:
        kind, detail = report["run"]
        assert kind == "execution_success", detail
