"""The example workflows as the real front end draws them, in both of its renderers: no node hides another.

Needs a browser; see tests/browser.py.
"""

import json
import subprocess
from pathlib import Path

import pytest
from palimpsest.tools.common import ROOT

from ..browser import CHROMIUM, PLAYWRIGHT, needs_browser

pytestmark = needs_browser
WORKFLOWS = {path.stem: path for path in sorted((ROOT / "example_workflows").glob("*.json"))}


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "nodes 2.0"])
def test_nodes_lie_apart_and_in_their_groups(host, vue):
    given = {
        "playwright": str(PLAYWRIGHT), "chromium": CHROMIUM, "url": host.client.url, "vue": vue, "patience": 120_000,
        "workflows": {name: str(path) for name, path in WORKFLOWS.items()},
    }  # fmt: skip
    script = Path(__file__).with_name("layout_browser.mjs")
    run = subprocess.run(["node", str(script), json.dumps(given)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert WORKFLOWS and set(report) == set(WORKFLOWS)
    for name, seen in report.items():
        assert seen["nodes"] == len(json.loads(WORKFLOWS[name].read_text(encoding="utf-8"))["nodes"]), name
        assert seen["covered"] == [] and seen["torn"] == [], name


def test_notes_can_be_read():
    """Code marks come out blue on the note's brown in the new renderer."""
    for path in WORKFLOWS.values():
        assert "`" not in path.read_text(encoding="utf-8"), path.name
