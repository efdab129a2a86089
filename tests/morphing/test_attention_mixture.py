"""Attention of frames that read the key pictures' rows."""

import pytest
import torch
from palimpsest.morphing.attention_blend import active_until, mix_outputs, mix_rows
from palimpsest.morphing.schedule import Alphas, schedule

ALPHAS = schedule(5, 3)
KEYS = (0, 2, 4)


def attend(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)


@pytest.fixture
def features():
    return torch.randn(3, 2 * 5, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_frames_read_their_fraction_of_the_key_rows(features, strength):
    x = features[0]
    got = mix_rows(x, ALPHAS.weights(), KEYS, strength, groups=2)
    for group in (0, 5):
        assert torch.equal(got[[group + key for key in KEYS]], x[[group + key for key in KEYS]])
        halfway = 0.5 * (x[group] + x[group + 2])
        wanted = (1 - strength) * x[group + 1] + strength * halfway
        assert torch.allclose(got[group + 1], wanted, atol=1e-12)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_outputs_are_weighted_attentions_to_each_key_row(features, strength):
    q, k, v = features
    weights = Alphas((0.0, 0.2, 1.0, 1.9, 2.0), 3).weights()
    got = mix_outputs(attend, q, k, v, weights, KEYS, strength, groups=2)
    own = attend(q, k, v)
    for group in (0, 5):
        for row in range(5):
            rows = slice(group + row, group + row + 1)
            reads = [attend(q[rows], k[[group + key]], v[[group + key]])[0] for key in KEYS]
            mixed = sum(weight * read for weight, read in zip(weights[row], reads))
            assert torch.allclose(got[group + row], (1 - strength) * own[group + row] + strength * mixed, atol=1e-12)
        for key in KEYS:
            assert torch.equal(got[group + key], own[group + key])


def test_mixing_by_one_key_alone_is_the_same_in_all_places(features):
    """Where a frame reads one key picture only, its keys and values are that row's, wherever they are mixed."""
    q, k, v = (x[:5] for x in features)
    weights = Alphas((0.0, 0.0, 1.0, 2.0, 2.0), 3).weights()
    outputs = mix_outputs(attend, q, k, v, weights, KEYS, 1.0)
    values = attend(q, mix_rows(k, weights, KEYS, 1.0), mix_rows(v, weights, KEYS, 1.0))
    assert torch.allclose(outputs, values, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 5, 50])
@pytest.mark.parametrize("until", [0.0, 0.2, 0.6, 1.0])
def test_the_blend_is_active_for_its_fraction_of_the_steps(steps, until):
    sigmas = torch.linspace(14.6, 0, steps + 1)
    limit = active_until(sigmas, until)
    assert sum(float(sigma) > limit for sigma in sigmas[:-1]) == round(until * steps)
