"""The Flow Canvas in a real Chromium against the real front end, in both of its renderers, drawn with the mouse.

Needs a browser; see tests/browser.py.
"""

import colorsys
import io
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from palimpsest.guidance.flow.canvas import canvas_flow, parse_canvas
from palimpsest.guidance.flow.warp import forward_warp, land
from palimpsest.papercut.scenes import SPLITS, Scene, sample_scene
from palimpsest.papercut.shapes import COLOURS
from PIL import Image

from ..browser import browse, needs_browser

pytestmark = needs_browser


def node(number, kind, x, size, inputs=(), outputs=(), values=()):
    return {
        "id": number, "type": kind, "pos": [x, 100], "size": size, "flags": {}, "order": number, "mode": 0,
        "inputs": [{"name": name, "type": type_, "link": link} for name, type_, link in inputs],
        "outputs": [{"name": name, "type": type_, "links": links} for name, type_, links in outputs],
        "properties": {}, "widgets_values": list(values),
    }  # fmt: skip


def workflow(picture):
    """Load Image -> Flow Canvas -> Flow Warp -> Preview Image."""
    return {
        "version": 0.4, "last_node_id": 4, "last_link_id": 5, "groups": [], "config": {}, "extra": {},
        "nodes": [
            node(1, "LoadImage", 0, [300, 320], (), [("IMAGE", "IMAGE", [1, 2]), ("MASK", "MASK", [])],
                 [picture, "image"]),
            node(2, "PalimpsestFlowCanvas", 400, [560, 720], [("image", "IMAGE", 1)],
                 [("flow", "FLOW", [3]), ("layers", "MASK", [4]), ("regions", "MASK", [])], [""]),
            node(3, "PalimpsestFlowWarp", 1050, [300, 200],
                 [("flow", "FLOW", 3), ("image", "IMAGE", 2), ("layers", "MASK", 4)], [("image", "IMAGE", [5])], [0]),
            node(4, "PreviewImage", 1400, [300, 300], [("images", "IMAGE", 5)]),
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"], [2, 1, 0, 3, 1, "IMAGE"], [3, 2, 0, 3, 0, "FLOW"],
                  [4, 2, 1, 3, 2, "MASK"], [5, 3, 0, 4, 0, "IMAGE"]],
    }  # fmt: skip


def scene_of_one_plain_thing():
    """A test scene whose thing is plain, on a plain ground: its colours are what Pick is for."""
    for seed in SPLITS["test"]:
        scene = sample_scene(seed, objects=1)
        thing = scene.objects[0]
        inside = all(60 < v < 180 for v in (thing.x, thing.y)) and thing.size < 45
        if inside and thing.pattern == "plain" and thing.shape in ("circle", "square", "heart"):
            return scene


def assert_ghost_and_arrows(before, during, mask, move, thing):
    """While the button is down: the thing's colours stand where it goes, what was there is dark, arrows lead across."""
    before, during = (torch.tensor(rows, dtype=torch.float32) for rows in (before, during))
    goal = mask.roll(move[::-1], (0, 1))
    colour = 255 * torch.tensor(COLOURS[thing.colour])
    like = lambda picture, other, reach: (picture - other).norm(dim=-1) < reach
    assert like(during, colour, 60)[goal & ~mask].float().mean() > 0.6
    assert like(before, colour, 60)[goal & ~mask].float().mean() < 0.1
    assert (during[mask & ~goal].mean(-1) < before[mask & ~goal].mean(-1)).float().mean() > 0.6
    # hsl(205, 95%, 62%), the first region's arrows.
    arrow = torch.tensor(colorsys.hls_to_rgb(205 / 360, 0.62, 0.95)) * 255
    seen = [int(like(picture, arrow, 30)[mask | goal].sum()) for picture in (before, during)]
    assert seen[1] > seen[0] + 40, seen


class Drawn(NamedTuple):
    """scene: what the canvas shows; pixels: (256, 256, 3) uint8. report: what the page said; stages: its canvas texts,
    read, by what had just been done. client: of the host that ran the workflow."""

    scene: Scene
    pixels: torch.Tensor
    report: dict
    stages: dict
    client: object

    def covered(self, stage):
        """(regions, 256, 256): what the regions cover."""
        return canvas_flow(self.stages[stage], 256, 256)[2]

    @property
    def found(self):
        """(256, 256) bool: of the thing, what Pick has found."""
        return self.scene.masks()[0] & (self.covered("picked")[0] > 0)


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "nodes 2.0"])
def drawn(request, front_end, tmp_path_factory):
    """One drawing with the mouse, from the pick to the run."""
    scene = scene_of_one_plain_thing()
    pixels = (scene.render().permute(1, 2, 0) * 255).round().byte()
    path = tmp_path_factory.mktemp("canvas") / "canvas_scene.png"
    Image.fromarray(pixels.numpy()).save(path)
    name, thing = front_end.client.upload(path), scene.objects[0]
    script = Path(__file__).with_name("canvas_browser.mjs")
    report = browse(
        script,
        front_end,
        request.param,
        workflow=workflow(name),
        point=[round(thing.x), round(thing.y)],
        modules="/extensions/palimpsest/flow_canvas",
    )
    names = "picked moved turned scaled stretched pivoted undone redone painted nudged two more still".split()
    return Drawn(scene, pixels, report, {key: parse_canvas(report[key]) for key in names}, front_end.client)


