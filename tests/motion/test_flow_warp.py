"""Warping: exact for translations and affine motions, and true to the scenes' own occlusions."""

import pytest
import torch
import torch.nn.functional as F
from palimpsest.guidance.flow.fields import Transform, pixel_grid, transform_flow
from palimpsest.guidance.flow.warp import backward_warp, fill_smoothly, forward_warp, land, sample
from palimpsest.guidance.morphology import dilate
from palimpsest.papercut.scenes import SPLITS, rearranged, sample_scene


def square(size=48, low=12, high=28):
    mask = torch.zeros(1, size, size)
    mask[:, low:high, low:high] = 1
    return mask


def picture(size=48, channels=3):
    return torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(0))


def iou(a, b):
    return float((a & b).sum() / (a | b).sum().clamp_min(1))


def test_a_whole_pixel_move_is_exact_to_the_bit():
    image, mask = picture(), square()
    landing = land(transform_flow(mask, Transform(move=(9, -5))))
    warped = forward_warp(image, landing)
    inside = mask[0] > 0
    target = inside.roll((-5, 9), (0, 1))
    assert torch.equal(landing.arrived[0], target)
    assert torch.equal(warped[..., target], image[..., inside])
    untouched = ~(inside | target)
    assert torch.equal(warped[..., untouched], image[..., untouched])
    assert torch.equal(landing.uncovered[0], inside & ~target)
    assert torch.equal(landing.occluded[0], target & ~inside)


def test_a_fractional_move_reads_the_source_at_exactly_the_shifted_points():
    landing = land(transform_flow(square(), Transform(move=(3.25, 7.5))))
    expected = pixel_grid(48, 48) - torch.tensor([3.25, 7.5])
    error = (landing.source[0] - expected)[landing.arrived[0]].abs().max()
    assert error < 1e-4


@pytest.mark.parametrize(
    "change",
    [
        Transform(turn=33.0),
        Transform(scale=2.6),
        Transform(scale=0.4),
        Transform(stretch=1.9, stretch_angle=30.0),
        Transform(move=(4, 2), turn=-70.0, scale=1.4, stretch=0.6, stretch_angle=10.0),
    ],
)
def test_affine_motions_are_inverted_exactly_and_leave_no_holes(change):
    mask = square(64, 22, 41)
    pivot = torch.tensor([30.3, 31.6])
    landing = land(transform_flow(mask, change, pivot))
    grid = pixel_grid(64, 64, dtype=torch.float64)
    inverse = torch.linalg.inv(change.matrix())
    expected = (grid - pivot - torch.tensor(change.move)) @ inverse.T + pivot
    inner = ((expected > 23) & (expected < 39)).all(-1)
    assert landing.arrived[0][inner].all()
    assert (landing.source[0] - expected)[inner].abs().max() < 2e-3
    outer = ((expected < 20.5) | (expected > 41.5)).any(-1)
    assert not landing.arrived[0][outer].any()
    assert not landing.occluded[0][22:41, 22:41].any()


def test_zero_flow_is_the_same_picture_to_the_last_bit():
    image, flow = picture(), torch.zeros(1, 48, 48, 2)
    landing = land(flow)
    assert torch.equal(forward_warp(image, landing, grow=8), image)
    assert torch.equal(backward_warp(image, flow), image)
    assert not (landing.occluded | landing.uncovered | landing.arrived | landing.edit_mask(5)).any()


def test_the_front_layer_wins_and_a_still_thing_in_front_hides_what_passes():
    flow = torch.zeros(1, 16, 16, 2)
    flow[:, 4:8, 2:6, 0] = 6
    flow[:, 4:8, 10:14, 0] = -2
    layers = torch.zeros(1, 16, 16)
    layers[:, 4:8, 2:6], layers[:, 4:8, 10:14] = 0.7, 0.3
    front = land(flow, layers).source[0, 5, 9]
    back = land(flow, torch.where(layers > 0, 1 - layers, 0)).source[0, 5, 9]
    assert front.tolist() == [3.0, 5.0] and back.tolist() == [11.0, 5.0]
    flow[:, 4:8, 10:14] = 0
    layers[:, 4:8, 10:14] = 1
    landing = land(flow, layers)
    assert landing.occluded[0, 4:8, 4:6].all() and not landing.occluded[0, 4:8, 10:14].any()


