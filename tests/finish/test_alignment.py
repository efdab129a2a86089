"""Where points lie, and pictures read there: identities, inverses and what Lanczos reproduces exactly."""

import pytest
import torch
from palimpsest.guidance.finish.alignment import Alignment, Box, resample, warp, within

from .pictures import textured


def moved(size, edited, matrix, shift) -> Alignment:
    return Alignment(
        matrix=torch.tensor(matrix, dtype=torch.float64),
        shift=torch.tensor(shift, dtype=torch.float64),
        source=size,
        edited=edited,
    )


def test_a_picture_that_has_not_moved_is_read_as_it_is():
    picture = textured((37, 53))
    still = Alignment.stretched((37, 53), (37, 53))
    assert torch.allclose(resample(picture, still, Box(0, 37, 0, 53)), picture, atol=1e-5)
    assert torch.allclose(warp(picture, still), picture, atol=1e-4)
    assert still.farthest() == 0 and bool(still.overlap().all())


def test_whole_pixels_are_copied():
    picture = textured((40, 40))
    by = moved((40, 40), (40, 40), [[1.0, 0.0], [0.0, 1.0]], [3.0, -2.0])
    read = resample(picture, by, Box(10, 30, 5, 25))
    assert torch.allclose(read, picture[:, 8:28, 8:28], atol=1e-5)


def lanczos(shrink: float) -> tuple[float, float]:
    """Of Lanczos with three lobes and weights that add up to 1, widened by `shrink`, in double precision, at any place
    between two pixels: the most by which it misreads a ramp of 1 a pixel, and the largest sum of its weights' sizes."""
    taps = torch.arange(-13, 15).double()
    apart = torch.linspace(0, 1, 2001).double()[:, None] - taps
    x = apart / max(1.0, shrink)
    weights = torch.sinc(x) * torch.sinc(x / 3) * (x.abs() < 3)
    weights = weights / weights.sum(1, keepdim=True)
    return float((weights * apart).sum(1).abs().max()), float(weights.abs().sum(1).max())


@pytest.mark.parametrize("turn, zoom", [(0.0, 1.0), (0.03, 1.1), (-0.05, 0.93), (0.01, 0.3), (0.0, 3.0)])
def test_a_ramp_is_read_at_its_places(turn, zoom):
    """To the error that the kernel has on a ramp, along the rows and then along the columns."""
    size = (90, 120)
    x = torch.arange(size[1]) + 0.5
    y = torch.arange(size[0])[:, None] + 0.5
    edited = torch.stack([x.expand(size), y.expand(size), (x + y).expand(size)])
    by = moved((80, 100), size, [[zoom, -turn], [turn, zoom]], [60 - 50 * zoom, 45 - 40 * zoom])
    inner = Box(33, 47, 43, 57)
    points = torch.stack(
        torch.meshgrid(torch.arange(43, 57) + 0.5, torch.arange(33, 47) + 0.5, indexing="xy"), -1
    ).double()
    there = by.of(points)
    along_rows, _ = lanczos(abs(zoom + turn**2 / zoom))
    along_columns, size_of_weights = lanczos(zoom)
    # A row's errors go on into the columns; along these the ramp to the right climbs as far as the picture is turned.
    bound = size_of_weights * along_rows + abs(turn / zoom) * along_columns
    rounding = 1e-3  # over a hundred units in the last place of the largest value, 120
    wrong = (resample(edited, by, inner)[:2] - there.movedim(-1, 0).float()).abs().amax((1, 2))
    assert wrong[0] <= bound + rounding and wrong[1] <= along_columns + rounding
    assert bound < 0.05


def test_a_box_is_that_part_of_the_whole():
    picture = textured((60, 80))
    by = moved((50, 70), (60, 80), [[1.13, 0.02], [-0.03, 1.17]], [1.3, 0.4])
    whole = resample(picture, by, Box(0, 50, 0, 70))
    assert torch.allclose(resample(picture, by, Box(11, 29, 20, 61)), whole[:, 11:29, 20:61], atol=1e-4)


def test_copies_of_other_sizes_are_met_at_the_same_places():
    by = moved((50, 70), (60, 80), [[1.13, 0.02], [-0.03, 1.17]], [1.3, 0.4])
    half = by.at((100, 35), (30, 160))
    points = torch.rand(9, 2, generator=torch.Generator().manual_seed(0)).double() * 50
    there = half.of(points * torch.tensor([0.5, 2.0])) * torch.tensor([0.5, 2.0])
    assert torch.allclose(there, by.of(points))


def test_a_move_in_words_terms():
    by = moved((200, 300), (200, 300), [[1.1, 0.0], [0.0, 1.1]], [150 - 165 + 4.0, 100 - 110 - 3.0])
    move = by.move()
    assert (round(move.right, 6), round(move.down, 6)) == (4, -3)
    assert round(move.wider, 6) == round(move.higher, 6) == 1.1 and move.turned == 0


def test_copies_keep_proportions_and_are_never_larger():
    assert within((4000, 6000), 2**20) == (836, 1254)
    assert within((30, 40), 2**20) == (30, 40)
    assert within((1, 5000), 100) == (1, 707)
