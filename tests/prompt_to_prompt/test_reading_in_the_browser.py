"""How Prompt-to-Prompt read its texts stands on the node, in both renderers of both front ends.

Needs a browser; see tests/browser.py.
"""

from pathlib import Path

import pytest

from ..browser import both_renderers, browse, needs_browser

pytestmark = needs_browser
TEXTS = [
    "a red striped heart on a cream checked ground",
    "a blue striped heart on a cream checked ground\na red dotted star and a green moon on a cream checked ground",
]


def node(number, kind, x, width, height, inputs=(), outputs=(), values=()):
    return {
        "id": number, "type": kind, "pos": [x, 60], "size": [width, height], "flags": {}, "mode": 0, "order": number,
        "inputs": [{"name": name, "type": kind_of, "link": link} for name, kind_of, link in inputs],
        "outputs": [{"name": name, "type": kind_of, "links": links} for name, kind_of, links in outputs],
        "properties": {}, "widgets_values": list(values),
    }  # fmt: skip


WORKFLOW = {
    "id": "reading", "version": 0.4, "last_node_id": 3, "last_link_id": 3, "groups": [], "config": {}, "extra": {},
    "nodes": [
        node(1, "CheckpointLoaderSimple", 0, 300, 120, (),
             [("MODEL", "MODEL", [1]), ("CLIP", "CLIP", [2]), ("VAE", "VAE", [])], ["papercut.safetensors"]),
        node(2, "PalimpsestPromptToPrompt", 350, 400, 420, [("model", "MODEL", 1), ("clip", "CLIP", 2)],
             [("model", "MODEL", []), ("positive", "CONDITIONING", []), ("report", "STRING", [3])],
             [*TEXTS, 0.8, 0.5, "", 0.4, 0.2, "from half the latent's size", ""]),
        node(3, "PreviewAny", 850, 300, 200, [("source", "*", 3)], [("STRING", "STRING", [])]),
    ],
    "links": [[1, 1, 0, 2, 0, "MODEL"], [2, 1, 1, 2, 1, "CLIP"], [3, 2, 2, 3, 0, "STRING"]],
}  # fmt: skip


@pytest.fixture(scope="module")
def staged(front_end):
    """renderer -> the stages that reading_browser.mjs went through."""
    found = {}

    def of(vue):
        if vue not in found:
            script, name = Path(__file__).with_name("reading_browser.mjs"), front_end.base.name
            found[vue] = browse(script, front_end, vue, name=name, workflow=WORKFLOW)
        return found[vue]

    return of


@both_renderers
def test_the_reading_stands_on_the_node_whole(staged, vue):
    stages = staged(vue)
    assert stages["before"]["node"] == [] and stages["ran"] == stages["again"] == "execution_success"
    (read,) = stages["read"]["node"]
    assert "'red' becomes 'blue'" in read["text"] and "'heart' becomes 'star'" in read["text"]
    assert read["height"] > 30 and read["cut"] <= 2
    assert stages["kept"]["node"][0]["text"] == read["text"]


@both_renderers
def test_it_is_in_neither_the_prompt_nor_the_saved_workflow(staged, vue):
    stages = staged(vue)
    for stage in ("read", "kept", "opened"):
        assert stages[stage]["prompt"] == stages["before"]["prompt"]
        assert stages[stage]["saved"] == stages["before"]["saved"]
