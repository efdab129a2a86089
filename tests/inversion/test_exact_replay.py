"""Exact replay on closed forms: any pairing comes back along its own path, at no further evaluation."""

import itertools

import pytest
import torch
from palimpsest.inversion.ddim import PAIRINGS, evaluation_point, invert_and_record, replay
from palimpsest.inversion.exact_replay import evaluated_at, replayed
from palimpsest.inversion.sigmas import rising_sigmas
from palimpsest.inversion.trajectory import Trajectory

from .analytic import SIGMA_MAX, SIGMA_MIN, Gaussian, falling, rows

SHAPE = (2, 4, 6, 5)
CASES = [(pairing, refinement) for pairing in PAIRINGS for refinement in (0, 1, 3)]


def levels(flow: bool, steps: int = 8) -> torch.Tensor:
    if flow:
        return rising_sigmas(torch.linspace(1, 0, steps + 1), sigma_min=1e-3, sigma_max=1.0, flow=True)
    return rising_sigmas(falling(steps), sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)


def picture(seed: int = 0) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


class Bent(Gaussian):
    """A denoiser that is not affine: the closed form of a Gaussian, and a part that bends with x and with the level."""

    def __call__(self, x, sigma):
        s = rows(sigma, x)
        return super().__call__(x, sigma) + 0.3 * torch.sin(2 * x / (1 + s)) * torch.cos(s)


def model(flow: bool) -> Bent:
    return Bent(torch.linspace(0.01, 2.0, 4 * 6 * 5).reshape(4, 6, 5), mean=0.2, flow=flow)


def inverted(denoise, flow, pairing, refinement=0) -> Trajectory:
    how = dict(flow=flow, pairing=pairing, refinement=refinement, tolerance=0.0)
    path, points = invert_and_record(denoise, picture(), levels(flow), **how)
    kind = "flow" if flow else "eps"
    return Trajectory(levels(flow), path, "", 1.0, "", kind, "SD15", pairing=pairing, evaluated=points)


def shifted(denoise, trajectory: Trajectory):
    """The model contract, with every question put where the inversion put it."""
    at = lambda x, level: denoise(x, torch.full((len(x),), level, dtype=torch.float32))
    return lambda x, sigma: replayed(at, x, trajectory, trajectory.index_of(float(sigma[0])))


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_a_shifted_step_undoes_the_inversion_s_in_double_precision(pairing, flow):
    """x_s = x_t + (s - t) (x_t - D'(x_t)) / t for D' = x - (t / q) (y - D(y, q)), to the last bits of a double."""
    denoise, x, steps = model(flow), picture().double(), levels(flow).tolist()
    derivatives = []
    for s, t in itertools.pairwise(steps):
        y, q = evaluation_point(pairing, x, s, t, derivatives, flow=flow)
        derivative = (y - denoise(y, torch.full((len(x),), q))) / q
        end = x + (t - s) * derivative
        prediction = end - t / q * (y - denoise(y, torch.full((len(x),), q)))
        if q == t:
            delta = y - end
            torch.testing.assert_close(prediction, denoise(end + delta, torch.full((len(x),), t)) - delta)
        torch.testing.assert_close(end + (s - t) * (end - prediction) / t, x, atol=1e-12, rtol=1e-12)
        derivatives = [*derivatives[-1:], ((s, t), derivative)]
        x = end


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize(("pairing", "refinement"), CASES)
def test_the_whole_path_comes_back(pairing, refinement, flow):
    """To what single precision leaves: rounding grows with the noise level, and nothing else does."""
    denoise = model(flow)
    trajectory = inverted(denoise, flow, pairing, refinement)
    path = trajectory.latents
    plain = (replay(denoise, path[-1], trajectory.sigmas) - path).abs().max()
    exact = (replay(shifted(denoise, trajectory), path[-1], trajectory.sigmas) - path).abs().max()
    assert float(exact) < 2e-5 * float(path.abs().max())
    assert refinement == 3 or float(exact) < 1e-2 * float(plain)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize(("pairing", "refinement"), CASES)
def test_the_network_is_asked_as_the_inversion_asked_it(pairing, refinement, flow):
    """To the last bit where the sampler is at the trajectory's own latent, and once a step."""
    asked = []

    def spied(x, sigma):
        asked.append((float(sigma[0]), x.clone()))
        return model(flow)(x, sigma)

    trajectory = inverted(spied, flow, pairing, refinement)
    going_up, each = list(asked), refinement + 1
    asked.clear()
    for index in range(1, len(trajectory)):
        x = trajectory.latents[index]
        shifted(spied, trajectory)(x, trajectory.sigmas[index].expand(len(x)))
    assert len(asked) == len(trajectory) - 1
    assert len(going_up) == each * len(asked)
    for index, (level, x) in enumerate(asked):
        known = going_up[index * each : (index + 1) * each]
        # A row whose refinement ran away keeps an earlier answer.
        for row in range(len(x)):
            assert any(level == known_level and torch.equal(x[row], y[row]) for known_level, y in known)


@pytest.mark.parametrize("flow", [False, True])
def test_an_edit_gets_the_source_s_shift(flow):
    """D'(x, t) = D(x + delta, t) - delta for every x, one trajectory for all rows."""
    denoise = model(flow)
    whole = inverted(denoise, flow, "held")
    one = Trajectory(whole.sigmas, whole.latents[:, :1], "", 1.0, "", whole.prediction, "SD15", pairing="held")
    index, x = 5, picture(3) * 2
    level = float(one.sigmas[index])
    delta = evaluated_at(one, index)[0] - one.latents[index]
    sigma = torch.full((len(x),), level)
    expected = denoise(x + delta, sigma) - delta
    torch.testing.assert_close(shifted(denoise, one)(x, sigma), expected, atol=1e-4, rtol=1e-5)


def test_where_the_inversion_asked_is_not_guessed():
    known = inverted(model(False), False, "extrapolated")
    old = Trajectory(known.sigmas, known.latents, "", 1.0, "", "eps", "SD15")
    with pytest.raises(ValueError, match="invert the picture again"):
        evaluated_at(old, 1)
