"""From heat maps to masks, without any model."""

import pytest
import torch
import torch.nn.functional as F
from palimpsest.guidance.diffedit.masks import (
    ONE_LEVEL,
    Frame,
    MaskRecipe,
    clip_outliers,
    enclose,
    fences,
    find,
    finish,
    one_level,
    rescale,
    separability,
    thresholds,
    to_size,
)
from palimpsest.guidance.morphology import close_gaps, fill_holes, grow, keep_largest, otsu, soften

PLAIN = MaskRecipe(outliers="none", gap=0, fill_holes=False, soft_edge=0)


def blob(fraction: float, contrast: float = 5.0, noise: float = 0.2, size: int = 40, seed: int = 0):
    """A map with an object of this fraction of the area, and the object."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    distance = ((x - size / 2) ** 2 + (y - size / 2) ** 2).float()
    truth = distance < distance.flatten().sort().values[round(fraction * size * size)]
    rough = (1 + noise * torch.randn(size, size, generator=generator)).clamp_min(0.05)
    heat = torch.where(truth, contrast, 1.0) * rough
    return heat[None], truth[None]


def faint(fraction: float, contrast: float, noise: float, seed: int):
    """The same with noise that neighbours share, as maps have it."""
    generator = torch.Generator().manual_seed(seed)
    _, truth = blob(fraction)
    rough = F.avg_pool2d(torch.randn(1, 40, 40, generator=generator), 3, 1, 1, count_include_pad=False)
    return torch.where(truth, contrast, 1.0) * (1 + noise * rough / rough.std()).clamp_min(0.05), truth


def iou(a, b):
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.3, 0.6, 0.9])
def test_the_adaptive_threshold_follows_the_size_of_the_object(fraction):
    heat, truth = blob(fraction)
    assert iou(find(heat, PLAIN)[0], truth) > 0.9


@pytest.mark.parametrize(("noise", "most"), [(0.2, 1.5), (0.3, 4.0)])
def test_a_small_faint_thing_is_not_lost_in_the_noise(noise, most):
    """3 % of the area, twice as bright as the rest. Otsu's alone marks 7 to 20 times as much in most maps; the map
    says so."""
    lost, areas = 0, []
    for seed in range(12):
        heat, truth = faint(0.03, 2.0, noise, seed)
        bare = heat > otsu(heat.flatten(1))[:, None, None]
        if bare.sum() < 7 * truth.sum():
            continue
        lost += 1
        found = find(heat, MaskRecipe())[0]
        areas.append(float(found.sum() / truth.sum()))
        assert one_level(heat) and (found & truth).sum() > truth.sum() / 3
    assert lost > 8 and sum(areas) / lost < most


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("fraction", "contrast"), [(0.03, 5.0), (0.1, 3.0), (0.3, 2.0), (0.6, 1.5), (0.6, 3.0)])
def test_what_separates_is_split_by_otsu_alone(fraction, contrast, seed):
    heat, _ = faint(fraction, contrast, 0.3, seed)
    flat = heat.flatten(1)
    assert torch.equal(thresholds(heat, "adaptive"), otsu(flat))
    assert contrast < 2 or not one_level(heat)


def test_separability_of_two_levels_and_of_one_population():
    levels = torch.tensor([[0.0] * 6 + [3.0] * 4])
    assert float(separability(levels, otsu(levels))) == pytest.approx(1)
    normal = torch.randn(3, 20000, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(separability(normal, otsu(normal)), torch.full((3,), ONE_LEVEL), atol=0.01)
    flat = torch.ones(1, 5)
    assert float(separability(flat, otsu(flat))) == 0


def test_one_and_a_half_times_the_mean_never_marks_more_than_two_thirds():
    """Markov's inequality; the reason why it is not the default."""
    heat, truth = blob(0.9)
    mean_rule = MaskRecipe(outliers="clip at 3 x mean", threshold="1.5 x mean", gap=0, fill_holes=False)
    assert find(heat, mean_rule)[0].float().mean() < 2 / 3 and iou(find(heat, mean_rule)[0], truth) < 0.5


