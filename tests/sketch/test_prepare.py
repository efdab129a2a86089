"""Drawings as people have them -> strokes: thinning, pieces, paper, ink, size."""

import math

import pytest
import torch
import torch.nn.functional as F
from palimpsest.benchmarks.sketch.suite_prepare import drawing, old_label, old_thin, same_parts
from palimpsest.guidance.morphology import label, otsu, without_specks
from palimpsest.guidance.sketch.prepare import find_strokes, fit, fit_lines, ink, read_strokes
from palimpsest.guidance.sketch.strokes import thickness, thin
from palimpsest.papercut.edge_score import edge_score

SIDE = 160


def ring(radius: float = 50, width: float = 1.2, side: int = SIDE) -> torch.Tensor:
    """(side, side) bool: a circle's line, `width` pixels wide."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return (torch.hypot(x - side / 2.0, y - side / 2.0) - radius).abs() < width / 2


def picture(lines: torch.Tensor, paper, colour) -> torch.Tensor:
    """(1, H, W, 3) with lines of one colour on paper of another (numbers or maps)."""
    paper, colour = (torch.as_tensor(v, dtype=torch.float32) for v in (paper, colour))
    return torch.where(lines[..., None], colour, paper).expand(*lines.shape, 3)[None].clone()


# Strokes


def test_thinning_keeps_a_line_in_one_piece_and_in_its_place():
    wide, line = ring(width=9)[None], ring(width=1.5)[None]
    lines = thin(wide)
    assert bool((lines & ~wide).sum() == 0) and lines.sum() < 1.2 * 2 * math.pi * 50
    assert float(edge_score(lines, line).f1) > 0.99
    assert label(lines[0])[1] == 1
    assert torch.equal(thin(lines), lines)


@pytest.mark.parametrize("density", [0.0, 0.05, 0.3, 0.6, 0.9, 1.0])
def test_the_table_thins_as_the_rule_written_out(density):
    strokes = torch.rand(3, 40, 51, generator=torch.Generator().manual_seed(0)) < density
    assert torch.equal(thin(strokes), torch.stack([old_thin(picture) for picture in strokes]))


def test_a_drawing_is_thinned_as_the_rule_written_out():
    strokes = drawing(160, 9, 6)
    assert torch.equal(thin(strokes[None])[0], old_thin(strokes))
    assert same_parts(old_label(strokes), label(strokes)[0])


def test_thinning_can_be_interrupted_often():
    """Between two checks lies at most a fiftieth of the work: there are more checks than that, evenly over it."""
    seen = []
    thin(ring(width=15)[None], lambda: seen.append(None))
    assert len(seen) > 50


def test_thickness():
    assert thickness(ring(width=9)[None], thin(ring(width=9)[None])) == pytest.approx(9, rel=0.15)
    blank = torch.zeros(1, 8, 8, dtype=torch.bool)
    assert thickness(blank, thin(blank)) == 0


def test_pieces_are_those_that_touch():
    strokes = torch.zeros(9, 9, dtype=torch.bool)
    strokes[1, 1:4] = strokes[2, 4] = strokes[7, 7] = True
    found, count = label(strokes)
    assert count == 2 and found[1, 1] == found[2, 4] != found[7, 7]
    assert bool((found[~strokes] == 0).all())


def test_a_long_winding_stroke_is_one_piece():
    strokes = torch.zeros(64, 64, dtype=torch.bool)
    strokes[::2] = True
    for row in range(1, 63, 2):
        strokes[row, 63 if row % 4 == 1 else 0] = True
    assert label(strokes)[1] == 1


def test_specks_vanish_and_lines_stay():
    strokes = ring()[None].clone()
    strokes[0, 3, 3:8] = True
    kept = without_specks(strokes, 6)
    assert not kept[0, 3, 3:8].any() and torch.equal(kept | strokes, strokes) and kept.sum() == strokes.sum() - 5
    blank = torch.zeros(1, 8, 8, dtype=torch.bool)
    assert torch.equal(without_specks(blank, 5), blank)


# Ink and paper

CASES = {
    "black on white": (1.0, 0.0),
    "white on black": (0.0, 1.0),
    "blue on cream": ((0.98, 0.94, 0.83), (0.1, 0.2, 0.8)),
    "yellow on white": (1.0, (1.0, 0.9, 0.1)),
    "grey pencil": (0.95, 0.6),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("read", [find_strokes, read_strokes])
def test_ink_of_any_colour_on_paper_of_any_colour(case, read):
    paper, colour = CASES[case]
    found = read(picture(ring(width=4), paper, colour))
    assert float(edge_score(found.lines, ring(width=1.5)[None]).f1) > 0.99
    said = " ".join(found.notes)
    assert ("inverted" in said) == (case != "white on black")
    assert ("coloured" in said) == (case in ("blue on cream", "yellow on white"))


def test_a_photograph_with_a_shadow_and_grain():
    y, x = torch.meshgrid(torch.linspace(0, 1, SIDE), torch.linspace(0, 1, SIDE), indexing="ij")
    light = (0.45 + 0.5 * x - 0.25 * torch.exp(-((y - 0.7) ** 2) / 0.02))[..., None]
    grain = 0.02 * torch.randn(SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))
    photo = (picture(ring(width=4), 0.95, 0.25)[0] * light + grain).clamp(0, 1)[None]
    found = find_strokes(photo, smallest=12)
    assert float(edge_score(found.lines, ring(width=1.5)[None]).f1) > 0.95


def test_faint_strokes_weigh_less_and_are_not_lost():
    drawing = picture(ring(), 0.0, 1.0)
    drawing[:, :, : SIDE // 2] *= 0.4
    found = read_strokes(drawing)
    left, right = (found.weight[0, :, half][found.lines[0, :, half]] for half in (slice(0, 79), slice(81, None)))
    assert left.numel() > 100 and float(left.mean()) == pytest.approx(0.4, abs=0.01)
    assert float(right.mean()) == pytest.approx(1.0, abs=0.01)


def test_a_layer_and_a_page_in_one_batch_are_each_read_in_their_own_way():
    page = torch.cat([picture(ring(), 1.0, 0.0), torch.ones(1, SIDE, SIDE, 1)], -1)
    layer = torch.cat([torch.zeros(1, SIDE, SIDE, 3), ring()[None, ..., None].float()], -1)
    together = read_strokes(torch.cat([page, layer]))
    for row, alone in enumerate((page, layer)):
        assert torch.equal(together.lines[row], read_strokes(alone).lines[0])
        assert torch.equal(together.lines[row], ring())


def test_a_transparent_layer_is_read_by_its_alpha():
    drawing = torch.zeros(1, SIDE, SIDE, 4)
    drawing[0, ..., 3] = 0.5 * ring().float()
    found = read_strokes(drawing)
    assert torch.equal(found.lines[0], ring())


def test_a_blank_page_is_blank():
    for page in (torch.zeros(1, 64, 64, 3), torch.ones(1, 64, 64, 3), torch.full((1, 64, 64, 3), 0.5)):
        grain = 0.01 * torch.randn(page.shape, generator=torch.Generator().manual_seed(0))
        assert read_strokes(page).blank and find_strokes((page + grain).clamp(0, 1)).blank


def test_a_photograph_of_24_megapixels_is_read_with_many_checks_on_the_way():
    lines = drawing(1000, 9, 6).repeat_interleave(4, 0).repeat_interleave(4, 1)
    photo = (0.9 - 0.7 * F.pad(lines, (0, 2000)).float())[None, ..., None].expand(1, 4000, 6000, 3)
    checks = []
    found = find_strokes(photo, smallest=12, thinned=True, check=lambda: checks.append(None))
    assert found.lines.shape == (1, 4000, 6000) and not found.blank and len(checks) > 50
    assert bool((F.pad(lines, (0, 2000))[None] | ~found.lines).all())
    small, _ = fit_lines(found.lines, found.weight, 512, 768, check=lambda: checks.append(None))
    assert small.any()


def test_each_picture_of_a_batch_is_read_by_itself():
    both = torch.cat([picture(ring(width=4), 1.0, 0.0), picture(ring(30, width=4), 0.0, 1.0)])
    together = find_strokes(both)
    for i in range(2):
        assert torch.equal(together.lines[i], find_strokes(both[i : i + 1]).lines[0])


def test_otsu_parts_two_heaps():
    values = torch.cat([torch.full((1, 30, 40), 0.2), torch.full((1, 10, 40), 0.7)], 1)
    assert 0.2 < float(otsu(values.flatten(1), 256)) < 0.7


def test_ink_is_the_difference_from_the_paper():
    strength, paper = ink(picture(ring(), 0.9, 0.3), even=False)
    assert float(strength[0][ring()].mean()) == pytest.approx(0.6, abs=0.01)
    assert float(paper.mean()) == pytest.approx(0.9, abs=0.01) and float(strength[0][~ring()].max()) < 0.01


# Size


@pytest.mark.parametrize("how,filled", [("pad", 0.5), ("crop", 1.0), ("stretch", 1.0)])
def test_a_square_in_a_wide_frame(how, filled):
    out = fit(torch.ones(1, 40, 40), 40, 80, how)
    assert out.shape == (1, 40, 80) and float(out.mean()) == pytest.approx(filled)


def test_an_unknown_way_to_fit_is_a_sentence():
    with pytest.raises(ValueError, match="choose one of pad"):
        fit(torch.ones(1, 4, 4), 8, 8, "squeeze")


@pytest.mark.parametrize("side", [80, 160, 256, 400])
def test_thin_lines_stay_thin_and_whole_at_any_size(side):
    lines, weight = fit_lines(ring(width=1.5)[None], 0.5 * ring(width=1.5)[None].float(), side, side)
    scale = side / SIDE
    wanted = ring(50 * scale, 1.5, side)[None]
    assert float(edge_score(lines, wanted).f1) > 0.98
    assert label(lines[0])[1] == 1
    assert 0.3 < float(weight[lines].mean()) < 0.7 and float(weight[~lines].max()) == 0
