"""The nodes themselves, executed as the host executes them, and what they say to bad input."""

import json

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def nodes():
    from palimpsest.host import folders

    folders.register()
    from palimpsest.nodes import flow, flow_canvas, flow_compose, flow_files, motion, motion_report

    return {
        node.define_schema().node_id.removeprefix("Palimpsest"): node
        for module in (flow, flow_compose, flow_files, flow_canvas, motion, motion_report)
        for node in module.NODES
    }


@pytest.fixture
def mask():
    mask = torch.zeros(1, 48, 64)
    mask[:, 10:30, 12:36] = 1
    return mask


def run(node, **inputs):
    return node.execute(**inputs).args


def transform(nodes, mask, **changes):
    values = dict(move_x=0, move_y=0, turn=0, scale=1, stretch=1, stretch_angle=0) | changes
    return run(nodes["FlowFromTransform"], mask=mask, **values)[0]


def test_every_input_has_a_tooltip_and_every_node_a_description(nodes):
    for node in nodes.values():
        schema = node.define_schema()
        assert schema.description and schema.category == "Palimpsest/motion"
        for item in schema.inputs:
            assert item.tooltip, f"{schema.node_id}.{item.id}"


def test_transform_warp_and_preview(nodes, mask):
    flow = transform(nodes, mask, move_x=9)
    image = torch.rand(1, 48, 64, 3)
    moved, edit, fill, occluded, uncovered, _ = run(nodes["FlowWarp"], flow=flow, image=image, grow=0)
    assert torch.equal(moved[0, 10:30, 21:45], image[0, 10:30, 12:36])
    assert torch.equal(edit[0] > 0, (mask[0] > 0) | (mask[0] > 0).roll(9, 1))
    assert torch.equal(fill, uncovered) and float(occluded.sum()) == float(uncovered.sum()) == 20 * 9
    *pictures, report = run(nodes["FlowPreview"], flow=flow, image=image)
    assert all(picture.shape == (1, 48, 64, 3) for picture in pictures)
    assert "9 px to the right" in report


def test_a_flow_of_another_size_is_resized_and_said(nodes, mask, caplog):
    flow = transform(nodes, mask, move_x=8)
    image = torch.rand(2, 96, 128, 3)
    moved = run(nodes["FlowWarp"], flow=flow, image=image, grow=0)[0]
    assert torch.allclose(moved[:, 30:50, 50:80], image[:, 30:50, 34:64], atol=1e-5)
    assert "resized to 128 x 96" in caplog.text


def test_points_json_and_tracks_agree(nodes, mask):
    points = json.dumps([[{"x": 15, "y": 15}, {"x": 20, "y": 18}]])
    by_json = run(nodes["FlowFromPoints"], mask=mask, points=points, kind="rigid", pin_edge=False)[0]
    tracks = {"track_path": torch.tensor([[[15.0, 15.0]], [[20.0, 18.0]]])}
    by_tracks = run(nodes["FlowFromPoints"], mask=mask, points="[]", kind="rigid", pin_edge=False, tracks=tracks)[0]
    twice = run(
        nodes["FlowFromPoints"],
        mask=mask,
        points=json.dumps([[{"x": 30, "y": 30}, {"x": 40, "y": 36}]]),
        kind="rigid",
        pin_edge=False,
        canvas_width=128,
        canvas_height=96,
    )[0]
    assert torch.equal(by_json, by_tracks) and torch.equal(by_json, twice)
    assert by_json[0, 12, 20].tolist() == [5.0, 3.0]


def test_hidden_tracks_are_said_and_left_out(nodes, mask, caplog):
    path = torch.tensor([[[15.0, 15.0], [30.0, 20.0]], [[20.0, 18.0], [60.0, 40.0]]])
    seen = torch.tensor([[True, True], [True, False]])
    flows = [
        run(nodes["FlowFromPoints"], mask=mask, points="[]", kind="move", pin_edge=False, tracks=tracks)[0]
        for tracks in ({"track_path": path, "track_visibility": seen}, {"track_path": path[:, :1]})
    ]
    assert torch.equal(*flows) and "1 tracked points are not seen" in caplog.text


