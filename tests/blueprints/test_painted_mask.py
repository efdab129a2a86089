"""Painted Mask: painted, or else found, or else the whole picture."""

import torch
from palimpsest.nodes.painted_mask import PaintedMask

EMPTY, PICTURE = torch.zeros(1, 64, 64), torch.zeros(1, 24, 16, 3)


def square(side: int) -> torch.Tensor:
    mask = torch.zeros(1, 20, 20)
    mask[:, :side, :side] = 1
    return mask


def test_a_painted_mask_comes_first_and_an_empty_one_counts_as_none():
    painted, found = square(10), square(5)
    mask, note, by_hand, covered, *_ = PaintedMask.execute(painted=painted, found=found).args
    assert covered == 0.25
    assert mask is painted and by_hand and note == "Mask painted by hand: 25 % of the picture."
    for given in ({}, {"painted": EMPTY}):
        mask, note, by_hand, covered, *_ = PaintedMask.execute(found=found, words="the cat ", **given).args
        assert covered == 0.0625
        assert mask is found and not by_hand and note == "Mask found: 6 % of the picture, the cat."


def test_without_any_the_whole_picture_is_the_mask():
    mask, note, by_hand, covered, *_ = PaintedMask.execute(painted=EMPTY, picture=PICTURE).args
    assert mask.shape == (1, 24, 16) and bool((mask == 1).all()) and not by_hand and covered == 1
    assert note == "No mask: the whole picture may change."
    assert bool((PaintedMask.execute().args[0] == 1).all())


def test_the_picture_is_handed_on_and_none_is_one_grey_pixel():
    *_, picture, given = PaintedMask.execute(picture=PICTURE).args
    assert picture is PICTURE and given
    *_, picture, given = PaintedMask.execute(painted=square(3)).args
    assert picture.shape == (1, 1, 1, 3) and not given


def test_a_found_mask_without_anything_says_so():
    _, note, _, covered, *_ = PaintedMask.execute(found=EMPTY).args
    assert "nothing was found" in note and covered == 0


def test_nothing_is_looked_for_where_a_mask_is_painted():
    assert PaintedMask.check_lazy_status(painted=square(3), found=None) == []
    assert PaintedMask.check_lazy_status(painted=EMPTY, found=None) == ["found"]
    assert PaintedMask.check_lazy_status(found=None) == ["found"]
    assert PaintedMask.check_lazy_status(painted=EMPTY) == [] == PaintedMask.check_lazy_status(found=square(3))
