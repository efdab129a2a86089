"""DDIM inversion against closed forms: the exact path, the step's formula, exact replay, limits, determinism."""

import itertools

import pytest
import torch
from palimpsest.inversion.ddim import PAIRINGS, invert, replay
from palimpsest.inversion.sigmas import rising_sigmas

from .analytic import SIGMA_MAX, SIGMA_MIN, Gaussian, falling

SHAPE = (3, 4, 6, 5)


def levels(steps: int, flow: bool = False) -> torch.Tensor:
    if flow:
        return rising_sigmas(torch.linspace(1, 0, steps + 1), sigma_min=1e-3, sigma_max=1.0, flow=True)
    return rising_sigmas(falling(steps), sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)


def picture(seed: int = 0) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def spectrum() -> torch.Tensor:
    """A variance for each element, from a hundredth to two, as pictures have strong and weak parts."""
    return torch.linspace(0.01, 2.0, 4 * 6 * 5).reshape(4, 6, 5)


def rms(x: torch.Tensor) -> float:
    return float(x.square().mean().sqrt())


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_fine_steps_follow_the_exact_path(pairing, flow):
    model = Gaussian(0.5, mean=0.3, flow=flow)
    errors = []
    for steps in (50, 400):
        rising = levels(steps, flow)
        exact = model.path(picture(), rising)
        scale = exact[-1].std()
        errors.append(rms(invert(model, picture(), rising, pairing=pairing, flow=flow)[-1] - exact[-1]) / float(scale))
    assert errors[1] < 0.02 and errors[1] < errors[0] / 4


@pytest.mark.parametrize("pairing", ["papers", "same level"])
def test_a_step_is_the_papers_formula(pairing):
    """z' = sqrt(a'/a) z + sqrt(a') (sqrt(1/a' - 1) - sqrt(1/a - 1)) eps, in the network's own variables."""
    rising = torch.tensor([0.5, 2.0])
    model, x = Gaussian(0.7), picture()
    a, a_next = (1 / (1 + rising.double() ** 2)).tolist()
    z = x.double() * a**0.5
    at = 1 if pairing == "papers" else 0
    alpha = (a, a_next)[at]
    sigma = rising[at].expand(len(x))
    eps = (z / alpha**0.5 - model(z / alpha**0.5, sigma)) / float(rising[at])
    z_next = (a_next / a) ** 0.5 * z + a_next**0.5 * ((1 / a_next - 1) ** 0.5 - (1 / a - 1) ** 0.5) * eps
    got = invert(model, x, rising, pairing=pairing)[-1]
    assert torch.allclose(got.double(), z_next / a_next**0.5, atol=1e-6)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_refinement_converges_to_exact_replay(pairing, flow):
    model, rising = Gaussian(spectrum(), flow=flow), levels(20, flow)
    errors = []
    for refinement in (0, 1, 2, 60):
        path = invert(model, picture(), rising, pairing=pairing, flow=flow, refinement=refinement, tolerance=0.0)
        errors.append(rms(replay(model, path[-1], rising)[0] - picture()))
    assert errors[3] < 2e-6
    assert all(better < worse for worse, better in itertools.pairwise(errors))


def test_the_whole_path_is_replayed_not_only_its_end():
    model, rising = Gaussian(spectrum()), levels(15)
    path = invert(model, picture(), rising, refinement=60, tolerance=0.0)
    assert float((replay(model, path[-1], rising) - path).abs().max()) < 2e-5


def test_the_default_pairing_reconstructs_best():
    model, rising = Gaussian(spectrum()), levels(20)
    errors = {
        pairing: rms(replay(model, invert(model, picture(), rising, pairing=pairing)[-1], rising)[0] - picture())
        for pairing in PAIRINGS
    }
    default = rms(replay(model, invert(model, picture(), rising)[-1], rising)[0] - picture())
    assert default == min(errors.values()) and default < errors["papers"] / 3


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_evaluations_are_counted_as_promised(pairing):
    model, rising = Gaussian(spectrum()), levels(10)
    invert(model, picture(), rising, pairing=pairing)
    assert model.calls == 10
    invert(model, picture(), rising, pairing=pairing, refinement=2, tolerance=0.0)
    assert model.calls == 10 + 30


def test_refinement_stops_when_nothing_changes_any_more():
    model, rising = Gaussian(0.5), levels(40)
    invert(model, picture(), rising, refinement=50)
    assert model.calls < 40 * 5


@pytest.mark.parametrize("weight", [2.0, 4.0, 8.0, 16.0])
def test_a_refinement_that_runs_away_is_given_up(weight):
    """Guidance so strong that the fixed point repels: no step may end with a larger error than without refinement."""
    strong, weak = Gaussian(spectrum()), Gaussian(spectrum() * 4)

    def guided(x, sigma):
        return weak(x, sigma) + weight * (strong(x, sigma) - weak(x, sigma))

    step = torch.tensor([0.5, 3.0])
    plain, refined = (
        rms(replay(guided, invert(guided, picture(), step, refinement=k)[-1], step)[0] - picture()) for k in (0, 30)
    )
    assert refined <= plain


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_a_row_does_not_know_its_neighbours(pairing):
    model, rising = Gaussian(spectrum()), levels(12)
    x = picture() * torch.tensor([0.1, 1.0, 3.0]).reshape(3, 1, 1, 1)
    together = invert(model, x, rising, pairing=pairing, refinement=4)
    for row in range(3):
        alone = invert(model, x[row : row + 1], rising, pairing=pairing, refinement=4)
        assert torch.equal(together[:, row : row + 1], alone)


def test_the_same_again_gives_the_same_again_and_inputs_stay():
    model, rising, x = Gaussian(spectrum()), levels(12), picture()
    first = invert(model, x, rising, refinement=2)
    assert torch.equal(first, invert(model, x, rising, refinement=2))
    assert torch.equal(x, picture()) and torch.equal(rising, levels(12))
    assert torch.equal(first[0], x)
    noisy = first[-1].clone()
    replay(model, first[-1], rising)
    assert torch.equal(first[-1], noisy)


def test_half_latents_are_computed_in_float():
    path = invert(Gaussian(0.5), picture().half(), levels(5))
    assert path.dtype == torch.float32


def test_a_model_that_answers_nan_is_named():
    def broken(x, sigma):
        return x * float("nan")

    with pytest.raises(ValueError, match="not a number"):
        invert(broken, picture(), levels(5))
    with pytest.raises(ValueError, match="not a number"):
        replay(broken, picture(), levels(5))


def test_an_unknown_pairing_is_named():
    with pytest.raises(ValueError, match="choose one of"):
        invert(Gaussian(0.5), picture(), levels(5), pairing="sideways")


def test_steps_are_reported_with_the_prediction():
    seen = []
    invert(Gaussian(0.5), picture(), levels(4), on_step=lambda i, n, x, x0: seen.append((i, n, x.shape, x0.shape)))
    assert [s[:2] for s in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)] and seen[0][2] == SHAPE == seen[0][3]
    seen.clear()
    replay(Gaussian(0.5), picture(), levels(4), on_step=lambda i, n, x, x0: seen.append((i, n)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
