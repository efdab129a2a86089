"""Exact replay on a MODEL, by the nodes and the host's own samplers: random models of every family, and Papercut."""

from dataclasses import replace

import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import CFGGuider, Noise_EmptyNoise, SamplerCustomAdvanced
from palimpsest.inversion.ddim import PAIRINGS
from palimpsest.inversion.trajectory_file import read_trajectory, write_trajectory
from palimpsest.nodes.inversion import DDIMInvert
from palimpsest.nodes.inversion_anchor import TrajectoryAnchor
from palimpsest.papercut.scenes import SPLITS, sample_scene
from palimpsest.papercut.shipped import load_shipped

from ..tiny_models import FAMILIES, tiny_cond, tiny_latent, tiny_model

STEPS = 5


@pytest.fixture(scope="module")
def models():
    """Random models whose answers change with the latent less than a random network's, else rounding would grow."""
    with torch.inference_mode():
        made = {family: tiny_model(family) for family in FAMILIES}
        for model in made.values():
            network = model.model.diffusion_model
            last = network.out[-1] if hasattr(network, "out") else network.final_layer.linear
            last.weight.mul_(0.2)
    return made


def schedule(model, steps=STEPS):
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps).cpu()


def spied(model, seen: list):
    """A MODEL that remembers the level and the latents of each of its calls."""
    clone = model.clone()

    def spy(executor, x, t, *args, **kwargs):
        seen.append((float(t[0]), x.clone()))
        return executor(x, t, *args, **kwargs)

    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "spy", spy)
    return clone


def inverted(model, latent, positive, sigmas=None, **options):
    """(trajectory, noise): by the node."""
    sigmas = schedule(model) if sigmas is None else sigmas
    made = DDIMInvert.execute(model, {"samples": latent}, sigmas, positive=positive, **options).args
    return made[0], made[2]


def sampled(model, positive, noise, latent, *, cfg=1.0, negative=None, sampler="euler", sigmas=None):
    guider = CFGGuider.execute(model, positive, negative or positive, cfg).args[0]
    chosen = comfy.samplers.sampler_object(sampler)
    sigmas = schedule(model) if sigmas is None else sigmas
    out = SamplerCustomAdvanced.execute(noise, guider, chosen, sigmas, {"samples": latent})
    return out.args[0]["samples"]


def shifted(model, trajectory, **options):
    return TrajectoryAnchor.execute(model, trajectory, exact_replay=True, **options).args[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("pairing", "refinement"), [*((pairing, 0) for pairing in PAIRINGS), ("extrapolated", 2)])
def test_it_comes_back_without_being_overwritten(models, family, pairing, refinement):
    """With strength 0 nothing but the shift brings the picture back; it takes one call a step."""
    calls = []
    model, latent, text = spied(models[family], calls), tiny_latent(family, 2), tiny_cond(family, 2)
    trajectory, noise = inverted(model, latent, text, pairing=pairing, refinement=refinement)
    calls.clear()
    exact = sampled(shifted(model, trajectory, strength=0.0), text, noise, latent)
    assert len(calls) == STEPS
    plain, left = (float((one - latent).abs().max()) for one in (sampled(model, text, noise, latent), exact))
    assert left < 1e-3 * float(trajectory.latents.abs().max()) and left < 0.02 * plain


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sampler", ["euler", "ddim"])
def test_the_source_s_row_shows_the_network_what_the_inversion_did(models, family, sampler):
    """To the last bit, at every step, whatever the other rows and the guidance are."""
    calls = []
    model, latent, text = spied(models[family], calls), tiny_latent(family), tiny_cond(family)
    trajectory, noise = inverted(model, latent, text)
    up = list(calls)
    calls.clear()
    anchored = shifted(model, trajectory, rows="0")
    batch, edits = latent.repeat(2, 1, 1, 1), tiny_cond(family, 2, seed=7)
    out = sampled(anchored, edits, noise, batch, cfg=3.0, negative=tiny_cond(family, seed=3), sampler=sampler)
    assert torch.equal(out[:1], latent)
    assert len(calls) == len(up) == STEPS
    for (level, x), (wanted_level, wanted) in zip(reversed(calls), up, strict=True):
        assert level == wanted_level
        for part in x.chunk(2):  # the two prompts
            assert torch.equal(part[:1], wanted)


