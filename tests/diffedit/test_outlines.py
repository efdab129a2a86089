"""Hulls of outlines that have gaps, without any model."""

import pytest
import torch
from palimpsest.guidance.masks import MaskRecipe, find
from palimpsest.guidance.outlines import fill_outlines, hull

SIZE = 32


def disc(radius: float, x: float = 16, y: float = 16):
    down, right = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return ((down - y) ** 2 + (right - x) ** 2 <= radius**2)[None]


def ring(radius: float, **place):
    return disc(radius, **place) & ~disc(radius - 1.6, **place)


def test_a_hull_holds_its_shape_and_is_its_own_hull():
    shape = disc(8, 10, 12) | disc(3, 24, 20)
    whole = hull(shape)
    assert (whole | ~shape).all() and torch.equal(hull(whole), whole) and torch.equal(hull(disc(9)), disc(9))
    down, right = whole[0].nonzero().T
    middle = (down[:, None] + down) % 2 + (right[:, None] + right) % 2 == 0  # between two cells of it there is one
    assert whole[0][(down[:, None] + down)[middle] // 2, (right[:, None] + right)[middle] // 2].all()
    assert not hull(torch.zeros(2, 5, 5, dtype=torch.bool)).any()


@pytest.mark.parametrize("place", [{}, {"x": 26}], ids=["whole", "cut off by the border"])
def test_a_broken_outline_becomes_its_hull(place):
    whole, line = disc(11, **place), ring(11, **place)
    line[:, 14:18] = False
    heat = 0.05 + 0.1 * whole + 1.0 * line
    filled, outlined = fill_outlines(heat, line)
    assert outlined.all()
    assert float((filled & whole).sum() / (filled | whole).sum()) > 0.9
    found = find(heat, MaskRecipe(outliers="none"))[0]
    assert float((found & whole).sum() / (found | whole).sum()) > 0.9
    bare = find(heat, MaskRecipe(outliers="none", fill_holes=False))[0]
    assert float(bare.sum()) < 0.5 * float(whole.sum())


def test_a_moon_that_changes_its_colour_keeps_its_shape():
    moon = disc(11) & ~disc(8, x=23)
    filled, outlined = fill_outlines(0.05 + 1.0 * moon, moon)
    assert torch.equal(filled, moon) and not outlined.any()


def test_two_outlines_far_apart_are_not_made_one():
    two = ring(5, x=6, y=6) | ring(5, x=25, y=25)
    assert torch.equal(fill_outlines(0.05 + 1.0 * two, two)[0], two)


def test_nothing_and_everything_stay_as_they_are():
    heat = torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    for mask in (torch.zeros(1, SIZE, SIZE, dtype=torch.bool), torch.ones(1, SIZE, SIZE, dtype=torch.bool)):
        assert torch.equal(fill_outlines(heat, mask)[0], mask)


def test_each_picture_is_its_own():
    line, moon = ring(11), disc(11) & ~disc(8, x=23)
    line[:, 14:20] = False
    both = torch.cat((line, moon))
    heat = 0.05 + 1.0 * both
    filled, _ = fill_outlines(heat, both)
    assert torch.equal(filled[:1], fill_outlines(heat[:1], line)[0]) and torch.equal(filled[1:], moon)


def test_pieces_of_an_outline_become_a_hull_and_small_objects_do_not():
    whole, pieces = disc(11), ring(11)
    pieces[:, 7:13] = pieces[:, 19:25] = pieces[..., 12:19] = False
    filled, outlined = fill_outlines(0.05 + 0.2 * whole + 1.0 * pieces, pieces)
    assert outlined.all() and float((filled & whole).sum() / (filled | whole).sum()) > 0.8
    apart = disc(2, x=4, y=4) | disc(2, x=27, y=27) | disc(2, x=27, y=4)
    assert torch.equal(fill_outlines(0.05 + 1.0 * apart, apart)[0], apart)


def test_room_is_a_share_of_what_was_found_and_only_for_outlines():
    bare, roomy = MaskRecipe(outliers="none"), MaskRecipe(outliers="none", room=0.2)
    for radius in (5, 10):
        line = 0.05 + 0.1 * disc(radius) + 1.0 * ring(radius)
        found, wider = find(line, bare)[0], find(line, roomy)[0]
        side = float(found.sum()) ** 0.5
        grown = (float(wider.sum()) / torch.pi) ** 0.5 - (float(found.sum()) / torch.pi) ** 0.5
        assert (wider | ~found).all() and abs(grown - 0.2 * side) < 1
        full = 0.05 + 1.0 * disc(radius)
        assert torch.equal(find(full, bare)[0], find(full, roomy)[0])