def test_otsu_against_the_definition():
    values = torch.rand(3, 60, generator=torch.Generator().manual_seed(1)) ** 3
    for row, found in zip(values, otsu(values)):
        between = {}
        for level in row.sort().values[:-1].tolist():
            low, high = row[row <= level], row[row > level]
            between[level] = len(low) * len(high) * float(high.mean() - low.mean()) ** 2
        best = max(between, key=between.get)
        assert torch.equal(row > found, row > best)


def test_otsu_of_equal_values_marks_nothing():
    flat = torch.full((1, 30), 0.7)
    assert not (flat > otsu(flat)[:, None]).any()


def test_thresholds_are_each_picture_s_own():
    one, _ = blob(0.1)
    other, _ = blob(0.5, contrast=3.0, seed=1)
    both = torch.cat((one, 100 * other))
    for rule in ("adaptive", "fixed", "1.5 x mean"):
        alone = torch.cat((thresholds(one, rule), thresholds(100 * other, rule)))
        assert torch.equal(thresholds(both, rule), alone)


@pytest.mark.parametrize("rule", ["adaptive", "fixed", "1.5 x mean"])
def test_thresholds_scale_with_the_map(rule):
    heat, _ = blob(0.2)
    torch.testing.assert_close(thresholds(4 * heat, rule), 4 * thresholds(heat, rule))


def test_a_lower_fixed_level_marks_more():
    heat, _ = blob(0.2, noise=0.6)
    recipes = [MaskRecipe(threshold="fixed", level=level) for level in (0.75, 0.5, 0.25)]
    areas = [float(find(heat, recipe)[0].float().mean()) for recipe in recipes]
    assert areas == sorted(areas) and areas[0] < areas[-1]


def test_outliers():
    heat, truth = blob(0.2)
    heat[0, 0, 0] = 1000.0
    fixed = MaskRecipe(outliers="none", threshold="fixed", gap=0, fill_holes=False)
    assert int(find(heat, fixed)[0].sum()) == 1
    for rule in ("clip at 3 x mean", "clip beyond the quartiles"):
        assert float(clip_outliers(heat, rule).max()) < 20 and torch.equal(clip_outliers(heat, "none"), heat)
    assert iou(find(heat, MaskRecipe(outliers="clip at 3 x mean", threshold="fixed"))[0], truth) > 0.85


def test_rescaling():
    heat, _ = blob(0.2)
    scaled = rescale(torch.cat((heat, torch.full_like(heat, 3.0))))
    assert float(scaled[0].min()) == 0 and float(scaled[0].max()) == 1 and not scaled[1].any()
    torch.testing.assert_close(rescale(7 * heat + 2), rescale(heat), atol=1e-5, rtol=0)


def test_a_flat_map_gives_an_empty_mask():
    mask, _ = find(torch.full((1, 8, 8), 0.3), MaskRecipe())
    assert not mask.any()


def ring(gap: int = 0):
    """A ring of two cells' width, with a gap in its upper side."""
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[0, 6:22, 6:22] = True
    mask[0, 8:20, 8:20] = False
    mask[0, 6:8, 12 : 12 + gap] = False
    return mask


def test_holes_are_filled_and_bays_are_not():
    assert int(fill_holes(ring()).sum()) == 16 * 16
    assert torch.equal(fill_holes(ring(gap=1)), ring(gap=1))
    assert torch.equal(fill_holes(~ring()), torch.ones(1, 32, 32, dtype=torch.bool))


@pytest.mark.parametrize(("gap", "radius"), [(1, 1), (2, 1), (4, 2)])
def test_gaps_are_closed_up_to_twice_the_radius(gap, radius):
    assert int(fill_holes(close_gaps(ring(gap), radius)).sum()) == 16 * 16
    assert int(fill_holes(close_gaps(ring(gap + 3), radius)).sum()) < 16 * 16


def test_closing_takes_nothing_away_and_does_not_leak_at_the_border():
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[0, 3:9, :5] = True
    assert torch.equal(close_gaps(mask, 2), mask)
    lone = torch.zeros(1, 16, 16, dtype=torch.bool)
    lone[0, 0, 0] = True
    assert torch.equal(close_gaps(lone, 1), lone)


