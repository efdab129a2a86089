"""Corrected key pictures move the frames between with them: exact where they are, without a jump where they end."""

import itertools

import comfy.samplers
import pytest
import torch
from palimpsest.guidance.anchor import Anchor
from palimpsest.host.morphing.anchor import key_corrected
from palimpsest.host.morphing.attention_blend import blended
from palimpsest.host.morphing.conditioning import morphed
from palimpsest.inversion.trajectory import Trajectory
from palimpsest.morphing.key_correction import hold
from palimpsest.morphing.latents import morph_latents
from palimpsest.morphing.schedule import Alphas, schedule
from palimpsest.nodes.inversion_anchor import TrajectoryAnchor

from ..tiny_models import tiny_cond, tiny_latent, tiny_model
from .parts import SIGMAS, sample

TOLERANCE = {"atol": 2e-3, "rtol": 1e-3}


@pytest.fixture(scope="module")
def model():
    return tiny_model("sd1")


def inverted(pictures):
    """Trajectories that the model itself would never take: from some pictures to other noise."""
    ends = [torch.cat([tiny_latent("sd1", seed=10 * end + seed) for seed in range(pictures)]) for end in (1, 0)]
    levels = torch.tensor([0.0, float(SIGMAS[0])])
    return Trajectory(levels, torch.stack([ends[0], 4 * ends[1]]), "", 1.0, "", "eps", "SD15")


def run(model, keys, alphas, *, strength=1.0, mask=None, corrected=True, blend=True, sampler="euler"):
    patched = blended(model, alphas, keys=keys) if blend else model
    patched = key_corrected(patched, Anchor(keys, mask, strength=strength), alphas) if corrected else patched
    texts = morphed([tiny_cond("sd1", seed=seed) for seed in range(keys.rows)], alphas)
    noise = morph_latents(keys.latents[-1], alphas) / SIGMAS[0]
    guider = comfy.samplers.CFGGuider(patched)
    guider.set_conds(texts, texts)
    guider.set_cfg(1.0)
    chosen = comfy.samplers.sampler_object(sampler)
    return guider.sample(noise, torch.zeros_like(noise), chosen, SIGMAS, disable_pbar=True, seed=0)


def test_frames_are_moved_by_their_fractions_of_the_errors():
    x, keys = torch.randn(4, 2, 3, 3), torch.randn(2, 2, 3, 3)
    weights = torch.tensor([[1.0, 0.0], [0.75, 0.25], [0.5, 0.5], [0.0, 1.0]])
    moved = hold(x, keys, weights, (0, 3), torch.ones(4, 1, 3, 3))
    assert torch.equal(moved[[0, 3]], keys)
    assert torch.allclose(moved[1] - x[1], 0.75 * (keys[0] - x[0]) + 0.25 * (keys[1] - x[3]), atol=1e-6)
    assert torch.equal(hold(x, keys, weights, (0, 3), torch.zeros(4, 1, 3, 3)), x)
    half = hold(x, keys, weights, (0, 3), torch.full((4, 1, 3, 3), 0.5))
    assert torch.allclose(half, (x + moved) / 2, atol=1e-6)


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m", "heun", "uni_pc"])
def test_key_pictures_are_exact_and_their_neighbours_next_to_them(model, sampler):
    keys, alphas = inverted(3), Alphas((0.0, 0.001, 0.5, 0.999, 1.0, 1.5, 2.0), 3)
    frames = run(model, keys, alphas, sampler=sampler)
    wanted = model.model.process_latent_out(keys.latents[0])
    assert torch.equal(frames[[0, 4, 6]], wanted)
    free = run(model, keys, alphas, corrected=False, sampler=sampler)
    away = lambda x: float((x[[1, 3]] - wanted[[0, 1]]).abs().max())
    assert away(frames) < 0.05 * away(free)


def test_an_euler_run_is_corrected_step_by_step(model):
    """The same as sampling by hand, where each step adds the key pictures' errors to all frames."""
    keys, alphas = inverted(2), Alphas((0.0, 0.3, 1.0), 2)
    weights, rows = alphas.weights().float(), [0, 2]
    x = morph_latents(keys.latents[-1], alphas)
    texts = morphed([tiny_cond("sd1", seed=seed) for seed in range(2)], alphas)
    for here, there in itertools.pairwise(SIGMAS):
        stepped = sample(model, texts, x / here, sigmas=torch.stack([here, there]))
        x = model.model.process_latent_in(stepped)
        x = x + torch.einsum("nk,kchw->nchw", weights, keys.at(float(there)) - x[rows])
    corrected = model.model.process_latent_in(run(model, keys, alphas, blend=False))
    assert torch.allclose(corrected, x, **TOLERANCE)


@pytest.mark.parametrize("part", [(1, 2), (3, 0), (2, 4)])
def test_parts_of_a_corrected_morph_join_to_the_whole(model, part):
    keys, whole = inverted(3), schedule(8, 3)
    some = whole.part(*part)
    frames = run(model, keys, whole)[part[0] : part[0] + len(some)]
    assert torch.allclose(run(model, keys, some), frames, **TOLERANCE)


def test_strength_and_mask_say_how_firmly_and_where(model):
    keys, alphas = inverted(2), schedule(4)
    free, whole = run(model, keys, alphas, corrected=False), run(model, keys, alphas)
    assert torch.equal(run(model, keys, alphas, strength=0.0), free)
    assert torch.equal(run(model, keys, alphas, mask=torch.ones(1, 8, 8)), free)
    assert torch.equal(run(model, keys, alphas, mask=torch.zeros(1, 8, 8)), whole)
    wanted = model.model.process_latent_out(keys.latents[0])
    left = torch.ones(1, *keys.latents.shape[-2:])
    left[..., : left.shape[-1] // 2] = 0
    kept = run(model, keys, alphas, mask=left)[[0, -1]] == wanted
    assert kept[..., : left.shape[-1] // 2].all() and not kept[..., left.shape[-1] // 2 :].any()
    loose = run(model, keys, alphas, strength=0.5)[[0, -1]]
    assert (loose - wanted).abs().mean() < (free[[0, -1]] - wanted).abs().mean()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda m: run(m, inverted(2), schedule(5, 3), blend=False), "2 pictures, but the morph has 3"),
        (lambda m: run(m, inverted(3), schedule(8, 3).part(1, 2), blend=False), "leans? on key picture 0"),
        (
            lambda m: sample(
                key_corrected(m, Anchor(inverted(2)), schedule(4)), tiny_cond("sd1"), torch.ones(3, 4, 8, 8)
            ),
            "4 frames, but 3",
        ),
        (lambda m: TrajectoryAnchor.execute(m, inverted(2), rows="0", alphas=schedule(4)), "leave `rows` empty"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(model, make, message):
    with pytest.raises(ValueError, match=message):
        make(model)
