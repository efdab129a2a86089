"""The example workflows as the real front end draws them, in both of its renderers: no node hides another.

Each shows what it shows in a run: pictures, previews while it samples, texts, and a warning of two lines.

Needs a browser; see tests/browser.py.
"""

import json
from pathlib import Path

from palimpsest.tools.examples import examples

from ..browser import both_renderers, browse, needs_browser

pytestmark = needs_browser
PICTURES = [
    "MaskPreview", "PreviewImage", "SaveAnimatedWEBP", "SaveImage", "SaveVideo", "PalimpsestEditReport",
    "PalimpsestFlowGuidanceReport", "PalimpsestFlowPreview", "PalimpsestInversionCheck",
]  # fmt: skip
PREVIEWS = [
    "KSampler", "SamplerCustomAdvanced", "PalimpsestBestSeed", "PalimpsestDDIMInvert", "PalimpsestEdgePredictorTrain",
    "PalimpsestLoRAFit", "PalimpsestNullTextOptimize",
]  # fmt: skip
WORKFLOWS = {path.stem: path for path in examples()}


def shown(info: dict) -> dict[str, list[str]]:
    """What each kind of node shows in a run. info: the host's `/object_info`."""
    kinds = {"picture": PICTURES, "preview": PREVIEWS, "text": ["PreviewAny"]}
    kinds["warning"] = [name for name in info if name.startswith("Palimpsest")]
    return {name: [kind for kind, names in kinds.items() if name in names] for name in info}


@both_renderers
def test_nodes_lie_apart_and_in_their_groups(front_end, vue):
    paths = {name: str(path) for name, path in WORKFLOWS.items()}
    shows = shown(front_end.client.object_info())
    script = Path(__file__).with_name("layout_browser.mjs")
    report = browse(script, front_end, vue, workflows=paths, shows=shows)
    assert WORKFLOWS and set(report) == set(WORKFLOWS)
    for name, seen in report.items():
        assert seen["nodes"] == len(json.loads(WORKFLOWS[name].read_text(encoding="utf-8"))["nodes"]), name
    wrong = {name: seen["covered"] + seen["torn"] for name, seen in report.items()}
    assert {name: nodes for name, nodes in wrong.items() if nodes} == {}


def test_notes_can_be_read():
    """Code marks come out blue on the note's brown in the new renderer."""
    for path in WORKFLOWS.values():
        assert "`" not in path.read_text(encoding="utf-8"), path.name
