"""Attention Blend on every family of transformers: key pictures keep their result, chunks change nothing."""

import comfy.sample
import comfy.samplers
import pytest
import torch
from palimpsest.host.morphing.attention_blend import blended
from palimpsest.morphing.attention_blend import BLENDS
from palimpsest.morphing.schedule import Alphas, schedule

from ..tiny_transformers import FAMILIES, conditioning_of, noise_of, tiny_transformer

TOLERANCE = {"atol": 1e-3, "rtol": 1e-3}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    with torch.inference_mode():
        return tiny_transformer(family)


def noises(family, alphas):
    """Of frames between two key pictures."""
    one, other = noise_of(family, 1, seed=1), noise_of(family, 1, seed=2)
    return torch.cat([torch.lerp(one, other, value) for value in alphas.values])


def run(model, family, noise):
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 2)
    cond, sampler = conditioning_of(family, "a red heart"), comfy.samplers.sampler_object("euler")
    with torch.inference_mode():
        return comfy.sample.sample_custom(
            model, noise, 1.0, sampler, sigmas, cond, cond, torch.zeros_like(noise), disable_pbar=True, seed=1
        )


@pytest.mark.parametrize("blend", BLENDS)
def test_key_pictures_keep_their_own_result_and_frames_read_them(model, family, blend):
    alphas = schedule(4)
    noise = noises(family, alphas)
    plain = run(model, family, noise)
    assert torch.equal(run(blended(model, alphas, strength=0.0, blend=blend), family, noise), plain)
    frames = run(blended(model, alphas, blend=blend, until=1.0), family, noise)
    assert torch.allclose(frames[[0, 3]], plain[[0, 3]], **TOLERANCE)
    change = (frames - plain).abs().flatten(1).amax(1)
    assert bool((change[1:3] > 10 * change[[0, 3]].max()).all())


@pytest.mark.parametrize("blend", BLENDS)
def test_a_frame_that_mixes_one_picture_with_itself_changes_nothing(model, family, blend):
    alphas, noise = Alphas((0.0, 0.5, 1.0), 2), noise_of(family, 3)
    same = run(blended(model, alphas, blend=blend, until=1.0), family, noise)
    assert torch.allclose(same, run(model, family, noise), **TOLERANCE)


def test_chunks_change_nothing(model, family):
    alphas = schedule(5)
    noise = noises(family, alphas)
    whole = run(blended(model, alphas, until=1.0), family, noise)
    assert torch.allclose(run(blended(model, alphas, until=1.0, rows_at_once=2), family, noise), whole, **TOLERANCE)
