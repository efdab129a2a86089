"""The canvas's JSON means the same in Python as in the editor, and damaged drawings are named."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from palimpsest.guidance.flow.canvas import canvas_flow, parse_canvas
from palimpsest.guidance.flow.fields import Transform, moving, resize_flow, transform_flow

WEB = Path(__file__).resolve().parents[2] / "web"
SQUARE = {"area": {"polygon": [[9.5, 9.5], [29.5, 9.5], [29.5, 24.5], [9.5, 24.5]]}, "pivot": [20, 17]}


def drawing(*regions, width=60, height=40):
    return parse_canvas(json.dumps({"version": 1, "width": width, "height": height, "regions": list(regions)}))


def test_a_region_moves_as_the_transform_node_would_move_it():
    region = SQUARE | {"move": [7, -3], "turn": 30, "scale": [1.5, 0.8]}
    flow, layers, areas = canvas_flow(drawing(region), 40, 60)
    mask = torch.zeros(1, 40, 60)
    mask[:, 10:25, 10:30] = 1
    assert torch.equal(areas, mask)
    change = Transform((7, -3), 30, scale=0.8, stretch=1.5 / 0.8)
    assert torch.allclose(flow, transform_flow(mask, change, torch.tensor([20.0, 17.0])))
    assert torch.equal(layers > 0, moving(flow))


def test_runs_are_a_raster_row_by_row():
    runs = [3, 2, 1 + 60 * 39 + 54]
    region = {"area": {"runs": runs, "size": [60, 40]}, "pivot": [0, 0], "move": [4, 0]}
    flow, _, areas = canvas_flow(drawing(region), 40, 60)
    assert torch.nonzero(areas[0]).tolist() == [[0, 3], [0, 4]]
    assert flow[0, 0, 3].tolist() == [4.0, 0.0]


def test_the_first_region_is_nearest_and_a_still_one_hides():
    other = {"area": {"ellipse": [30, 17, 8, 8]}, "pivot": [30, 17], "move": [0, 5]}
    flow, layers, _ = canvas_flow(drawing(SQUARE | {"move": [3, 0]}, other), 40, 60)
    assert flow[0, 17, 25].tolist() == pytest.approx([3, 0], abs=1e-5)
    assert flow[0, 17, 34].tolist() == pytest.approx([0, 5], abs=1e-5)
    assert layers[0, 17, 25] > layers[0, 17, 34] > layers[0, 0, 0] == 0
    flow, layers, _ = canvas_flow(drawing(SQUARE | {"still": True}, other), 40, 60)
    assert not moving(flow)[0, 17, 25] and layers[0, 17, 25] > layers[0, 17, 34] > 0


def test_a_picture_of_another_size_scales_the_drawing():
    region = SQUARE | {"move": [6, -2], "turn": 20, "scale": [1.2, 1.2]}
    small, _, _ = canvas_flow(drawing(region), 40, 60)
    large, _, areas = canvas_flow(drawing(region), 80, 120)
    expected = resize_flow(small, 80, 120)
    inner = torch.zeros(80, 120, dtype=torch.bool)
    inner[24:46, 24:56] = True
    assert (large - expected)[0][inner].abs().max() < 0.05
    assert float(areas.sum()) == 4 * 15 * 20


def test_empty_and_damaged_drawings():
    assert parse_canvas("") is None and parse_canvas('{"width": 4, "height": 4, "regions": []}') is None
    good = SQUARE
    bad = [
        {"area": {"runs": [1, 2], "size": [60, 40]}},
        {"area": {"polygon": [[1, 2]]}},
        {"area": {}},
        {},
        good | {"scale": [0, 1]},
        good | {"move": [1]},
        good | {"turn": "x"},
        good | {"move": [float("inf"), 0]},
    ]
    for region in bad:
        with pytest.raises(ValueError, match="reset the canvas"):
            drawing(region)
    for text in ("[]", "nonsense", '{"regions": 3}', '{"version": 9, "width": 4, "height": 4, "regions": [1]}'):
        with pytest.raises(ValueError, match="reset the canvas"):
            parse_canvas(text)


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed; the editor's modules run in it")
def test_the_editors_own_modules_write_what_python_reads(tmp_path):
    shutil.copytree(WEB / "flow_canvas", tmp_path / "flow_canvas")
    shutil.copy(Path(__file__).with_name("canvas_model.mjs"), tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    run = subprocess.run(["node", "canvas_model.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    canvas = parse_canvas(report["text"])
    assert canvas.regions[0].turn == 90 and canvas.regions[0].scale == (1.5, 1.5)
    flow, _, areas = canvas_flow(canvas, 160, 200)
    for (x, y), goal in report["goals"]:
        assert areas[0, y, x] == 1
        assert (torch.tensor([x, y]) + flow[0, y, x]).tolist() == pytest.approx(goal, abs=1e-3)
    assert report["back"] == pytest.approx([33, 44])
    assert report["pivotKept"][1] == pytest.approx(report["pivotKept"][0], abs=0.02)
    assert report["knobs"] == [[50, 30], [50, 70]]  # the second would lie above the picture
    assert report["counts"] == [2, 1, 2]
    assert report["brush"][0] == [94, 94, 136, 106]
    assert report["picked"] == 9  # the ring and its hole
    # Undo and redo outlive a picture of another size.
    larger = parse_canvas(report["larger"])
    assert (larger.width, larger.height) == (400, 320) and report["removedAgain"] == 0
    assert larger.regions[0].move == pytest.approx([2 * v for v in canvas.regions[0].move])
    assert report["backAgain"] == pytest.approx(list(canvas.regions[0].move))
    assert report["runs"] == [3, 2, 1] and report["reread"] and report["emptied"] == 0
