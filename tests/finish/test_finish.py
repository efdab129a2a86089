"""Edits whose truth is known: the move is found, the mask covers the edit, and nothing else changes, to the bit."""

import re

import pytest
import torch
import torch.nn.functional as F
from palimpsest.benchmarks.finish.truth import Cast, Move, registration_error
from palimpsest.guidance.finish import finish as steps
from palimpsest.guidance.finish.alignment import Box
from palimpsest.guidance.finish.composite import compose
from palimpsest.guidance.finish.crop import cut_out
from palimpsest.guidance.finish.finish import EMPTY, FinishRecipe, finish
from palimpsest.guidance.finish.registration import register
from palimpsest.guidance.finish.report import report

from .pictures import textured, truth

SIZE = (240, 320)
MOVES = {
    "still": Move(size=SIZE),
    "a third of a pixel": Move(size=SIZE, right=0.33, down=-0.21),
    "far": Move(size=SIZE, right=-17.3, down=9.6),
    "larger": Move(size=SIZE, wider=1.19, higher=1.19, right=2.5),
    "smaller": Move(size=SIZE, wider=0.83, higher=0.83, down=-3.0),
    "turned": Move(size=SIZE, turned=2.9, right=3.0),
    "stretched": Move(size=SIZE, wider=1.04, higher=0.97),
    "rounded to 112": Move(size=(224, 336)),
    "cropped to 112": Move(size=(224, 336), crop=True, right=4.0),
    "half the size": Move(size=(120, 160), right=1.5),
    "twice the size": Move(size=(480, 640), right=1.5),
}


@pytest.mark.parametrize("name", MOVES)
def test_every_move_is_found(name):
    known = truth(0.1, MOVES[name], seed=3)
    found = register(known.source, known.edited)
    assert registration_error(found.alignment, known.alignment) < 0.25
    assert found.matched > 0.5


@pytest.mark.parametrize("name", ["still", "far", "larger", "cropped to 112"])
def test_the_edit_comes_back_and_nothing_else_changes(name):
    known = truth(0.1, MOVES[name], seed=5)
    done = finish(known.source, known.edited)
    inside = done.alpha > 0
    assert torch.equal(done.picture[:, ~inside], known.source[:, ~inside])
    seen = known.alignment.overlap()
    assert (inside & known.changed & seen).sum() >= 0.99 * (known.changed & seen).sum()
    both, either = (inside & known.region & seen).sum(), (inside | known.region & seen).sum()
    assert both / either > 0.8
    # The edit itself, without the cast and at its place: as good as a JPEG of 85 is.
    error = (done.picture - known.wanted)[:, known.region & seen & inside].square().mean().sqrt()
    assert error < 0.04
    assert not done.warnings


def test_an_edit_of_two_fifths_does_not_carry_the_registration_along():
    known = truth(0.4, Move(size=SIZE, right=6.0, wider=1.05, higher=1.05), seed=2)
    assert registration_error(register(known.source, known.edited).alignment, known.alignment) < 0.25


def test_what_has_not_moved_is_not_resampled():
    known = truth(0.1, seed=1)
    assert finish(known.source, known.edited).alignment.farthest() == 0


def test_the_same_picture_comes_back_as_it_is():
    source = textured(SIZE)
    done = finish(source, source.clone())
    assert torch.equal(done.picture, source) and not done.alpha.any()
    assert "No change was found" in done.warnings[0]


def test_masks_of_zeros_and_ones():
    known = truth(0.1, seed=1)
    none = finish(known.source, known.edited, torch.zeros(SIZE))
    assert torch.equal(none.picture, known.source) and none.fraction == 0
    assert none.warnings == (EMPTY,)
    whole = finish(known.source, known.edited, torch.ones(SIZE), FinishRecipe(colour="off", registration="off"))
    assert torch.allclose(whole.picture, known.edited, atol=1e-5) and whole.fraction == 1


def test_a_soft_mask_mixes():
    known = truth(0.1, seed=1)
    half = finish(
        known.source,
        known.edited,
        torch.full(SIZE, 0.25),
        FinishRecipe(colour="off", registration="off", feather=0, grow=0),
    )
    assert torch.allclose(half.picture, torch.lerp(known.source, known.edited, 0.25), atol=1e-5)


def test_a_cast_is_undone_and_reported():
    known = truth(0.05, seed=4, cast=Cast(gain=(1.08, 1.0, 0.92), offset=(0.02, 0.0, 0.0)))
    done = finish(known.source, known.edited)
    # A quarter of the cast: the edited picture has been through JPEG, so that what is found is an estimate.
    assert (done.cast.gain - torch.tensor([1.08, 1.0, 0.92])).abs().max() < 0.02
    assert "warmer by" in report(done) and "outside the mask 0 pixels changed" in report(done)


def test_alpha_is_kept_and_the_size_is_the_source_s():
    known = truth(0.1, Move(size=(120, 160)), seed=1)
    alpha = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(0))
    done = finish(torch.cat([known.source, alpha]), known.edited)
    assert done.picture.shape == (4, *SIZE) and torch.equal(done.picture[3:], alpha)


