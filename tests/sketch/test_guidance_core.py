"""The step's length, the loss and its gradient, the targets and the score, in closed form."""

import math

import pytest
import torch
from palimpsest.guidance.morphology import dilate
from palimpsest.guidance.sketch.guidance import (
    SketchRecipe,
    SketchTarget,
    blur_at,
    guided_shift,
    next_gain,
    next_level,
    renewed,
    row_norm,
    sketch_loss,
    sketch_target,
)
from palimpsest.guidance.sketch.predictor import PredictorSpec
from palimpsest.guidance.sketch.targets import blur, closeness, edge_target
from palimpsest.papercut.edge_score import edge_score

SIGMA, NEXT = torch.tensor([9.0, 9.0, 9.0]), 4.0


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def euler(x, x0, sigma, following):
    return x + (following - sigma) * (x - x0) / sigma


def preserving(x, sigma):
    """The paper's z of the host's x."""
    return x / math.sqrt(1 + sigma * sigma)


# The law of the step


@pytest.mark.parametrize("following", [8.5, 4.0, 0.0])
@pytest.mark.parametrize("beta", [0.4, 1.6])
def test_the_papers_step_length_holds_for_each_row(beta, following):
    x, x0, gradient = draw(0, 3, 4, 8, 8) * 9, draw(1, 3, 4, 8, 8), draw(2, 3, 4, 8, 8)
    gradient = gradient * torch.tensor([1e-6, 1.0, 1e5]).view(3, 1, 1, 1)
    shift = guided_shift(x, x0, gradient, SIGMA, following, beta)
    plain, guided = (preserving(euler(x, p, 9.0, following), following) for p in (x0, x0 - shift))
    for row in range(3):
        z = preserving(x, 9.0)[row]
        wanted = plain[row] - beta * (z - plain[row]).norm() * gradient[row] / gradient[row].norm()
        assert torch.allclose(guided[row], wanted, rtol=1e-4, atol=1e-5)


def test_a_row_does_not_know_its_batch():
    x, x0, gradient = draw(0, 3, 4, 8, 8) * 9, draw(1, 3, 4, 8, 8), draw(2, 3, 4, 8, 8)
    together = guided_shift(x, x0, gradient, SIGMA, NEXT, 1.6)
    for row in range(3):
        one = slice(row, row + 1)
        alone = guided_shift(x[one], x0[one], gradient[one], SIGMA[one], NEXT, 1.6)
        assert torch.allclose(alone, together[one], rtol=1e-5)


def test_no_gradient_no_shift():
    x, x0 = draw(0, 2, 4, 8, 8) * 9, draw(1, 2, 4, 8, 8)
    gradient = torch.stack((torch.zeros(4, 8, 8), draw(2, 4, 8, 8)))
    shift = guided_shift(x, x0, gradient, SIGMA[:2], NEXT, 1.6)
    assert torch.isfinite(shift).all()
    assert torch.equal(shift[0], torch.zeros_like(shift[0])) and shift[1].abs().max() > 0


@pytest.mark.parametrize(
    "steps,renew,anew",
    [(30, 0.045, "111010101010100"), (12, 0.045, "11111"), (50, 0.0, "11111"), (50, 0.045, "1111100100")],
)
def test_a_gradient_serves_for_a_fraction_of_the_run(steps, renew, anew):
    found = renewed([i / (steps - 1) for i in range(len(anew))], renew)
    assert "".join(str(int(one)) for one in found) == anew


