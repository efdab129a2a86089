"""The trajectory is a value: exact at its levels, interpolated between them, and never inconsistent."""

import dataclasses

import pytest
import torch
from palimpsest.inversion.trajectory import Trajectory


def make(**changes) -> Trajectory:
    levels = torch.tensor([0.0, 0.5, 2.0, 14.6])
    latents = torch.randn(4, 2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    values = dict(
        sigmas=levels,
        latents=latents,
        prompt="a red kite",
        cfg=1.0,
        fingerprint="f",
        prediction="eps",
        latent_format="SD15",
    )
    return Trajectory(**{**values, **changes})


def test_it_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().cfg = 2.0


def test_size_and_kind():
    trajectory = make()
    assert (len(trajectory), trajectory.rows, trajectory.flow) == (4, 2, False)
    assert make(prediction="flow", sigmas=torch.tensor([0.0, 0.2, 0.5, 1.0])).flow
    assert "4 levels" in repr(trajectory)


def test_a_level_gives_the_stored_latent():
    trajectory = make()
    for i, sigma in enumerate(trajectory.sigmas.tolist()):
        assert torch.equal(trajectory.at(sigma), trajectory.latents[i])
        assert trajectory.index_of(sigma * 1.0005) == i


def test_between_levels_it_interpolates_in_sigma():
    trajectory = make()
    expected = trajectory.latents[1] + (trajectory.latents[2] - trajectory.latents[1]) * (1.0 - 0.5) / 1.5
    assert torch.allclose(trajectory.at(1.0), expected, atol=1e-6)
    assert trajectory.index_of(1.0) is None


def test_a_part_has_all_that_belongs_to_its_pictures():
    whole = make(evaluated=torch.rand(3, 2, 4, 3, 5), noise_mask=torch.tensor([0.0, 1.0])[:, None, None])
    for rows in (slice(1, 2), [1]):
        part = whole.part(rows)
        assert part.rows == 1 and torch.equal(part.latents, whole.latents[:, 1:])
        assert torch.equal(part.evaluated, whole.evaluated[:, 1:]) and part.noise_mask.tolist() == [[[1.0]]]
    assert make(noise_mask=torch.ones(1, 2, 2)).part([1]).noise_mask.shape == (1, 2, 2)
    assert make().part([0]).evaluated is None


@pytest.mark.parametrize("sigma", [14.7, 20.0, -0.1])
def test_outside_there_is_nothing(sigma):
    with pytest.raises(ValueError, match="has no latent at"):
        make().at(sigma)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigmas": torch.tensor([0.0, 2.0, 0.5, 14.6])}, "rise"),
        ({"sigmas": torch.tensor([0.0, 0.5, 0.5, 14.6])}, "rise"),
        ({"sigmas": torch.tensor([-1.0, 0.5, 2.0, 14.6])}, "rise"),
        ({"sigmas": torch.tensor([0.0, 0.5, 2.0])}, "of shape"),
        ({"latents": torch.zeros(4, 4, 3, 5)}, "of shape"),
        ({"latents": torch.zeros(4, 0, 4, 3, 5)}, "of shape"),
        ({"latents": torch.full((4, 2, 4, 3, 5), float("nan"))}, "not numbers"),
        ({"latents": torch.zeros(4, 2, 4, 3, 5).half()}, "float32"),
        ({"prediction": "x0"}, "unknown"),
        ({"cfg": float("nan")}, "CFG"),
    ],
)
def test_parts_that_do_not_agree_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)
