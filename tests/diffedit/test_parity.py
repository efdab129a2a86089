"""Beside diffusers' DiffEdit pipeline, on one file of weights and with its own noises.

Its ways, as read in its source and allowed for here: the mean over the whole batch (so one picture at a time), the
swapped pair (prompt, negative) inside `generate_mask`, and a decode that blends the latent of the *previous* level.
"""

import comfy.samplers
import comfy.sd
import pytest
import torch
from palimpsest.benchmarks.diffedit.diffusers_baseline import counted, diffedit_pipeline, their_edit
from palimpsest.guidance.anchor import Anchor
from palimpsest.guidance.diffedit.masks import MaskRecipe, find
from palimpsest.host.diffedit import heat_map
from palimpsest.host.diffedit.heat_map import MapRecipe, Prompts, noise_level
from palimpsest.host.inversion.anchor import anchored
from palimpsest.inversion.trajectory import Trajectory
from palimpsest.papercut.companion.model import register
from palimpsest.papercut.export import export
from palimpsest.papercut.reference import load_reference

from ..papercut.conftest import random_networks
from .maps import heat

STEPS, DEPTH, CFG, SIDE = 10, 0.8, 4.0, 12
FAITHFUL = MaskRecipe(outliers="none", threshold="1.5 x mean", gap=0, fill_holes=False)
CAPTIONS = ("a red heart on a cream plain ground", "a blue star on a cream plain ground", "", "dotted")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    unet, text, vae = random_networks()
    return export(unet, text, vae, tmp_path_factory.mktemp("parity") / "papercut.safetensors")


@pytest.fixture(scope="module")
def model(file):
    register()
    with torch.inference_mode():
        return comfy.sd.load_checkpoint_guess_config(str(file), output_vae=False, output_clip=False)[0]


@pytest.fixture(scope="module")
def reference_model(file):
    return load_reference(file)


@pytest.fixture(scope="module")
def pipeline(reference_model):
    return diffedit_pipeline(reference_model)


