"""Looking closely and following the moved latent: the same pull as through the whole picture, for less."""

from dataclasses import replace

import pytest
import torch
from palimpsest.guidance.flow.fields import Transform, transform_flow
from palimpsest.guidance.flow.warp import land
from palimpsest.guidance.motion.cropped_loss import cropped_loss, cut
from palimpsest.guidance.motion.guided_ddim import Guide, guided_ddim
from palimpsest.guidance.motion.loss import objective
from palimpsest.guidance.motion.recipe import MotionRecipe, Record

from .test_motion import ToySetting, decode, flow_net


def goal(moves=((9, 4),), size=32):
    masks = torch.zeros(len(moves), size, size)
    masks[:, 4:10, 3:9] = 1
    flow = torch.cat([transform_flow(mask[None], Transform(move=move)) for mask, move in zip(masks, moves)]).double()
    latent = torch.randn(len(moves), 4, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return latent, objective(decode(latent), flow, land(flow), colour=100.0, motion=3.0, grow=1)


def test_the_window_holds_all_that_arrives_and_gives_the_same_loss_and_gradient():
    latent, whole = goal(((9, 4), (20, 15)))
    cropped = cropped_loss(whole, 1)
    assert cropped.size == (12, 12) and cropped.fraction == pytest.approx(144 / 1024)
    assert torch.equal(cropped.counted.sum((1, 2)), whole.counted.sum((1, 2)))
    point = (latent + 0.3).requires_grad_()
    losses = whole.by_target(decode(point), None).colour, cropped.colour(point, decode)
    assert torch.allclose(*losses, rtol=1e-12)
    gradients = [torch.autograd.grad(loss.sum(), point, retain_graph=True)[0] for loss in losses]
    assert torch.allclose(*gradients, rtol=1e-9, atol=1e-15)


def test_a_window_at_the_rim_stays_inside_and_one_that_saves_little_is_not_used():
    _, near = goal(((23, 22),))
    cropped = cropped_loss(near, 1)
    assert all(0 <= corner <= 32 - side for corner, side in zip(cropped.corners[0], cropped.size))
    assert int(cropped.counted.sum()) == int(near.counted.sum()) > 0
    assert cropped_loss(near, 1, margin=30) is None
    _, gone = goal(((0, 0),))
    assert cropped_loss(gone, 1) is None


def test_what_stays_beside_the_goal_counts_and_what_was_left_does_not():
    _, whole = goal(((9, 4),))
    ring = whole.counted & ~whole.landing.arrived
    assert ring.any() and torch.equal(whole.warped[:, :, ring[0]], whole.source[:, :, ring[0]])
    assert not (whole.counted & whole.landing.to_fill(1)).any()


def test_windows_are_cut_row_by_row():
    values = torch.arange(2 * 1 * 4 * 4.0).reshape(2, 1, 4, 4)
    assert cut(values, ((0, 1), (2, 0)), (2, 2)).flatten(1).tolist() == [[1, 2, 5, 6], [24, 25, 28, 29]]


def test_a_run_through_the_window_is_the_run_through_the_whole_picture():
    latent, whole = goal()
    guide = Guide(whole, decode, None, whole.landing.edit_mask(1)[:, None].double())
    results = []
    for cropped in (None, cropped_loss(whole, 1)):
        setting = ToySetting(latent)
        x = setting.noised(latent, setting.noise(7, latent), 2.0)
        sigmas = torch.tensor([2.0, 0.8, 0.0], dtype=torch.float64)
        results.append(guided_ddim(x, sigmas, setting, replace(guide, cropped_loss=cropped), MotionRecipe(), Record()))
    assert torch.allclose(*results, atol=1e-9)


def test_the_moved_latent_is_followed_where_it_is_settled_and_free_only():
    latent, whole = goal()
    free = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    free[..., :20] = 1
    settled = torch.zeros_like(free)
    settled[..., 10:] = 1
    moved = latent + 1
    guide = Guide(whole, decode, None, free, moved=moved, settled=settled)
    result = guide.followed(latent, 0.25)
    assert torch.allclose(result[..., 10:20], latent[..., 10:20] + 0.25)
    assert torch.equal(result[..., :10], latent[..., :10]) and torch.equal(result[..., 20:], latent[..., 20:])
    assert torch.equal(guide.followed(latent, 0.0), latent)


def test_a_network_that_does_not_see_the_motion_in_the_moved_picture_has_no_say():
    _, whole = goal()
    free = torch.ones(1, 1, 32, 32, dtype=torch.float64)
    guide = Guide(whole, decode, flow_net, free, whole.floor(whole.source, flow_net))
    assert float(whole.by_target(whole.warped, flow_net).flow) > 0.4
    assert float(guide.least(flow_net)) == pytest.approx(float(whole.total(whole.by_target(whole.warped, flow_net))))
    assert float(guide.least(None)) == pytest.approx(0.0, abs=1e-12)
