"""Slerp, AdaIN and the lines between prompts."""

import pytest
import torch
from palimpsest.morphing.conditioning import morph_rows, same_length
from palimpsest.morphing.latents import adapt, channel_moments, morph_latents, slerp
from palimpsest.morphing.schedule import Alphas, schedule


@pytest.fixture
def keys():
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def angle(a, b):
    return torch.arccos(((a * b).sum() / (a.norm() * b.norm())).clamp(-1, 1))


def test_slerp_turns_at_an_even_angle_and_keeps_the_length(keys):
    a, b = keys[0].double(), keys[1].double()
    b = b * (a.norm() / b.norm())
    whole = angle(a, b)
    for fraction in (0.0, 0.2, 0.5, 0.9, 1.0):
        mixed = slerp(a, b, fraction)
        assert torch.allclose(mixed.norm(), a.norm(), rtol=1e-12)
        assert torch.allclose(angle(a, mixed), fraction * whole, atol=1e-7)


def test_slerp_is_the_same_from_both_sides(keys):
    assert torch.allclose(slerp(keys[0], keys[1], 0.3), slerp(keys[1], keys[0], 0.7), atol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, 0.0])
def test_slerp_without_an_arc_is_the_line(keys, factor):
    mixed = slerp(keys[0], factor * keys[0], 0.25)
    assert torch.allclose(mixed, (0.75 + 0.25 * factor) * keys[0], atol=1e-5)
    assert torch.isfinite(mixed).all()


def test_adain_gives_the_channel_moments_between_the_ends_and_changes_nothing_else(keys):
    latent = slerp(keys[0], 3 + 2 * keys[1], 0.4)
    moved = adapt(latent, keys[0], 3 + 2 * keys[1], 0.4)
    for got, start, end in zip(channel_moments(moved), channel_moments(keys[0]), channel_moments(3 + 2 * keys[1])):
        assert torch.allclose(got, torch.lerp(start, end, 0.4), atol=1e-6)
    for channel in range(4):
        pair = torch.stack([latent[channel].flatten(), moved[channel].flatten()])
        assert torch.corrcoef(pair)[0, 1] > 0.999999


def test_adain_on_its_own_moments_is_the_identity(keys):
    assert torch.allclose(adapt(keys[0], keys[0], keys[1], 0.0), keys[0], atol=1e-6)


def test_a_flat_channel_stays_flat():
    flat = torch.full((2, 8, 8), 0.1)
    noisy = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(1))
    moved = adapt(flat, noisy, noisy, 0.5)
    assert torch.allclose(moved, channel_moments(noisy)[0].float().expand_as(moved), atol=1e-6)


@pytest.mark.parametrize("adain", [False, True])
def test_frames_on_key_pictures_are_those_latents_to_the_bit(keys, adain):
    frames = morph_latents(keys, schedule(9, 3), adain=adain)
    assert torch.equal(frames[[0, 4, 8]], keys)
    cycle = morph_latents(keys, schedule(6, 3, cyclic=True), adain=adain)
    assert torch.equal(cycle[[0, 2, 4]], keys)


def test_a_frame_does_not_depend_on_its_neighbours(keys):
    whole = schedule(9, 3)
    frames = morph_latents(keys, whole)
    parts = [morph_latents(keys, whole.part(row, 1)) for row in range(9)]
    assert torch.equal(frames, torch.cat(parts))


def test_a_latent_too_many_is_refused(keys):
    with pytest.raises(ValueError, match="2 key pictures, but 3 latents"):
        morph_latents(keys, schedule(4))


def test_video_latents_have_a_frame_axis():
    keys = torch.randn(2, 4, 3, 8, 8)
    assert morph_latents(keys, schedule(3)).shape == (3, 4, 3, 8, 8)


def test_prompts_lie_on_lines():
    texts = torch.randn(3, 5, 8)
    rows = morph_rows(texts, Alphas((0.0, 0.25, 1.5, 2.0), 3))
    assert torch.equal(rows[[0, 3]], texts[[0, 2]])
    assert torch.allclose(rows[1], 0.75 * texts[0] + 0.25 * texts[1], atol=1e-6)
    assert torch.allclose(rows[2], 0.5 * texts[1] + 0.5 * texts[2], atol=1e-6)


def test_a_prompt_repeated_to_another_length_reads_the_same():
    short, long = torch.randn(1, 4, 8), torch.randn(1, 6, 8)
    same = same_length([short, long])
    assert [text.shape[1] for text in same] == [12, 12]
    query = torch.randn(1, 7, 8)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert torch.allclose(attend(query, same[0], same[0]), attend(query, short, short), atol=1e-6)


def test_lengths_that_hardly_meet_and_joint_attention_get_zeros():
    assert [text.shape[1] for text in same_length([torch.ones(1, 77, 8), torch.ones(1, 100, 8)])] == [100, 100]
    padded = same_length([torch.ones(1, 4, 8), torch.ones(1, 6, 8)], repeatable=False)
    assert padded[0].shape == (1, 6, 8) and padded[0][0, 4:].abs().sum() == 0


def test_prompts_of_two_text_encoders_are_refused():
    with pytest.raises(ValueError, match="width 768 and 1024"):
        same_length([torch.ones(1, 77, 768), torch.ones(1, 77, 1024)])