def test_compose_save_and_load(nodes, mask):
    a, b = transform(nodes, mask, move_x=9), transform(nodes, mask.roll(20, 2), turn=15)
    flow, layers = run(nodes["FlowCompose"], flows={"flow0": a, "flow1": b})
    for kind in ("safetensors", "npz", "flo"):
        name = run(nodes["SaveFlow"], flow=flow, filename_prefix="sub/test", format=kind, layers=layers)[0]
        loaded, order = run(nodes["LoadFlow"], file=name)
        assert torch.equal(loaded, flow) and (kind == "flo" or torch.equal(order, layers))
    mark = nodes["LoadFlow"].fingerprint_inputs
    assert mark(file=name) and mark(file="gone.flo") == ""


def test_an_array_of_numpy_is_listed_and_read(nodes):
    from palimpsest.host import folders

    flow = torch.ones(8, 12, 2)
    path = folders.new_file("flows", "of numpy", ".npy")
    np.save(path, flow.numpy())
    try:
        listed = [one for one in nodes["LoadFlow"].define_schema().inputs[0].options if path.name in one]
        assert len(listed) == 1 and torch.equal(run(nodes["LoadFlow"], file=listed[0])[0], flow[None])
    finally:
        path.unlink()


def test_the_canvas_without_and_with_a_drawing(nodes, caplog):
    image = torch.rand(1, 48, 64, 3)
    result = nodes["FlowCanvas"].execute(image=image, canvas="")
    assert not result.args[0].any() and "Nothing is drawn" in caplog.text and len(result.ui["palimpsest_picture"]) == 1
    region = {"area": {"ellipse": [30, 20, 9, 6]}, "pivot": [30, 20], "move": [5, 0]}
    text = json.dumps({"version": 1, "width": 64, "height": 48, "regions": [region]})
    flow, layers, regions = nodes["FlowCanvas"].execute(image=image, canvas=text).args
    assert flow[0, 20, 30].tolist() == [5.0, 0.0] and layers[0, 20, 30] == 1 and regions.shape == (1, 48, 64)


@pytest.mark.parametrize(
    "node, inputs, message",
    [
        (
            "FlowFromTransform",
            dict(mask=torch.zeros(1, 8, 8), move_x=0, move_y=0, turn=1, scale=1, stretch=1, stretch_angle=0),
            "empty",
        ),
        ("FlowFromPoints", dict(mask=torch.ones(1, 8, 8), points="[]", kind="rigid", pin_edge=False), "no point"),
        (
            "FlowFromPoints",
            dict(mask=torch.ones(1, 8, 8), points="x", kind="rigid", pin_edge=False),
            "neither JSON nor a list",
        ),
        ("FlowPreview", dict(flow=torch.full((1, 8, 8, 2), torch.nan)), "NaN"),
        ("FlowWarp", dict(flow=torch.zeros(1, 8, 8, 3), image=torch.zeros(1, 8, 8, 3)), "not a flow"),
        (
            "FlowWarp",
            dict(flow=torch.zeros(1, 8, 8, 2), image=torch.zeros(1, 8, 8, 3), layers=torch.full((1, 8, 8), torch.nan)),
            "'layers' holds values that are not numbers",
        ),
        ("FlowCompose", dict(flows={}), "No flow is connected"),
        ("LoadFlow", dict(file="../../secret.flo"), "plain name"),
        (
            "FlowFromImages",
            dict(
                optical_flow=None,
                first=torch.zeros(1, 8, 8, 3),
                second=torch.zeros(1, 8, 8, 3),
                strength=1.0,
                still_below=1.0,
            ),
            "Load Optical Flow Model",
        ),
        ("FlowGuidanceReport", dict(sampler=object(), latent={}), "no guided run"),
    ],
)
def test_bad_input_is_answered_by_a_sentence(nodes, node, inputs, message):
    with pytest.raises(ValueError, match=message):
        run(nodes[node], **inputs)


def test_a_motion_out_of_the_picture_and_an_empty_edit_mask_are_named(nodes, mask, caplog):
    from palimpsest.nodes.motion import prepared

    flow = transform(nodes, mask, move_x=500)
    assert "leaves the picture" in caplog.text
    prepared(flow, None, torch.rand(1, 3, 48, 64), 4, None)
    with pytest.raises(ValueError, match="edit mask is empty"):
        prepared(flow, None, torch.rand(1, 3, 48, 64), 4, torch.zeros(1, 48, 64))
