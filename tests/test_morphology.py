"""Sets of pixels against short definitions of the same, on random pictures and on the shapes that break things."""

import math

import pytest
import torch
import torch.nn.functional as F
from palimpsest.guidance import morphology
from palimpsest.morphing.reschedule import _interpolate

SIZES = [(1, 1), (1, 7), (9, 13), (33, 20)]


def pictures(size, seed=0):
    """(B, H, W) bool: noise of several densities, nothing, everything, one pixel."""
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.rand(size, generator=generator) < density for density in (0.02, 0.1, 0.4, 0.6, 0.9)]
    one = torch.zeros(size, dtype=torch.bool)
    one[size[0] // 2, size[1] // 2] = True
    return torch.stack([*noise, torch.zeros_like(one), torch.ones_like(one), one])


def step(values, diagonal):
    """The greatest value of each cell (B, h, w) and its 8 (else 4) neighbours."""
    upright = F.max_pool2d(values, (3, 1), 1, (1, 0))
    if diagonal:
        return F.max_pool2d(upright, (1, 3), 1, (0, 1))
    return torch.maximum(upright, F.max_pool2d(values, (1, 3), 1, (0, 1)))


def spread(values, where, diagonal):
    """Lets the greatest value of each connected part of `where` fill that part."""
    while True:
        before, values = values, step(values, diagonal) * where
        if torch.equal(values, before):
            return values


def within(mask, radius, distance):
    """By the definition: all pairs of pixels."""
    height, width = mask.shape[1:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    points = torch.stack((y, x), -1).reshape(-1, 2)
    apart = distance((points[:, None] - points[None]).abs())
    return ((apart <= radius)[None] & mask.reshape(len(mask), 1, -1)).any(2).reshape(mask.shape)


DISTANCES = {
    "disc": lambda d: d.square().sum(-1).double().sqrt(),
    "square": lambda d: d.amax(-1),
    "diamond": lambda d: d.sum(-1),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", DISTANCES)
def test_dilation_marks_what_is_near_enough(size, shape):
    mask = pictures(size)
    for radius in (0, 1, math.sqrt(2), 2, 5, 8, 8.5):  # the last by other means
        assert torch.equal(morphology.dilate(mask, radius, shape), within(mask, radius, DISTANCES[shape]))
        assert torch.equal(morphology.erode(mask, radius, shape), ~within(~mask, radius, DISTANCES[shape]))


@pytest.mark.parametrize("size", SIZES)
def test_grey_maps_are_dilated_as_the_masks_of_each_of_their_values(size):
    """By the definition, to the bit; and a mask of zeros and ones as a mask."""
    masks = pictures(size)
    grey = torch.rand(size, generator=torch.Generator().manual_seed(1)) * masks
    for radius in (0, 1, 2, 5):
        wide = morphology.grey_dilate(grey, radius)
        pooled = F.max_pool2d(grey[:, None], 2 * radius + 1, 1, radius)[:, 0]
        assert torch.equal(wide, pooled)
        for level in (0.1, 0.5, 0.9):
            assert torch.equal(wide > level, morphology.dilate(grey > level, radius, "square"))
        assert torch.equal(
            morphology.grey_dilate(masks.float(), radius) > 0, morphology.dilate(masks, radius, "square")
        )


@pytest.mark.parametrize("size", SIZES)
def test_growing_is_a_step_at_a_time_with_corners_evenly_spread(size):
    mask = pictures(size).float()
    for pixels in (1, 2, 3, 7, 12):
        wide = mask
        for i in range(pixels):
            wide = step(wide, int((i + 1) * morphology.CORNERS) > int(i * morphology.CORNERS))
        assert torch.equal(morphology.grow(mask, pixels), wide)
        assert torch.equal(morphology.grow(1 - mask, -pixels), 1 - wide)


def test_widening_takes_corners_every_other_step():
    mask = pictures((24, 24))
    for picture, found in zip(mask, morphology.widen(mask, 0.3)):
        side = max(math.sqrt(picture.sum()), 12) if picture.any() else 0
        wide = picture[None].float()
        for i in range(round(0.3 * side)):
            wide = step(wide, bool(i % 2))
        assert torch.equal(found, wide[0].bool())


@pytest.mark.parametrize("size", SIZES)
def test_holes_are_what_no_flood_from_the_border_reaches(size):
    mask = pictures(size)
    outside = F.pad(~mask, (1, 1, 1, 1), value=True)
    rim = F.pad(torch.zeros_like(mask), (1, 1, 1, 1), value=True)
    assert torch.equal(morphology.fill_holes(mask), ~spread(rim.float(), outside, False)[:, 1:-1, 1:-1].bool())


@pytest.mark.parametrize("size", SIZES)
def test_gaps_are_closed_as_if_the_border_went_on(size):
    mask = pictures(size)
    for radius in (1, 3):
        padded = F.pad(mask[:, None].float(), (radius,) * 4, mode="replicate")
        wide = F.max_pool2d(padded, 2 * radius + 1, 1, radius)
        closed = -F.max_pool2d(-wide, 2 * radius + 1, 1, radius)[:, 0, radius:-radius, radius:-radius]
        assert torch.equal(morphology.close_gaps(mask, radius), closed.bool() | mask)


@pytest.mark.parametrize("size", SIZES)
def test_parts_are_what_a_spreading_number_reaches(size):
    mask = pictures(size)
    numbers = torch.arange(1.0, mask[0].numel() + 1).view(size)
    reached = spread(numbers * mask, mask, True)
    for picture, expected in zip(mask, reached):
        found, parts = morphology.label(picture)
        assert parts == len(expected[expected > 0].unique()) and torch.equal(found > 0, picture)
        for number in range(1, parts + 1):
            assert len(expected[found == number].unique()) == 1
    for kept in (1, 2, 5):
        largest = torch.zeros_like(mask)
        for row, numbered in enumerate(reached):
            names, sizes = numbered[numbered > 0].unique(return_counts=True)
            largest[row] = torch.isin(numbered, names[sizes.argsort(descending=True, stable=True)[:kept]])
        assert torch.equal(morphology.keep_largest(mask, kept), largest)
    core = mask & pictures(size, seed=1)
    assert torch.equal(morphology.touching(mask, core), spread(core.float(), mask, True).bool())


def test_the_histogram_and_all_splits_agree_to_a_step():
    """Two heaps apart from each other: between them every threshold is as good, and both take the middle."""
    generator = torch.Generator().manual_seed(0)
    values = torch.cat((0.1 * torch.rand(2, 900, generator=generator), 0.7 + 0.2 * torch.rand(2, 60)), 1)
    assert torch.allclose(morphology.otsu(values), morphology.otsu(values, 256), rtol=0, atol=2 / 256)


def old_gradient(knot, xs, ys):
    """The derivative at a knot: the weighted harmonic mean of its sides; at an end, of the parabola through three."""
    middle = min(max(knot, 1), len(xs) - 2)
    left, right = xs[middle] - xs[middle - 1], xs[middle + 1] - xs[middle]
    before, after = (ys[middle] - ys[middle - 1]) / left, (ys[middle + 1] - ys[middle]) / right
    if knot == middle:
        return 3 * (left + right) / ((2 * right + left) / before + (right + 2 * left) / after)
    near, far, own, other = (left, right, before, after) if knot == 0 else (right, left, after, before)
    return max(((2 * near + far) * own - near * other) / (near + far), 0.0)


@pytest.mark.parametrize("count", [3, 4, 9])
def test_the_monotone_curve_is_the_cubic_with_harmonic_derivatives(count):
    generator = torch.Generator().manual_seed(count)
    xs, ys = ((0.3 + torch.rand(count, generator=generator, dtype=torch.float64)).cumsum(0).tolist() for _ in "xy")
    for i in range(count - 1):
        width, rise = xs[i + 1] - xs[i], ys[i + 1] - ys[i]
        start, end = (width * old_gradient(knot, xs, ys) for knot in (i, i + 1))
        for t in (0.0, 0.25, 0.6, 1.0):
            expected = ys[i] + t * t * (3 - 2 * t) * rise + t * (1 - t) * ((1 - t) * start - t * end)
            assert _interpolate(xs[i] + t * width, xs, ys) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("strip", [1, 40, 10**9])
def test_strips_of_a_large_picture_give_what_the_whole_gives(strip, monkeypatch):
    mask = pictures((33, 20))
    whole = [morphology.dilate(mask, 4.5), morphology.grow(mask.float(), -6), morphology.soften(mask.float(), 9)]
    monkeypatch.setattr(morphology, "STRIP", strip)
    parts = [morphology.dilate(mask, 4.5), morphology.grow(mask.float(), -6), morphology.soften(mask.float(), 9)]
    assert torch.equal(parts[0], whole[0]) and torch.equal(parts[1], whole[1])
    assert torch.allclose(parts[2], whole[2], atol=1e-6)
