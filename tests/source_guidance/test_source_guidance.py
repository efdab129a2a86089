"""Source guidance's formula: the paper's, in double precision, and its limits."""

import pytest
import torch
from palimpsest.guidance.source_guidance import SourceGuidance, difference, guided_from_source
from palimpsest.inversion.diffusion import ddim_step

OMEGA = 5.0


def predictions(rows=2, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, rows, 4, 6, 5, generator=generator, dtype=dtype)


def paper_step(z, v_target, v_source, t, s):
    """UniEdit-Flow, section 3.3, one picture at a time, with the sampler's step from t to s."""
    made = []
    for one, target, source in zip(z, v_target, v_source):
        d = target - source
        m = d.abs().mean(0)
        m = (m - m.min()) / (m.max() - m.min())
        correction = (s - t) * OMEGA * (1 + m) * d
        fused = m * target + (1 - m) * source
        made.append(one + correction + (s - t) * fused)
    return torch.stack(made)


def test_it_is_the_papers_step():
    z, target, source = predictions()
    t, s = 0.7, 0.4
    wanted = paper_step(z, (z - target) / t, (z - source) / t, t, s)
    weight = SourceGuidance().weight(target, source)
    found = ddim_step(z, guided_from_source(target, source, weight), t, s)
    # A velocity is a difference divided by t, so it has an error of its own.
    assert torch.allclose(found, wanted, rtol=0, atol=1e-11)


def test_noise_and_velocity_are_guided_by_the_same_weight():
    z, target, source = predictions()
    noises = [(z - one) / 0.7 for one in (target, source)]
    assert torch.allclose(SourceGuidance().weight(*noises), SourceGuidance().weight(target, source), rtol=1e-9, atol=0)


def test_the_found_weight_lies_in_0_to_1_and_is_each_pictures_own():
    _, target, source = predictions(3)
    found = difference(target, source)
    assert found.shape == (3, 1, 6, 5)
    assert found.amin((1, 2, 3)).tolist() == [0, 0, 0] and found.amax((1, 2, 3)).tolist() == [1, 1, 1]
    assert torch.equal(found[1:2], difference(target[1:2], source[1:2]))
    assert torch.equal(difference(source, target), found)


@pytest.mark.parametrize("shape", [(1, 4, 6, 5), (2, 16, 3, 6, 5)], ids=["a picture", "a video"])
def test_where_all_differs_alike_nothing_stands_out(shape):
    source = torch.zeros(shape)
    assert not difference(source + 1, source).any() and difference(source + 1, source).shape[1] == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_equal_predictions_strength_0_and_a_black_mask_give_the_source_to_the_bit(dtype):
    _, target, source = predictions(dtype=dtype) if dtype != torch.float16 else predictions(dtype=torch.float32).half()
    black = torch.zeros(1, 1, 6, 5, dtype=dtype)
    weights = (
        SourceGuidance(strength=0).weight(target, source),
        SourceGuidance().weight(target, source, black),
    )
    for weight in weights:
        assert weight.dtype == dtype and torch.equal(guided_from_source(target, source, weight), source)
    assert torch.equal(guided_from_source(source, source, SourceGuidance().weight(source, source)), source)


def test_a_white_mask_is_plain_guidance_and_the_largest_found_weight():
    _, target, source = predictions()
    white = torch.ones(1, 1, 6, 5, dtype=target.dtype)
    recipe = SourceGuidance()
    weight = recipe.weight(target, source, white)
    assert weight.unique().tolist() == [1 + 2 * OMEGA] and recipe.weight(target, source).max() == 1 + 2 * OMEGA
    assert recipe.weight(target, source).min() == OMEGA
    half = SourceGuidance(strength=0.5).weight(target, source)
    assert torch.allclose(2 * half, recipe.weight(target, source))