def test_only_the_largest_parts_are_kept():
    mask = torch.zeros(2, 20, 20, dtype=torch.bool)
    mask[0, 1:4, 1:4] = mask[0, 10:18, 10:18] = mask[0, 1, 18] = True
    mask[1, 0, 0] = mask[1, 1, 1] = True  # corners connect
    one, two = keep_largest(mask, 1), keep_largest(mask, 2)
    assert int(one[0].sum()) == 64 and int(two[0].sum()) == 73 and int(keep_largest(mask, 9)[0].sum()) == 74
    assert torch.equal(one[1], mask[1])
    assert not keep_largest(torch.zeros(1, 5, 5, dtype=torch.bool), 1).any()


def test_a_winding_part_is_one_part():
    mask = torch.zeros(1, 33, 33, dtype=torch.bool)
    mask[0, ::2] = True
    for i, row in enumerate(range(1, 32, 2)):
        mask[0, row, -1 if i % 2 else 0] = True
    assert torch.equal(keep_largest(mask, 1), mask)


def test_the_complement_is_what_was_not_found():
    heat, _ = blob(0.2)
    assert torch.equal(find(heat, MaskRecipe(complement=True))[0], ~find(heat, MaskRecipe())[0])
    both = torch.cat([heat, torch.ones_like(heat)])
    first, second = find(both, MaskRecipe(complement=True))[0]
    assert first.any() and not second.any(), "the rest of nothing was marked"


def test_growing_is_near_to_a_disc_and_undone_by_narrowing():
    mask = torch.zeros(1, 61, 61)
    mask[0, 30, 30] = 1
    wide = grow(mask, 20)
    squared = (torch.arange(61) - 30) ** 2
    squared = squared + squared[:, None]
    # It holds all of a disc of 18 and lies in one of 23: an octagon whose sides are 20 away reaches to 21.6.
    assert int(squared[wide[0] > 0].max()) <= 23**2 and int(squared[wide[0] == 0].min()) > 18**2
    square = torch.zeros(1, 61, 61)
    square[0, 10:50, 10:50] = 1
    assert torch.equal(grow(grow(square, 5), -5), square)


def test_the_soft_edge_lies_outside_and_ends():
    mask = torch.zeros(1, 64, 64)
    mask[0, 20:40, 20:40] = 1
    soft = soften(mask, 8)
    assert torch.equal(soft[mask > 0], torch.ones(400))
    assert not soft[:, :11].any() and not soft[:, :, 49:].any()
    row = soft[0, 30, 40:49]
    assert (row.diff() <= 0).all() and 0 < float(row[3]) < 1
    assert torch.equal(soften(mask, 0), mask)


def test_full_and_empty_masks_stay_so():
    for value in (0.0, 1.0):
        mask = torch.full((1, 32, 32), value)
        assert torch.equal(soften(mask, 9), mask) and torch.equal(grow(mask, 3), mask)


def test_any_size_of_picture():
    mask = torch.zeros(2, 9, 13, dtype=torch.bool)
    mask[:, 2:5, 3:9] = True
    hard, soft = finish(mask, Frame(72, 104), MaskRecipe())
    assert hard.shape == soft.shape == (2, 72, 104) and set(hard.unique().tolist()) == {0.0, 1.0}
    # The outline is that of the cells, up to half a cell: four of its eight pixels.
    cells = mask.float().repeat_interleave(8, 1).repeat_interleave(8, 2)
    near = lambda cells: torch.nn.functional.max_pool2d(cells[:, None], 9, stride=1, padding=4)[:, 0]
    assert (hard <= near(cells)).all() and (hard >= 1 - near(1 - cells)).all()


def test_what_the_vae_cropped_is_set_back():
    """VAE Encode takes the middle; the mask of a 75 x 106 picture lies one pixel in."""
    values = torch.arange(9 * 13.0).view(1, 9, 13)
    whole = to_size(values, Frame(72, 104, 75, 106))
    assert whole.shape == (1, 75, 106)
    assert torch.equal(whole[:, 1:73, 1:105], to_size(values, Frame(72, 104)))
    assert torch.equal(whole[:, 0], whole[:, 1])