def test_a_row_goes_farther_along_a_gradient_that_lasts_and_less_along_one_that_turns():
    before, gain = draw(2, 4, 4, 8, 8), torch.tensor([1.0, 1.0, 1.9, 0.21]).view(4, 1, 1, 1)
    factors = torch.tensor([3.0, -0.1, 1.0, -1e5]).view(4, 1, 1, 1)
    found = next_gain(gain, before * factors, before, 0.5).flatten()
    assert found.tolist() == pytest.approx([math.exp(0.5), math.exp(-0.5), 2.0, 0.2])
    across = torch.cat((-before[:1, 1:2], before[:1, :1], torch.zeros(1, 2, 8, 8)), 1)
    assert float(next_gain(1.0, across, before[:1], 0.5)) == pytest.approx(1.0)
    assert float(next_gain(0.7, torch.zeros(1, 4, 8, 8), before[:1], 0.5)) == pytest.approx(0.7)
    left = torch.zeros(1, 1, 8, 8)
    left[..., :4] = 1
    assert float(next_gain(1.0, before[:1] * (2 * left - 1), before[:1], 0.5, left)) == pytest.approx(math.exp(0.5))


def test_without_adaption_and_without_a_gradient_before_the_gain_stays():
    gradient = draw(2, 2, 4, 8, 8)
    assert next_gain(1.0, gradient, None, 0.5) == 1.0 and next_gain(1.0, gradient, gradient, 0.0) == 1.0


def test_the_papers_law_is_one_word():
    paper = SketchRecipe.faithful(strength=2.0)
    assert (paper.strength, paper.blur, paper.adapt, paper.renew, paper.one_sided, paper.hold) == (2.0, *[0.0] * 5)


def test_a_region_holds_the_step_inside_and_measures_there():
    x, x0, gradient = draw(0, 3, 4, 8, 8) * 9, draw(1, 3, 4, 8, 8), draw(2, 3, 4, 8, 8)
    region = torch.zeros(1, 1, 8, 8)
    region[..., :4] = 1
    shift = guided_shift(x, x0, gradient, SIGMA, NEXT, 1.6, region)
    assert torch.equal(shift[..., 4:], torch.zeros_like(shift[..., 4:]))
    half = guided_shift(x[..., :4], x0[..., :4], gradient[..., :4], SIGMA, NEXT, 1.6)
    assert torch.allclose(shift[..., :4], half, rtol=1e-5)
    everywhere = guided_shift(x, x0, gradient, SIGMA, NEXT, 1.6, torch.ones(1, 1, 8, 8))
    assert torch.equal(everywhere, guided_shift(x, x0, gradient, SIGMA, NEXT, 1.6))


def test_the_shift_per_step_has_a_limit():
    """Samplers of higher order call the model between levels: the shift must not depend on how the step is cut."""
    x, x0, gradient = ((scale * draw(seed, 1, 4, 8, 8)).double() for seed, scale in enumerate((9, 1, 1)))
    small, smaller = (guided_shift(x, x0, gradient, SIGMA[:1], following, 1.6) for following in (8.98, 8.99))
    # To first order the shift changes by 0.01 / 9 = 0.0011; one that grew with the step would change by half.
    assert torch.allclose(small, smaller, rtol=5e-3)


SCHEDULE = torch.tensor([14.6, 9.0, 4.0, 1.0, 0.0])


@pytest.mark.parametrize(
    "sigma,found", [(14.6, (0, 9.0)), (9.0, (1, 4.0)), (6.0, (1, 4.0)), (1.0, (3, 0.0)), (0.5, (3, 0.0)), (0.0, None)]
)
def test_where_a_call_stands_in_the_schedule(sigma, found):
    where = next_level(sigma, SCHEDULE)
    assert where == (None if found is None else (found[0], pytest.approx(found[1])))


# The loss


def spec(**changes) -> PredictorSpec:
    return PredictorSpec(**{"family": "sd1", "latent_format": "SD15", "taps": ("a",), "channels": (4,), **changes})


def circle(size: int = 64) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (((x - 30.0) ** 2 + (y - 34.0) ** 2).sqrt() - 18).abs()[None] < 0.6


def target_of(kind: str, **changes) -> SketchTarget:
    lines = circle()
    latent = draw(5, 1, 4, 8, 8) if kind == "latent" else None
    made = spec(target=kind, detail=1 if kind == "latent" else 2)
    return sketch_target(made, lines, lines.float(), (8, 8), latent=latent, **changes)


