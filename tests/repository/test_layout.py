"""The example workflows as the real front end draws them, in both of its renderers: no node hides another.

Needs a browser; see tests/browser.py.
"""

import json
from pathlib import Path

from palimpsest.tools.examples import examples

from ..browser import both_renderers, browse, needs_browser

pytestmark = needs_browser
WORKFLOWS = {path.stem: path for path in examples()}


@both_renderers
def test_nodes_lie_apart_and_in_their_groups(front_end, vue):
    paths = {name: str(path) for name, path in WORKFLOWS.items()}
    report = browse(Path(__file__).with_name("layout_browser.mjs"), front_end, vue, workflows=paths)
    assert WORKFLOWS and set(report) == set(WORKFLOWS)
    for name, seen in report.items():
        assert seen["nodes"] == len(json.loads(WORKFLOWS[name].read_text(encoding="utf-8"))["nodes"]), name
        assert seen["covered"] == [] and seen["torn"] == [], name


def test_notes_can_be_read():
    """Code marks come out blue on the note's brown in the new renderer."""
    for path in WORKFLOWS.values():
        assert "`" not in path.read_text(encoding="utf-8"), path.name