def test_what_leaves_the_picture_is_occluded_and_covers_nothing():
    landing = land(transform_flow(square(), Transform(move=(100, 0))))
    assert landing.occluded[0, 12:28, 12:28].all() and not landing.arrived.any()


def test_occluded_and_uncovered_equal_the_scenes_ground_truth():
    overlap = torch.zeros(2, 2)
    for seed in SPLITS["test"][:16]:
        scene = sample_scene(seed)
        motion = scene.motion_to(rearranged(scene, seed))
        layers = (scene.labels() + 1)[None].float() / (len(scene.objects) + 1)
        landing = land(motion.flow[None], layers)
        found, true = (torch.stack([it.occluded.squeeze(), it.uncovered.squeeze()]) for it in (landing, motion))
        overlap += torch.stack([(found & true).sum((1, 2)), (found | true).sum((1, 2))], dim=1)
        # Scene by scene, both regions at once: one may be a few pixels, of which no grid can place the outline.
        assert iou(found, true) >= 0.95
    assert (overlap[:, 0] / overlap[:, 1] >= 0.975).all()


def test_sampling_agrees_with_grid_sample_and_with_finite_differences():
    image = picture().double()
    points = (pixel_grid(48, 48, dtype=torch.float64) + 20 * torch.randn(48, 48, 2, dtype=torch.float64))[None]
    unit = 2 * points / 47 - 1
    for padding in ("border", "reflection"):
        expected = F.grid_sample(image, unit, align_corners=True, padding_mode=padding)
        assert torch.allclose(sample(image, points, padding=padding), expected, atol=1e-9)
    image = picture(6).double().requires_grad_()
    points = (5 * torch.rand(1, 4, 4, 2, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda i, p: sample(i, p), (image, points))


def test_holes_take_the_colour_around_them():
    image = torch.full((1, 3, 20, 31), 0.25)
    holes = torch.zeros(1, 20, 31, dtype=torch.bool)
    holes[:, 5:14, 7:20] = True
    image[holes[:, None].expand_as(image)] = 0.9
    assert torch.allclose(fill_smoothly(image, holes), torch.full_like(image, 0.25), atol=1e-5)
    known = ~holes[:, None].expand_as(image)
    assert torch.equal(fill_smoothly(image, holes)[known], image[known])


def test_a_thing_does_not_run_into_the_place_that_it_left():
    image = torch.full((2, 3, 48, 48), 0.25)
    image[:, :, 12:28, 12:28] = 0.9
    mask = torch.cat((square(), torch.ones(1, 48, 48)))
    landing = land(transform_flow(mask, Transform(move=(5, 0), turn=20.0)))
    warped = forward_warp(image, landing, grow=3)
    bare = landing.to_fill(3)[0]
    assert bare.any() and torch.allclose(warped[0][:, bare], torch.tensor(0.25), atol=1e-4)
    assert torch.isfinite(warped).all() and landing.to_fill(3)[1].any()  # all of it moved: filled from what there is


def test_dilation_is_a_disc():
    mask = torch.zeros(1, 21, 21, dtype=torch.bool)
    mask[:, 10, 10] = True
    offset = pixel_grid(21, 21) - 10
    assert torch.equal(dilate(mask, 6)[0], offset.norm(dim=-1) <= 6.05)


def test_batches_do_not_talk_to_each_other():
    flows = torch.cat([transform_flow(square(), Transform(move=(5, 1))), transform_flow(square(), Transform(turn=20))])
    both, alone = land(flows), land(flows[1:])
    assert torch.equal(both.source[1:], alone.source) and torch.equal(both.occluded[1:], alone.occluded)