@pytest.mark.parametrize("std", [0.4, 1.5, 9.0])
def test_the_blur_is_a_gaussian_with_a_reflected_border(std):
    map_ = draw(0, 2, 3, 20, 14)
    reach = min(math.ceil(3 * std), 13)
    k = torch.arange(-reach, reach + 1.0)
    weights = torch.exp(-k.square() / (2 * std**2))
    kernel = (weights[:, None] * weights / weights.sum() ** 2).expand(3, 1, -1, -1)
    padded = torch.nn.functional.pad(map_, (reach,) * 4, mode="reflect")
    assert torch.allclose(blur(map_, std), torch.nn.functional.conv2d(padded, kernel, groups=3), atol=1e-5)
    assert torch.allclose(blur(torch.ones(1, 1, 20, 14), std), torch.ones(1, 1, 20, 14), atol=1e-5)


@pytest.mark.parametrize("std", [0.0, 1.5])
@pytest.mark.parametrize("kind", ["edges", "latent"])
def test_the_loss_has_its_minimum_at_the_target(kind, std):
    target = target_of(kind)
    values = target.values if kind == "latent" else torch.logit(target.values, 1e-6)
    at = sketch_loss(values, target, std=std)
    away = sketch_loss(values + 0.5 * draw(1, *values.shape), target, std=std)
    assert at.abs() < 1e-2 and away > at + 0.02
    assert bool((sketch_loss(3 * draw(2, 5, *values.shape[1:]), target, std=std) >= 0).all())


@pytest.mark.parametrize("std", [0.0, 1.5])
@pytest.mark.parametrize("kind", ["edges", "latent"])
def test_the_gradient_of_the_loss_agrees_with_finite_differences(kind, std):
    target = target_of(kind, one_sided=0.3)
    target = SketchTarget(target.kind, target.values.double(), target.weight.double(), target.detail)
    x, direction = (draw(seed, 1, *target.values.shape[1:]).double() for seed in (1, 2))
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(sketch_loss(leaf, target, std=std).sum(), leaf)
    above, below = (sketch_loss(x + step * direction, target, std=std) for step in (1e-5, -1e-5))
    assert float((gradient * direction).sum()) == pytest.approx(float((above - below) / 2e-5), rel=1e-5)


def test_one_sided_blank_paper_costs_nothing():
    loose, strict = target_of("edges", one_sided=1.0), target_of("edges")
    logits = torch.logit(strict.values, 1e-4)
    invented = logits.clone()
    far = strict.values < 1e-3
    assert far.any()
    invented[far] = 4.0
    assert sketch_loss(invented, strict) > sketch_loss(logits, strict) + 10
    # What is left is what the paper's own values, below 1e-3, weigh.
    lenient, full = (float(sketch_loss(invented, one) - sketch_loss(logits, one)) for one in (loose, strict))
    assert abs(lenient) < 1e-3 * full
    missed = torch.full_like(logits, -4.0)
    assert sketch_loss(missed, loose) > sketch_loss(logits, loose) + 10


def test_a_stroke_of_half_weight_counts_half():
    lines = circle()
    full, half = (sketch_target(spec(), lines, w * lines.float(), (8, 8), one_sided=1.0) for w in (1.0, 0.5))
    logits = draw(1, 1, 1, 16, 16)
    assert torch.equal(full.values, half.values)
    assert sketch_loss(logits, half) == pytest.approx(0.5 * float(sketch_loss(logits, full)), rel=1e-5)


def test_only_the_region_counts():
    region = torch.zeros(1, 8, 8)
    region[..., :4] = 1
    target, logits = target_of("edges", region=region), draw(1, 1, 1, 16, 16)
    other = logits.clone()
    other[..., 8:] = 5.0
    assert sketch_loss(logits, target) == sketch_loss(other, target)


