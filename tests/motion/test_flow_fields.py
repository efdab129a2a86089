"""Flow builders: transforms, drags and their composition, against closed forms."""

import json

import pytest
import torch
from palimpsest.guidance.flow.fields import (
    Transform,
    check_flow,
    compose_flows,
    described,
    moving,
    pixel_grid,
    resize_flow,
    transform_flow,
)
from palimpsest.guidance.flow.points import drag_pairs, parse_points, points_flow, track_pairs


@pytest.fixture
def mask():
    mask = torch.zeros(1, 40, 50)
    mask[:, 8:30, 10:35] = 1
    return mask


def test_the_identity_is_exactly_zero(mask):
    assert not moving(transform_flow(mask, Transform())).any()
    assert not moving(transform_flow(mask, Transform(turn=360.0))).any()


def test_turning_leaves_the_pivot_and_turns_clockwise(mask):
    pivot = torch.tensor([20.0, 15.0])
    flow = transform_flow(mask, Transform(turn=90), pivot)
    assert torch.allclose(flow[0, 15, 20], torch.zeros(2), atol=1e-6)
    # A point right of the pivot goes below it: y runs down, so that is clockwise on the screen.
    assert torch.allclose(flow[0, 15, 25], torch.tensor([-5.0, 5.0]), atol=1e-5)
    assert not moving(flow)[0, 0:8].any()


def test_stretch_acts_along_its_line_only(mask):
    flow = transform_flow(mask, Transform(stretch=2, stretch_angle=90), torch.tensor([20.0, 15.0]))
    assert torch.allclose(flow[0, 20, 28], torch.tensor([0.0, 5.0]), atol=1e-5)


def test_perspective_is_a_homography(mask):
    flow = transform_flow(mask, Transform(perspective=(0.5, 0.0)), torch.tensor([20.0, 15.0]))
    goal = pixel_grid(40, 50) + flow[0]
    # Straight lines stay straight: three points of a slanted line inside the region.
    a, b, c = goal[10, 12], goal[16, 20], goal[22, 28]
    assert abs(float((b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0])) < 1e-3
    assert float(flow[0, 15, 34, 0]) < 0


def test_bad_regions_are_named(mask):
    with pytest.raises(ValueError, match="mask is empty"):
        transform_flow(torch.zeros(1, 8, 8), Transform(turn=3))
    with pytest.raises(ValueError, match="inside out"):
        transform_flow(mask, Transform(perspective=(-0.9, -0.9)), torch.tensor([12.0, 9.0]))
    with pytest.raises(ValueError, match="NaN"):
        check_flow(torch.full((1, 4, 4, 2), torch.nan))
    with pytest.raises(ValueError, match="not a flow"):
        check_flow(torch.zeros(1, 2, 4, 4))


def test_resizing_scales_the_vectors_with_the_picture(mask):
    flow = transform_flow(mask, Transform(move=(6.0, -4.0)))
    large = resize_flow(flow, 80, 150)
    assert torch.allclose(large[0, 40, 60], torch.tensor([18.0, -8.0]))
    values = large[moving(large)]
    assert torch.allclose(values, torch.tensor([18.0, -8.0]).expand_as(values), atol=1e-4)  # no half-moving rim
    assert torch.equal(resize_flow(flow, 40, 50), flow)


def test_one_point_moves_two_turn_and_three_bend(mask):
    starts = torch.tensor([[12.0, 10.0], [30.0, 12.0], [20.0, 28.0]])
    ends = starts + torch.tensor([[2.0, 0.0], [2.0, 3.0], [-1.0, 1.0]])
    move = points_flow(mask, starts[:1], ends[:1])
    assert torch.equal(move[0][mask[0] > 0].unique(dim=0), torch.tensor([[2.0, 0.0]]))
    for count, kind in ((2, "similarity"), (3, "thin plate")):
        flow = points_flow(mask, starts[:count], ends[:count], kind)
        for a, b in zip(starts[:count].long(), (ends - starts)[:count]):
            assert torch.allclose(flow[0, a[1], a[0]], b, atol=1e-4)


