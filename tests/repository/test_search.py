"""What artists type into the front end's search finds the right node of the pack. Needs a browser (browser.py)."""

from pathlib import Path

from ..browser import browse, needs_browser

FIRST = {
    "unsampler": "PalimpsestDDIMInvert",
    "ddim inversion": "PalimpsestDDIMInvert",
    "interpolate": "PalimpsestLoRAInterpolator",
    "remove object": "PalimpsestDiffEditMask",
    "mask from prompt": "PalimpsestDiffEditMask",
    "inpaint": "PalimpsestDiffEditMask",
    "before after": "PalimpsestEditReport",
    "edit image": "PalimpsestPromptToPrompt",
    "replace word": "PalimpsestPromptToPrompt",
    "style": "PalimpsestAttentionBlend",
    "animation": "PalimpsestMorphSchedule",
    "crossfade": "PalimpsestMorphSchedule",
    "motion brush": "PalimpsestFlowCanvas",
    "drag": "PalimpsestFlowCanvas",
    "scribble": "PalimpsestSketchPrepare",
    "line art": "PalimpsestSketchPrepare",
}


@needs_browser
def test_the_search_finds_the_right_node_first_among_ours_and_on_its_first_page(front_end):
    found = browse(Path(__file__).with_name("search_browser.mjs"), front_end, False, queries=list(FIRST))["found"]
    first = {
        query: next((name for name in names if name.startswith("Palimpsest")), None) for query, names in found.items()
    }
    assert first == FIRST