def test_the_blur_falls_to_nothing_at_the_end_of_the_window():
    recipe = SketchRecipe(start=0.2, end=0.6, blur=2.0)
    assert [blur_at(recipe, fraction) for fraction in (0.0, 0.2, 0.4, 0.6, 0.9)] == pytest.approx([2, 2, 0.5, 0, 0])


# The targets


def test_closeness_is_a_gaussian_of_the_distance():
    edges = torch.zeros(1, 40, 50)
    edges[0, 10, 20], edges[0, 30, 40] = 1.0, 0.5
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    one, two = ((y - 10) ** 2 + (x - 20) ** 2, (y - 30) ** 2 + (x - 40) ** 2)
    wanted = torch.maximum(torch.exp(-one / 32), 0.5 * torch.exp(-two / 32))
    assert (closeness(edges, 4.0) - wanted).abs().max() < 0.012


@pytest.mark.parametrize("detail", [1, 2, 4])
def test_a_target_covers_the_latent_and_scales_with_the_picture(detail):
    small, large = circle(64).float(), circle(64).float().repeat_interleave(2, 1).repeat_interleave(2, 2)
    a = edge_target(small, (8, 8), detail=detail, spread=1.0)
    b = edge_target(large, (8, 8), detail=detail, spread=1.0)
    assert a.shape == (1, 1, 8 * detail, 8 * detail) and (a - b).abs().max() < 0.1 and 0.3 < a.max() <= 1


def test_blur_keeps_the_sum_of_what_lies_inside():
    x = torch.zeros(1, 2, 21, 21)
    x[:, :, 10, 10] = 1
    soft = blur(x, 1.5)
    assert soft.sum() == pytest.approx(2.0, rel=1e-5)
    assert soft[0, 0, 10, 10] == pytest.approx(1 / (2 * math.pi * 2.25), rel=0.05)
    assert torch.equal(blur(x, 0.0), x) and torch.allclose(blur(torch.ones(1, 1, 9, 9), 2.0), torch.ones(1, 1, 9, 9))


# The score


def line(column: int) -> torch.Tensor:
    picture = torch.zeros(1, 20, 20, dtype=torch.bool)
    picture[0, :, column] = True
    return picture


@pytest.mark.parametrize("offset,score", [(0, 1.0), (2, 1.0), (3, 0.0)])
def test_two_pixels_are_tolerated(offset, score):
    found = edge_score(line(5 + offset), line(5))
    assert float(found.precision) == float(found.recall) == float(found.f1) == score


def test_precision_and_recall_are_different_things():
    both = line(5) | line(15)
    more, less = edge_score(both, line(5)), edge_score(line(5), both)
    assert (float(more.precision), float(more.recall)) == (0.5, 1.0)
    assert (float(less.precision), float(less.recall)) == (1.0, 0.5)
    assert float(more.f1) == float(less.f1) == pytest.approx(2 / 3)


def test_nothing_against_nothing_and_against_something():
    nothing = torch.zeros(1, 20, 20, dtype=torch.bool)
    assert float(edge_score(nothing, nothing).f1) == 1.0
    assert float(edge_score(nothing, line(5)).f1) == float(edge_score(line(5), nothing).f1) == 0.0


def test_the_tolerance_is_a_disc():
    dot = torch.zeros(1, 9, 9, dtype=torch.bool)
    dot[0, 4, 4] = True
    assert int(dilate(dot, 2.0).sum()) == 13 and int(dilate(dot, 1.5).sum()) == 9


def test_row_norm():
    x = draw(0, 3, 4, 8, 8)
    assert row_norm(x).shape == (3, 1, 1, 1) and row_norm(x)[1].item() == pytest.approx(float(x[1].norm()), rel=1e-6)


def test_the_papers_step_rule_leaves_the_three_numbers_out():
    recipe = SketchRecipe(strength=1.2, renew=0.1, adapt=0.7, hold=0.2)
    assert recipe.with_step_rule("palimpsest") == recipe
    assert recipe.with_step_rule("paper") == SketchRecipe(strength=1.2, renew=0.0, adapt=0.0, hold=0.0)
