"""Points as spline and point editors of other packs write them, and what cannot be pixels."""

import json

import pytest
import torch
from palimpsest.guidance.flow.points import drag_pairs, parse_points, require_drags

DRAG = [(96.0, 128.0), (140.0, 128.0)]
OTHER = [(160.0, 128.0), (160.0, 90.0)]


def dicts(curve):
    return [{"x": x, "y": y} for x, y in curve]


@pytest.mark.parametrize(
    "points, curves",
    [
        (str(dicts(DRAG)), [DRAG]),  # Python's own spelling, with single quotes
        ([json.dumps(dicts(DRAG)), json.dumps(dicts(OTHER))], [DRAG, OTHER]),  # a list of texts
        ([str(dicts(DRAG))], [DRAG]),
        (dicts(DRAG), [DRAG]),
        ([dicts(DRAG), dicts(OTHER)], [DRAG, OTHER]),
        (json.dumps([{"x": "96", "y": "128.0"}, {"x": "140", "y": "128"}]), [DRAG]),  # numbers as text
        (json.dumps([json.dumps(dicts(DRAG)), json.dumps(dicts(OTHER))]), [DRAG, OTHER]),  # texts within a text
        (tuple(dicts(DRAG)), [DRAG]),
    ],
)
def test_every_spelling_of_a_drag_is_read(points, curves):
    assert parse_points(points) == curves


@pytest.mark.parametrize("points", [None, 5, "x = 1", [[1, 2, 3]], "[{'x': __import__('os')}]", '[{"x": NaN, "y": 1}]'])
def test_what_holds_no_points_is_one_sentence(points):
    with pytest.raises(ValueError, match=r"^The input 'points' ") as caught:
        parse_points(points)
    assert caught.value.args[0].count("\n") == 0


def drags(*curves):
    return drag_pairs([list(curve) for curve in curves])


def test_drags_in_pixels_pass():
    require_drags(*drags(DRAG, OTHER), (256, 256))
    require_drags(*drags([(0, 0), (0, 0)], DRAG), (256, 256))  # one point stays, another moves
    require_drags(*drags([(250, 128), (300, 128)]), (256, 256))  # out of the picture, by less than its size
    require_drags(*drags([(0.0, 0.5), (1.0, 0.5)]), (1, 2))  # a picture of one pixel has no fractions


@pytest.mark.parametrize(
    "curve, words",
    [
        ([(0.375, 0.5), (0.547, 0.5)], "look like fractions"),
        ([(1400, 20), (1500, 20)], "outside the picture"),
        ([(20, 20), (20, -600)], "outside the picture"),
        ([(20, 20)], "move nothing"),
        ([(20, 20), (60, 20), (20, 20)], "move nothing"),
    ],
)
def test_points_that_cannot_be_a_drag_in_pixels_are_refused(curve, words):
    with pytest.raises(ValueError, match=f"^The input 'points'.*{words}"):
        require_drags(*drags(curve), (256, 256))


def test_fractions_are_pixels_once_the_editor_is_one_pixel_large():
    from palimpsest.nodes.flow import FlowFromPoints

    mask = torch.ones(1, 64, 128)
    text = json.dumps(dicts([(0.25, 0.5), (0.5, 0.5)]))
    with pytest.raises(ValueError, match="canvas_width"):
        FlowFromPoints.execute(mask, text, "move", False)
    flow = FlowFromPoints.execute(mask, text, "move", False, canvas_width=1, canvas_height=1).args[0]
    assert torch.equal(flow, torch.tensor([32.0, 0.0]).expand(1, 64, 128, 2))
