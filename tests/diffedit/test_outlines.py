"""Hulls of outlines that have gaps, without any model."""

import pytest
import torch
from palimpsest.guidance.diffedit.masks import MaskRecipe, find, roomy
from palimpsest.guidance.diffedit.outlines import fill_outlines
from palimpsest.guidance.morphology import hull

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
    filled = fill_outlines(heat, line)
    assert float((filled & whole).sum() / (filled | whole).sum()) > 0.9
    found = find(heat, MaskRecipe(outliers="none"))[0]
    assert float((found & whole).sum() / (found | whole).sum()) > 0.9
    bare = find(heat, MaskRecipe(outliers="none", fill_holes=False))[0]
    assert float(bare.sum()) < 0.5 * float(whole.sum())


def test_a_moon_that_changes_its_colour_keeps_its_shape():
    moon = disc(11) & ~disc(8, x=23)
    filled = fill_outlines(0.05 + 1.0 * moon, moon)
    assert torch.equal(filled, moon)


def test_two_outlines_far_apart_are_not_made_one():
    two = ring(5, x=6, y=6) | ring(5, x=25, y=25)
    assert torch.equal(fill_outlines(0.05 + 1.0 * two, two), two)


def test_nothing_and_everything_stay_as_they_are():
    heat = torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    for mask in (torch.zeros(1, SIZE, SIZE, dtype=torch.bool), torch.ones(1, SIZE, SIZE, dtype=torch.bool)):
        assert torch.equal(fill_outlines(heat, mask), mask)


def test_each_picture_is_its_own():
    line, moon = ring(11), disc(11) & ~disc(8, x=23)
    line[:, 14:20] = False
    both = torch.cat((line, moon))
    heat = 0.05 + 1.0 * both
    filled = fill_outlines(heat, both)
    assert torch.equal(filled[:1], fill_outlines(heat[:1], line)) and torch.equal(filled[1:], moon)


def test_pieces_of_an_outline_become_a_hull_and_small_objects_do_not():
    whole, pieces = disc(11), ring(11)
    pieces[:, 7:13] = pieces[:, 19:25] = pieces[..., 12:19] = False
    filled = fill_outlines(0.05 + 0.2 * whole + 1.0 * pieces, pieces)
    assert float((filled & whole).sum() / (filled | whole).sum()) > 0.8
    apart = disc(2, x=4, y=4) | disc(2, x=27, y=27) | disc(2, x=27, y=4)
    assert torch.equal(fill_outlines(0.05 + 1.0 * apart, apart), apart)


def test_room_is_a_fraction_of_what_was_found_and_only_for_new_shapes():
    recipe = MaskRecipe(room=0.2)
    found = torch.cat([disc(9), disc(13), disc(1)])
    wider = roomy(found, torch.ones(3, dtype=torch.bool), recipe)
    radius = lambda mask: (mask.flatten(1).sum(1) / torch.pi).sqrt()
    side = found.flatten(1).sum(1).sqrt()
    assert (wider | ~found).all()
    # A small one gets as much as one whose side is half the picture's.
    expected = 0.2 * side.clamp_min(16)
    assert ((radius(wider) - radius(found) - expected).abs() < 1).all()
    some = torch.tensor([True, False, False])
    assert torch.equal(roomy(found, some, recipe), torch.where(some[:, None, None], wider, found))
    for plain in (MaskRecipe(), MaskRecipe(room=0.2, complement=True)):
        assert torch.equal(roomy(found, some, plain), found)
    nothing = torch.zeros_like(found)
    assert torch.equal(roomy(nothing, ~some | some, recipe), nothing)