def test_a_connected_mask_too_grows_by_pixels_of_the_copy(monkeypatch):
    from palimpsest.guidance.finish import finish as steps

    monkeypatch.setattr(steps, "FULL", 120 * 160)
    known, mask = truth(0.1, seed=1), torch.zeros(SIZE)
    mask[100:140, 100:200] = 1
    row = finish(known.source, known.edited, mask, FinishRecipe(registration="off", grow=4, feather=0)).alpha[120]
    assert bool((row[92:208] == 1).all()) and not row[:92].any() and not row[208:].any()


def test_strangers_are_refused_unless_a_mask_says_what_to_take():
    source, other = textured(SIZE, 0), textured(SIZE, 9)
    with pytest.raises(ValueError, match=r"Nothing of 'source' is found again in 'edited'.*paint a 'mask'"):
        finish(source, other)
    mask = torch.zeros(SIZE)
    mask[50:150, 60:160] = 1
    done = finish(source, other, mask)
    assert "Nothing of 'source'" in done.warnings[0] and done.alignment.farthest() == 0


@pytest.mark.parametrize("cells", [12, 25])
def test_strangers_that_agree_by_chance_are_doubted(cells):
    """Blurred pictures without fine texture: some of their places always agree."""
    draw = torch.Generator().manual_seed(cells)
    one, other = F.interpolate(torch.rand(2, 3, cells, cells, generator=draw), SIZE, mode="bicubic").clamp(0, 1)
    try:
        doubts = finish(one, other).warnings
    except ValueError as error:
        assert "Nothing of 'source' is found again" in str(error)
    else:
        assert doubts


def test_what_differs_outside_the_mask_is_counted(monkeypatch):
    known = truth(0.1, seed=1)
    assert finish(known.source, known.edited).outside == 0

    def spoiled(source, *given, **more):
        return compose(source, *given, **more).index_fill(1, torch.tensor([0]), 0.0)

    monkeypatch.setattr(steps, "compose", spoiled)
    done = finish(known.source, known.edited)
    assert done.outside == int((done.alpha[0] == 0).sum()) > 0
    assert f"outside the mask {done.outside} pixels changed" in report(done)


def test_a_flat_source_is_taken_as_it_lies():
    source = torch.full((3, *SIZE), 0.5)
    edited = source.clone()
    edited[0, 80:160, 100:200] = 0.9
    done = finish(source, edited)
    assert "too plain" in done.warnings[0]
    assert 0.9 < float((done.alpha[80:160, 100:200] > 0).float().mean())


def test_an_edit_of_nearly_everything_is_doubted():
    known = truth(0.7, seed=3, kind="recoloured")
    doubts = finish(known.source, known.edited).warnings
    assert any("Most of the picture has changed" in one for one in doubts)


def test_the_report_is_in_plain_words():
    move = Move(size=SIZE, right=3.2, wider=1.011, higher=1.011, turned=0.5)
    known = truth(0.06, move, seed=4, cast=Cast(gain=(1.06, 1.0, 0.94)))
    assert re.fullmatch(
        r"The edited picture was moved by 3\.[123] px, enlarged 1\.[012] %, turned by 0\.[45]\d degrees right, "
        r"(brighter by 0\.\d %, |darker by 0\.\d %, )?warmer by [45678]\.\d %; [5678]\.\d % of the picture changed; "
        r"outside the mask 0 pixels changed\.",
        report(finish(known.source, known.edited)),
    )


def test_a_tiny_edit_is_doubted():
    known = truth(0.002, seed=6)
    assert any("pixels wide" in one for one in finish(known.source, known.edited).warnings)


def test_the_result_does_not_depend_on_the_number_of_strips(monkeypatch):
    from palimpsest.guidance.finish import composite

    known = truth(0.2, MOVES["larger"], seed=7)
    recipe = FinishRecipe(colour="smooth field", detail=0.0)
    whole = finish(known.source, known.edited, recipe=recipe).picture
    monkeypatch.setattr(composite, "STRIP", 2000)
    assert torch.allclose(finish(known.source, known.edited, recipe=recipe).picture, whole, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (9, 200), (33, 65), (1, 1)])
def test_any_size(size):
    source = torch.nn.functional.interpolate(textured((64, 64))[None], size)[0]
    done = finish(source, source.flip(0), torch.ones(size))
    assert done.picture.shape == source.shape and bool(done.picture.isfinite().all())


def test_a_place_that_is_hardly_larger_than_the_edited_picture_is_stretched_to_it():
    source, place = textured(SIZE), Box(40, 114, 60, 137)
    crop = cut_out(source, place, (64, 72))
    mask = torch.ones(SIZE)
    done = finish(source, crop, mask, FinishRecipe(registration="off", colour="off", grow=0, feather=0), place=place)
    assert (done.picture - source).abs().mean() < 0.005 and bool((done.alpha[40:114, 60:137] == 1).all())
