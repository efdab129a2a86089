"""The anchor's mathematics, without any host."""

import pytest
import torch
from palimpsest.guidance.anchor import Anchor, mix_by_weight, parse_rows, shrink_mask
from palimpsest.inversion.trajectory import Trajectory

SIGMAS = torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0])


def straight(rows=1, size=(8, 8), seed=0, sigmas=SIGMAS):
    """A trajectory x0 + sigma * noise, whose value at every level is known."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.randn(rows, 4, *size, generator=generator)
    noise = torch.randn(rows, 4, *size, generator=generator)
    latents = torch.stack([picture + s * noise for s in sigmas])
    return picture, noise, Trajectory(sigmas, latents, "", 1.0, "", "eps", "SD15")


def test_the_kept_part_is_the_source_to_the_last_bit_and_the_free_part_is_the_sampler_s():
    picture, noise, trajectory = straight()
    mask = torch.zeros(1, 8, 8)
    mask[:, :, 4:] = 1
    x = torch.randn(1, 4, 8, 8)
    anchor = Anchor(trajectory, mask)
    entered, left = anchor.enter(x, 1.0), anchor.leave(x)
    assert torch.equal(entered[..., 4:], x[..., 4:]) and torch.equal(left[..., 4:], x[..., 4:])
    assert torch.equal(entered[..., :4], (picture + 1.0 * noise)[..., :4])
    assert torch.equal(left[..., :4], picture[..., :4])


def test_a_half_mask_is_the_mean():
    picture, noise, trajectory = straight()
    x = torch.randn(1, 4, 8, 8)
    anchor = Anchor(trajectory, torch.full((1, 8, 8), 0.5))
    torch.testing.assert_close(anchor.enter(x, 2.0), (x + picture + 2 * noise) / 2)
    torch.testing.assert_close(anchor.leave(x), (x + picture) / 2)


def test_levels_between_those_of_the_trajectory_lie_on_the_straight_path():
    picture, noise, trajectory = straight()
    x = torch.randn(1, 4, 8, 8)
    for sigma in (0.01, 0.3, 0.77, 1.5, 3.9):
        torch.testing.assert_close(Anchor(trajectory).enter(x, sigma), picture + sigma * noise, atol=1e-5, rtol=0)


def test_levels_beyond_the_ends():
    picture, noise, trajectory = straight()
    x = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(Anchor(trajectory).enter(x, 5.0), picture + 5 * noise, atol=1e-5, rtol=0)
    late = Trajectory(SIGMAS[1:], trajectory.latents[1:], "", 1.0, "", "eps", "SD15")
    assert torch.equal(Anchor(late).enter(x, 0.1), late.latents[0])


def test_nothing_is_written_into_what_comes_in():
    _, _, trajectory = straight()
    before, x = trajectory.latents.clone(), torch.randn(1, 4, 8, 8)
    kept = x.clone()
    Anchor(trajectory).enter(x, 1.0).zero_()
    Anchor(trajectory).leave(x).zero_()
    assert torch.equal(x, kept) and torch.equal(trajectory.latents, before)


def test_rows_are_independent_of_the_batch():
    _, _, trajectory = straight(rows=3)
    x = torch.randn(3, 4, 8, 8)
    mask = torch.rand(3, 8, 8)
    whole = Anchor(trajectory, mask).enter(x, torch.tensor([0.5, 1.0, 2.0]))
    for i, sigma in enumerate((0.5, 1.0, 2.0)):
        single = Trajectory(SIGMAS, trajectory.latents[:, i : i + 1], "", 1.0, "", "eps", "SD15")
        assert torch.equal(Anchor(single, mask[i : i + 1]).enter(x[i : i + 1], sigma), whole[i : i + 1])


def test_kept_rows():
    picture, _, trajectory = straight()
    x = torch.randn(3, 4, 8, 8)
    left = Anchor(trajectory, rows=(0,)).leave(x)
    assert torch.equal(left[0], picture[0]) and torch.equal(left[1:], x[1:])


def test_kept_rows_and_a_mask_for_the_others():
    picture, _, trajectory = straight()
    mask = torch.zeros(1, 8, 8)
    mask[:, :4] = 1
    x = torch.randn(2, 4, 8, 8)
    left = Anchor(trajectory, mask, rows=(0,)).leave(x)
    assert torch.equal(left[0], picture[0])
    assert torch.equal(left[1, :, :4], x[1, :, :4]) and torch.equal(left[1, :, 4:], picture[0, :, 4:])


def test_as_many_pictures_as_kept_rows():
    picture, _, trajectory = straight(rows=2)
    x = torch.randn(5, 4, 8, 8)
    left = Anchor(trajectory, rows=(1, 4)).leave(x)
    assert torch.equal(left[1], picture[0]) and torch.equal(left[4], picture[1])
    assert torch.equal(left[[0, 2, 3]], x[[0, 2, 3]])


def test_strength():
    picture, _, trajectory = straight()
    x = torch.randn(1, 4, 8, 8)
    assert torch.equal(Anchor(trajectory, strength=0.0).leave(x), x)
    torch.testing.assert_close(Anchor(trajectory, strength=0.25).leave(x), 0.75 * x + 0.25 * picture)


def test_blending_survives_values_that_are_not_numbers():
    kept, free = torch.ones(1, 1, 1, 2), torch.full((1, 1, 1, 2), float("nan"))
    weight = torch.tensor([[[[0.0, 1.0]]]])
    assert mix_by_weight(kept, free, weight)[0, 0, 0, 0] == 1 and mix_by_weight(free, kept, weight)[0, 0, 0, 1] == 1


def test_a_cell_is_kept_exactly_only_if_all_of_it_is():
    mask = torch.zeros(1, 16, 16)
    mask[:, 8:, 8:] = 1
    mask[:, 0, 0] = 1
    small = shrink_mask(mask, 2, 2)[0]
    assert small[1, 1] == 1 and small[0, 1] == 0 and small[1, 0] == 0 and small[0, 0] == 1 / 64
    assert torch.equal(shrink_mask(torch.ones(1, 3, 5), 8, 9), torch.ones(1, 8, 9))


def test_rows_as_written():
    assert parse_rows("") is None and parse_rows(" , ") is None
    assert parse_rows("0, 2-4;2") == (0, 2, 3, 4)
    for text in ("one", "1-", "-1", "2.5"):
        with pytest.raises(ValueError, match="'rows'"):
            parse_rows(text)


@pytest.mark.parametrize(
    ("shape", "top", "anchor", "message"),
    [
        ((1, 4, 8, 9), 1.0, {}, "4 x 8 x 8"),
        ((1, 16, 8, 8), 1.0, {}, "4 x 8 x 8"),
        ((1, 4, 8, 8), 14.6, {}, "noise level 14.6"),
        ((2, 4, 8, 8), 1.0, {"mask": torch.zeros(3, 8, 8)}, "batch of 3"),
        ((2, 4, 8, 8), 1.0, {"rows": (2,)}, "Row 2"),
    ],
)
def test_what_does_not_fit_gets_a_sentence(shape, top, anchor, message):
    _, _, trajectory = straight()
    with pytest.raises(ValueError, match=message):
        Anchor(trajectory, **anchor).check(torch.zeros(shape), top)


def test_ambiguous_pictures_get_a_sentence():
    _, _, trajectory = straight(rows=2)
    with pytest.raises(ValueError, match="holds 2 pictures"):
        Anchor(trajectory).check(torch.zeros(4, 4, 8, 8), 1.0)
    with pytest.raises(ValueError, match="holds 2 pictures"):
        Anchor(trajectory, torch.ones(1, 8, 8), rows=(0, 1)).check(torch.zeros(4, 4, 8, 8), 1.0)
