"""Papercut's ground truth: captions, masks, edges and motions say exactly what the pictures show."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from palimpsest.papercut.scenes import SPLITS, CutOut, Ground, Scene, pixel_grid, rearranged, sample_scene
from palimpsest.papercut.shapes import COLOURS, GROUNDS, PATTERNS, SHAPES, TONES

GROUND = Ground("plain", "cream", (0.0, 0.0), 60.0)


def grown(mask, pixels):
    return F.max_pool2d(mask[None].float(), 2 * pixels + 1, 1, pixels)[0] > 0


def inner(mask, pixels=3):
    return ~grown(~mask, pixels)


def one(shape="star", pattern="plain", **place):
    where = {"x": 120.0, "y": 130.0, "size": 50.0, "angle": 10.0} | place
    return Scene(GROUND, (CutOut(shape, "blue", pattern, **where),))


def test_the_scenes_are_as_varied_as_they_are_said_to_be():
    assert len(SHAPES) >= 8 and len(COLOURS) >= 10 and len(PATTERNS) == 3 and len(GROUNDS) >= 4
    scenes = [sample_scene(seed) for seed in SPLITS["train"][:300]]
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3}
    seen = [{getattr(o, name) for s in scenes for o in s.objects} for name in ("shape", "colour", "pattern")]
    assert seen == [set(SHAPES), set(COLOURS), set(PATTERNS)]
    grounds = [{getattr(scene.ground, name) for scene in scenes} for name in ("kind", "tone")]
    assert grounds == [set(GROUNDS), set(TONES)]


def test_splits_have_no_seed_in_common_and_a_seed_is_a_picture():
    names = sorted(SPLITS)
    assert all(not set(SPLITS[a]) & set(SPLITS[b]) for i, a in enumerate(names) for b in names[i + 1 :])
    assert torch.equal(sample_scene(7).render(), sample_scene(7).render())
    assert not torch.equal(sample_scene(7).render(), sample_scene(8).render())


@pytest.mark.parametrize("seed", range(12))
def test_a_caption_names_everything_there_is(seed):
    scene = sample_scene(seed)
    words = [word for item in scene.objects for word in (item.colour, item.shape)]
    words += [item.pattern for item in scene.objects if item.pattern != "plain"]
    words += [scene.ground.tone, scene.ground.kind]
    assert all(word in scene.caption for word in words) and scene.caption.count(" on ") == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_inside_a_mask_is_its_paper_and_far_outside_the_ground(shape):
    scene = one(shape)
    picture, (mask,) = scene.render(), scene.masks()
    painted = [part.paint(pixel_grid()).movedim(-1, 0).float() for part in (scene.objects[0], GROUND)]
    for where, right in zip((inner(mask), ~grown(mask, 16)), painted):
        assert where.any() and torch.allclose(picture[:, where], right[:, where], atol=1e-6)
    # Paper is shaded a little, and never so much that it could be taken for another colour.
    shown = picture[:, inner(mask)].mean(1)
    assert min(COLOURS, key=lambda name: (shown - torch.tensor(COLOURS[name])).norm()) == "blue"


def test_the_mask_of_a_circle_has_a_circle_s_area():
    (mask,) = one("circle").masks()
    assert int(mask.sum()) == pytest.approx(math.pi * (0.95 * 50) ** 2, rel=0.01)


def test_what_is_in_front_hides_what_is_behind():
    front = CutOut("square", "red", "plain", 140.0, 130.0, 40.0)
    scene = Scene(GROUND, (*one("circle").objects, front))
    behind, shown = scene.masks()
    assert not (behind & shown).any() and torch.equal(shown, Scene(GROUND, (front,)).masks()[0])
    assert torch.equal(behind, one("circle").masks()[0] & ~shown)


@pytest.mark.parametrize("seed", range(6))
def test_edges_lie_where_papers_end_and_nowhere_else(seed):
    scene = sample_scene(seed)
    masks = torch.cat([scene.masks(), ~scene.masks().any(0, keepdim=True)])
    rims = torch.stack([grown(mask, 1) & grown(~mask, 1) for mask in masks]).any(0)
    edges = scene.edges()
    assert not (edges & ~rims).any() and not (rims & ~grown(edges, 1)).any()


@pytest.mark.parametrize(("dx", "dy"), [(24, 0), (-7, 13)])
def test_a_move_is_its_own_flow_and_hides_and_bares_what_it_must(dx, dy):
    first, second = one(), one(x=120.0 + dx, y=130.0 + dy)
    motion, (before,), (after,) = first.motion_to(second), first.masks(), second.masks()
    assert torch.allclose(motion.flow[before], torch.tensor([float(dx), float(dy)]), atol=1e-4)
    assert not motion.flow[~before].any()
    assert torch.equal(motion.occluded, after & ~before) and torch.equal(motion.uncovered, before & ~after)


@pytest.mark.parametrize("seed", range(8))
def test_flow_leads_to_the_same_spot_of_the_same_paper(seed):
    first = replace(sample_scene(seed), ground=GROUND)
    second = rearranged(first, seed)
    motion, grid = first.motion_to(second), pixel_grid()
    goal = (grid + motion.flow) / (255 / 2) - 1
    found = F.grid_sample(second.render()[None], goal[None], align_corners=True, padding_mode="border")[0]
    difference = (found - first.render()).abs().mean(0)
    # Away from outlines, where colours mix, and from shadows, which fall on whatever lies beneath.
    sure = torch.stack([inner(mask, 4) for mask in first.masks()]).any(0) & ~motion.occluded
    sure &= ~grown(torch.cat([scene.masks()[1:] for scene in (first, second)]).any(0), 20)
    assert sure.any() and difference[sure].mean() < 0.02