def test_an_edit_is_asked_with_the_source_s_shift(models):
    calls = []
    model, latent, text = spied(models["sd1"], calls), tiny_latent("sd1"), tiny_cond("sd1")
    trajectory, noise = inverted(model, latent, text, pairing="papers")
    up = list(reversed(calls))
    calls.clear()
    states = []

    def state(executor, x, timestep, *args, **kwargs):
        states.append(x.clone())
        return executor(x, timestep, *args, **kwargs)

    anchored = model.clone()
    anchored.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "state", state)
    anchored = shifted(anchored, trajectory, mask=torch.ones(1, 8, 8))
    sampled(anchored, tiny_cond("sd1", seed=5), noise, latent)
    for (_, asked), x, (level, y) in zip(calls, states, up, strict=True):
        torch.testing.assert_close(asked - x, y - trajectory.at(level), atol=1e-4, rtol=1e-4)


def test_the_low_part_of_a_schedule_replays_too(models):
    model, latent, text = models["sd1"], tiny_latent("sd1"), tiny_cond("sd1")
    trajectory, noise = inverted(model, latent, text)
    low = schedule(model)[2:]
    out = sampled(shifted(model, trajectory, strength=0.0), text, noise, latent, sigmas=low)
    assert float((out - latent).abs().max()) < 1e-3 * float(trajectory.latents.abs().max())


def test_switched_off_it_is_the_anchor_alone(models):
    model, latent, text = models["sd1"], tiny_latent("sd1"), tiny_cond("sd1")
    trajectory, noise = inverted(model, latent, text)
    mask = torch.ones(1, 8, 8)
    mask[..., :4] = 0
    plain, off = (
        TrajectoryAnchor.execute(model, trajectory, mask, **more).args[0] for more in ({}, {"exact_replay": False})
    )
    assert torch.equal(*(sampled(one, text, noise, latent) for one in (plain, off)))


@pytest.mark.parametrize("refinement", [0, 1])
def test_a_saved_trajectory_replays_as_it_did(models, tmp_path, refinement):
    model, latent, text = models["sd3"], tiny_latent("sd3"), tiny_cond("sd3")
    trajectory, noise = inverted(model, latent, text, pairing="held", refinement=refinement)
    write_trajectory(trajectory, tmp_path / "one.safetensors")
    both = trajectory, read_trajectory(tmp_path / "one.safetensors")
    outs = [sampled(shifted(model, one, strength=0.0), text, noise, latent) for one in both]
    assert torch.equal(*outs)


def test_what_cannot_be_exact_is_said_before_anything_is_computed(models):
    model, latent, text = models["sd1"], tiny_latent("sd1"), tiny_cond("sd1")
    trajectory, noise = inverted(model, latent, text)
    made = shifted(model, trajectory)
    calls = []
    made.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, "spy", lambda executor, *a, **k: calls.append(1))
    with pytest.raises(ValueError, match="'euler' or 'ddim'"):
        sampled(made, text, noise, latent, sampler="heun")
    with pytest.raises(ValueError, match="the SIGMAS that DDIM Invert was given"):
        sampled(made, text, noise, latent, sigmas=schedule(model, STEPS + 1))
    two = torch.cat([latent, latent])
    pair, _ = inverted(model, two, tiny_cond("sd1", 2))
    with pytest.raises(ValueError, match="invert one picture, or as many"):
        made = shifted(model, pair, rows="0, 1", start_from_source=True)
        sampled(made, text, Noise_EmptyNoise(), latent.repeat(3, 1, 1, 1))
    assert not calls
    with pytest.raises(ValueError, match="switch 'exact_replay' off on one"):
        shifted(made, trajectory)
    with pytest.raises(ValueError, match="invert the picture again"):
        shifted(model, replace(trajectory, pairing=None))


@pytest.mark.parametrize("pairing", ["extrapolated", "papers"])
def test_papercut_comes_back_at_the_inversion_s_own_guidance(pairing):
    """A trained UNet with two prompts at CFG 2, without being overwritten."""
    with torch.inference_mode():
        model, clip, vae = load_shipped()
        scene = sample_scene(SPLITS["validation"][3], objects=1)
        latent = vae.encode(scene.render().movedim(0, -1)[None])
        text, empty = (clip.encode_from_tokens_scheduled(clip.tokenize(words)) for words in (scene.caption, ""))
        trajectory, noise = inverted(
            model, latent, text, schedule(model, 8), negative=empty, cfg=2.0, refinement=0, pairing=pairing
        )
        how = dict(cfg=2.0, negative=empty, sigmas=schedule(model, 8))
        plain = sampled(model, text, noise, latent, **how)
        exact = sampled(shifted(model, trajectory, strength=0.0), text, noise, latent, **how)
    largest = float(trajectory.latents.abs().max())
    assert float((exact - latent).abs().max()) < 1e-3 * largest
    assert float((exact - latent).abs().max()) < 0.05 * float((plain - latent).abs().max())