@pytest.fixture(scope="module")
def embeddings(reference_model):
    """The embeddings of CAPTIONS, (1, 77, 192) each, and the picture's latent of unit size."""
    with torch.no_grad():
        embedded = [reference_model.embed([caption]) for caption in CAPTIONS]
    latent = torch.randn(1, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    return *embedded, latent


def theirs(pipeline, reference, query, negative_reference, negative_query, latent, count):
    # generate_mask takes the prompt for the negative and the negative for the prompt.
    return pipeline.generate_mask(
        image=latent,
        target_prompt_embeds=query,
        target_negative_prompt_embeds=negative_query,
        source_prompt_embeds=reference,
        source_negative_prompt_embeds=negative_reference,
        num_maps_per_mask=count,
        num_inference_steps=50,
        guidance_scale=CFG,
        generator=torch.Generator().manual_seed(7),
        output_type="np",
    )


def ours(model, prompts, latent, count, monkeypatch):
    noises = torch.randn(count, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(7))[:, None]
    monkeypatch.setattr(heat_map, "item_noises", lambda *_: noises)
    heat_map.RESULTS.clear()
    raw = model.model.process_latent_out(latent)
    with torch.inference_mode():
        found, cost = heat(model, prompts, raw, MapRecipe(count, strength=481 / 999, cfg=CFG), [0])
    heat_map.RESULTS.clear()
    return find(found, FAITHFUL)[0], cost


@pytest.mark.parametrize("count", [2, 10])
def test_the_same_mask_with_one_negative_at_half_the_cost(
    model, pipeline, reference_model, embeddings, count, monkeypatch
):
    reference, query, negative, _, latent = embeddings
    with counted(reference_model.unet) as rows:
        expected = theirs(pipeline, reference, query, negative, negative, latent, count)
    prompts = Prompts([[reference, {}]], [[query, {}]])
    mask, cost = ours(model, prompts, latent, count, monkeypatch)
    assert (mask.numpy() != expected.astype(bool)).mean() <= 0.001
    assert 0 < expected.mean() < 0.5
    assert sum(rows) == 4 * count and cost == 2 * count


def test_the_same_mask_with_unequal_negatives_in_its_swapped_order(model, pipeline, embeddings, monkeypatch):
    reference, query, negative, other, latent = embeddings
    expected = theirs(pipeline, reference, query, negative, other, latent, 4)
    swapped = Prompts([[negative, {}]], [[other, {}]], [[reference, {}]], [[query, {}]])
    mask, cost = ours(model, swapped, latent, 4, monkeypatch)
    assert (mask.numpy() != expected.astype(bool)).mean() <= 0.001 and cost == 16


def test_the_noise_level_is_theirs(model, pipeline):
    pipeline.scheduler.set_timesteps(50)
    step, _ = pipeline.get_timesteps(50, 0.5, "cpu")
    bar = pipeline.scheduler.alphas_cumprod[step[0]]
    assert int(step[0]) == 481
    assert noise_level(model, 481 / 999) == pytest.approx(float(((1 - bar) / bar).sqrt()), rel=1e-5)


@pytest.fixture(scope="module")
def decode(pipeline, embeddings):
    """Their inversion (levels noisiest first), their decode with a mask on the left half, and the noise levels."""
    reference, query, negative, _, latent = embeddings
    common = {"num_inference_steps": STEPS, "inpaint_strength": DEPTH, "guidance_scale": CFG}
    with torch.no_grad():
        inverted = pipeline.invert(
            image=latent, prompt_embeds=reference, negative_prompt_embeds=negative, **common
        ).latents[0]
        mask = torch.zeros(1, SIDE, SIDE)
        mask[..., : SIDE // 2] = 1
        edited = pipeline(
            mask_image=mask,
            image_latents=inverted[None],
            prompt_embeds=query,
            negative_prompt_embeds=negative,
            output_type="latent",
            **common,
        ).images
    pipeline.scheduler.set_timesteps(STEPS)
    steps, _ = pipeline.get_timesteps(STEPS, DEPTH, "cpu")
    bar = pipeline.scheduler.alphas_cumprod[steps].double()
    sigmas = torch.cat((((1 - bar) / bar).sqrt().float(), torch.zeros(1)))
    return inverted, mask, edited, sigmas


def to_host(latents, sigmas):
    """Variance-preserving latents (N, 4, h, w), noisiest first, and their levels -> a trajectory."""
    scaled = latents * (1 + sigmas**2).sqrt().view(-1, 1, 1, 1)
    return Trajectory(sigmas.flip(0), scaled.flip(0)[:, None].contiguous(), "", CFG, "", "eps", "SD15")


def run(model, trajectory, mask, sigmas, embeddings):
    _, query, negative, _, latent = embeddings
    anchored_model = anchored(model, Anchor(trajectory, mask), start_from_source=True)
    raw = model.model.process_latent_out(latent)
    with torch.inference_mode():
        out = comfy.samplers.sample(
            anchored_model,
            torch.zeros_like(raw),
            [[query, {}]],
            [[negative, {}]],
            CFG,
            torch.device("cpu"),
            comfy.samplers.sampler_object("euler"),
            sigmas,
            latent_image=raw,
            disable_pbar=True,
            seed=0,
        )
    return model.model.process_latent_in(out), raw, out


def test_the_same_decode_but_for_the_fault(model, decode, embeddings):
    """Fed with latents that are one step too noisy, as theirs are, the anchored sampler gives their very picture."""
    inverted, mask, edited, sigmas = decode
    too_noisy = torch.cat((inverted[:1], inverted[:1], inverted[1:]))
    found, _, _ = run(model, to_host(too_noisy, sigmas), mask, sigmas, embeddings)
    torch.testing.assert_close(found, edited, atol=2e-3, rtol=0)


def test_the_fault_is_not_shared(model, decode, embeddings):
    """Levels agree, and the kept half is the source to the last bit; theirs is a noisy one."""
    inverted, mask, edited, sigmas = decode
    trajectory = to_host(torch.cat((inverted, embeddings[-1])), sigmas)
    found, raw, out = run(model, trajectory, mask, sigmas, embeddings)
    kept = slice(SIDE // 2, None)
    assert torch.equal(out[..., kept], raw[..., kept])
    their_error = (edited - embeddings[-1])[..., kept].square().mean().sqrt()
    assert 1e-3 < float(their_error) < 0.2
    assert not torch.allclose(found[..., : SIDE // 2], edited[..., : SIDE // 2], atol=1e-3)


def test_their_edits_of_a_batch_are_their_single_ones(pipeline, embeddings):
    """Unlike their masks; so the benchmark may make many of them at a time."""
    reference, query, negative, other, latent = embeddings
    both = lambda one, two: torch.cat((one, two))
    latents, masks = both(latent, -latent), torch.zeros(2, SIDE, SIDE)
    masks[0, :6], masks[1, 3:] = 1, 1
    together = their_edit(pipeline, latents, masks, both(reference, other), both(query, reference), negative, CFG)
    alone = their_edit(pipeline, latents[1:], masks[1:], other, reference, negative, CFG)
    torch.testing.assert_close(together[1:], alone, atol=2e-3, rtol=1e-3)
    assert not torch.allclose(together[0], together[1], atol=0.1)