def test_rows_do_not_depend_on_the_batch():
    heats = torch.cat([blob(fraction, seed=i)[0] for i, fraction in enumerate((0.05, 0.3, 0.7))])
    recipe = MaskRecipe(parts=1, grow=3)
    mask, _ = find(heats, recipe)
    hard, soft = finish(mask, Frame(80, 80), recipe)
    for i in range(3):
        alone, _ = find(heats[i : i + 1], recipe)
        assert torch.equal(alone, mask[i : i + 1])
        hard_alone, soft_alone = finish(alone, Frame(80, 80), recipe)
        assert torch.equal(hard_alone[0], hard[i])
        torch.testing.assert_close(soft_alone[0], soft[i], atol=1e-6, rtol=0)


def fence(weakest: float, cut_off: bool = False):
    """A square outline, bright at its corners and faint between, on a slightly rough ground; and what it encloses."""
    size, low, high = 32, 8, 24
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    top = 0 if cut_off else low
    inside = (x >= low) & (x < high) & (y >= top) & (y < high)
    core = (x > low) & (x < high - 1) & (y >= (0 if cut_off else low + 1)) & (y < high - 1)
    far = ((x - 15.5).abs() * (y - 15.5).abs() / 7.5**2).clamp(0, 1)
    heat = torch.where(inside & ~core, weakest + (1 - weakest) * far**2, 0.02)
    return (heat + 0.01 * torch.rand(size, size, generator=torch.Generator().manual_seed(0)))[None], inside[None]


@pytest.mark.parametrize("cut_off", [False, True])
def test_a_faint_outline_becomes_an_object(cut_off):
    heat, inside = fence(0.15, cut_off)
    assert iou(find(heat, MaskRecipe())[0], inside) > 0.85
    assert iou(find(heat, MaskRecipe(fill_holes=False))[0], inside) < 0.5


def test_the_fence_is_the_lowest_way_out():
    heat, inside = fence(0.15)
    height = fences(heat)
    assert (height >= heat).all() and float(height[~inside].max()) < 0.04
    inner = height[0, 12:20, 12:20]
    # The lowest way leads through a cell at the weakest strength, 0.15, and its grain, up to 0.01.
    assert float(inner.min()) == float(inner.max()) and 0.15 <= float(inner.max()) <= 0.17
    assert torch.equal(fences(heat.flip(1)), height.flip(1)) and torch.equal(fences(heat.mT), height.mT)


def test_chance_encloses_nothing():
    """A rough ground beside a bright object, and rings that do not touch it, stay out."""
    heat, truth = blob(0.1, noise=0.3)
    assert iou(enclose(heat, heat > thresholds(heat, "adaptive")[:, None, None]), truth) > 0.9
    ring_only = 0.02 + 0.3 * ring().float()
    assert not enclose(ring_only, torch.zeros_like(ring())).any()


def flooded(heat):
    """Fences by the definition: the water rises from the open sides, a cell at a time."""
    best = torch.zeros_like(heat)
    for closed in (None, "top", "bottom", "left", "right"):
        padded = torch.full((heat.shape[0] + 2, heat.shape[1] + 2), torch.inf)
        sides = {"top": padded[0], "bottom": padded[-1], "left": padded[:, 0], "right": padded[:, -1]}
        for name, side in sides.items():
            if name != closed:
                side[1:-1] = 0
        while True:
            before = padded[1:-1, 1:-1].clone()
            around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
            lowest = torch.stack([before, *around]).amin(0)
            padded[1:-1, 1:-1] = torch.minimum(before, torch.maximum(lowest, heat))
            if torch.equal(before, padded[1:-1, 1:-1]):
                break
        best = torch.maximum(best, before)
    return best


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 4), (17, 23)])
def test_fences_are_as_high_as_the_lowest_way_out(size):
    heat = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    heat[1] = (5 * heat[1]).round()  # with many equal values, and zeros
    assert torch.equal(fences(heat), torch.stack([flooded(one) for one in heat]))