def test_stiff_fits_recover_a_known_motion(mask):
    change = Transform(move=(3.0, -2.0), turn=25.0)
    pivot = torch.tensor([22.0, 18.0], dtype=torch.float64)
    starts = torch.tensor([[12.0, 10.0], [30.0, 12.0], [20.0, 28.0], [25.0, 20.0]], dtype=torch.float64)
    ends = (starts - pivot) @ change.matrix().T + pivot + torch.tensor(change.move, dtype=torch.float64)
    expected = transform_flow(mask, change, pivot)
    for kind in ("rigid", "similarity", "thin plate"):
        assert torch.allclose(points_flow(mask, starts, ends, kind), expected, atol=1e-4), kind


def test_points_that_go_nowhere_move_nothing(mask):
    points = torch.tensor([[12.0, 10.0], [30.0, 12.0], [20.0, 28.0], [25.0, 20.0]])
    for kind in ("rigid", "similarity", "thin plate", "move"):
        assert not moving(points_flow(mask, points, points, kind)).any()


def test_a_pinned_edge_stays(mask):
    flow = points_flow(mask, torch.tensor([[22.0, 18.0]]), torch.tensor([[25.0, 18.0]]), pin_edge=True)
    assert torch.allclose(flow[0, 18, 22], torch.tensor([3.0, 0.0]), atol=1e-3)
    assert flow[0, 8, 10:35].norm(dim=-1).max() < 0.5


def test_the_front_flow_has_shared_pixels_and_the_front_layer():
    a, b = torch.zeros(1, 4, 6, 2), torch.zeros(1, 4, 6, 2)
    a[:, :, 0:3, 0], b[:, :, 2:5, 1] = 1.0, -1.0
    flow, layers = compose_flows([a, b])
    assert flow[0, 0, 2].tolist() == [1.0, 0.0] and flow[0, 0, 3].tolist() == [0.0, -1.0]
    assert layers[0, 0, 2] > layers[0, 0, 3] > layers[0, 0, 5] == 0
    still = torch.zeros(1, 4, 6)
    still[:, :, 0] = 1
    flow, layers = compose_flows([a, b], still)
    assert not moving(flow)[0, :, 0].any() and layers[0, 0, 0] > layers[0, 0, 1]


def test_point_files_of_the_common_editors():
    spline = [{"x": 1, "y": 2}, {"x": 5, "y": 2}, {"x": 9, "y": 7}]
    assert parse_points(json.dumps(spline)) == [[(1.0, 2.0), (5.0, 2.0), (9.0, 7.0)]]
    starts, ends = drag_pairs(parse_points(json.dumps([spline, [[3, 4], [6, 8]]])))
    assert starts.tolist() == [[1, 2], [3, 4]] and ends.tolist() == [[9, 7], [6, 8]]
    for bad in ("nonsense", "{}", "[1, 2]", '[[{"x": "a", "y": 1}]]'):
        with pytest.raises(ValueError, match="points"):
            parse_points(bad)
    with pytest.raises(ValueError, match="no point"):
        drag_pairs(parse_points("[]"))
    path = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 6.0]]])
    starts, ends = track_pairs({"track_path": path, "track_visibility": torch.ones(3, 1, dtype=torch.bool)})
    assert starts.tolist() == [[1, 2]] and ends.tolist() == [[5, 6]]


def test_tracked_points_that_are_hidden_at_an_end_drag_nothing():
    path = torch.arange(24.0).reshape(3, 4, 2)
    seen = torch.ones(3, 4, dtype=torch.bool)
    seen[0, 1] = seen[2, 2] = seen[1, 3] = False  # hidden at first, at last, on the way
    starts, ends = track_pairs({"track_path": path, "track_visibility": seen})
    assert torch.equal(starts, path[0, [0, 3]].double()) and torch.equal(ends, path[2, [0, 3]].double())
    frames = torch.ones(3, 1, dtype=torch.bool)
    assert len(track_pairs({"track_path": path, "track_visibility": frames})[0]) == 4
    frames[2] = False
    with pytest.raises(ValueError, match="seen in both the first and the last frame"):
        track_pairs({"track_path": path, "track_visibility": frames})


def test_how_much_moves_is_said_in_plain_numbers():
    flow = torch.ones(1, 10, 10, 2)
    assert described(flow[0]) == "100 % of the picture moved 1 px to the right and 1 px down."
    flow[:, 2:] = 0
    assert described(flow[0]) == "20 % of the picture moved 1 px to the right and 1 px down."