def test_a_thing_is_picked_moved_turned_and_scaled(drawn):
    mask, picked = drawn.scene.masks()[0], drawn.covered("picked")[0] > 0
    assert float((mask & picked).sum() / (mask | picked).sum()) > 0.9
    [moved] = drawn.stages["moved"].regions
    assert moved.move == pytest.approx((40, 12), abs=1.01) and moved.turn == 0
    assert drawn.stages["turned"].regions[0].turn == pytest.approx(30, abs=1.5)
    assert drawn.stages["scaled"].regions[0].scale == pytest.approx((1.25, 1.25), abs=0.05)
    before, after = (drawn.stages[key].regions[0].scale for key in ("scaled", "stretched"))
    assert after[0] == pytest.approx(1.2 * before[0], abs=0.05) and after[1] == before[1]


def test_a_drag_shows_where_the_thing_goes(drawn):
    report, thing = drawn.report, drawn.scene.objects[0]
    assert_ghost_and_arrows(report["still_there"], report["dragged"], drawn.found, (40, 12), thing)


def test_the_pivot_goes_elsewhere_and_the_thing_does_not(drawn):
    """Every point of it lands where it did."""
    stages = drawn.stages
    goals = [canvas_flow(stages[key], 256, 256)[0][0][drawn.found] for key in ("scaled", "pivoted")]
    assert (goals[0] - goals[1]).abs().max() < 0.1
    assert stages["pivoted"].regions[0].pivot != stages["scaled"].regions[0].pivot


def test_what_was_done_is_undone_done_again_and_deleted(drawn):
    report = drawn.report
    assert report["undone"] == report["clicked"] == report["turned"]
    assert report["redone"] == report["scaled"] and report["deleted"] == ""


def test_regions_are_painted_nudged_and_kept_still(drawn):
    stages, painted, more = drawn.stages, drawn.covered("painted"), drawn.covered("more")
    assert len(painted) == 2 and painted[0, 200, 190] == painted[0, 214, 190] == 1 and painted[0, 230, 190] == 0
    assert stages["nudged"].regions[0].move == (1, 10) and stages["painted"].regions[0].move == (0, 0)
    assert len(stages["two"].regions) == 2 and stages["still"].regions[0].still and not stages["two"].regions[0].still
    assert len(more) == 2 and more[0, 20, 20] == more[0, 20, 70] == 1 and more[0, 20, 50] == 0
    chips = [[int(value) / 255 for value in re.findall(r"\d+", chip)[:3]] for chip in drawn.report["chips"]]
    hues = [360 * colorsys.rgb_to_hls(*colour)[0] for colour in chips]
    assert hues == pytest.approx([28, 205], abs=2)


def test_the_drawing_is_kept_with_the_workflow(drawn):
    assert drawn.report["loaded"] == drawn.report["still"] == drawn.report["kept"]


def test_the_backdrop_is_the_picture_of_the_last_run(drawn):
    """Nothing of a picture is known before a run: the dark backdrop; after it the negative."""
    report = drawn.report
    assert max(report["unknown"]) < 60 and report["rerun"][0] == "execution_success"
    # Both are scaled and rounded to whole levels of a byte, so they may be one apart; another picture is far off.
    assert report["inverted"] == pytest.approx([255 - value for value in report["given"]], abs=4)


def test_what_runs_is_what_was_drawn(drawn):
    kind, detail = drawn.report["run"]
    assert kind == "execution_success", detail
    history = drawn.client.json(f"/history/{detail['prompt_id']}")[detail["prompt_id"]]
    file = history["outputs"]["4"]["images"][0]
    shown = Image.open(io.BytesIO(drawn.client.view(file))).convert("RGB")
    made = torch.tensor(list(shown.getdata())).reshape(256, 256, 3)
    flow, layers, _ = canvas_flow(drawn.stages["still"], 256, 256)
    source = (drawn.pixels.float() / 255).permute(2, 0, 1)[None]
    expected = forward_warp(source, land(flow, layers))[0].permute(1, 2, 0) * 255
    assert (made - expected).abs().max() <= 1.0
