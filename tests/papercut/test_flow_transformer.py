"""Papercut-DiT: random weights in diffusers' modules against the host's Flux, its file, and its training."""

from dataclasses import replace

import pytest
import torch
from palimpsest.inversion.quality import psnr
from palimpsest.papercut.configs import TRANSFORMER
from palimpsest.papercut.flow_transformer import levels, new_transformer, positions, to_latents, to_tokens, velocity
from palimpsest.papercut.flow_transformer_data import distances, per_token
from palimpsest.papercut.flow_transformer_export import (
    AUTOENCODER,
    FLUX_SCALE,
    FLUX_SHIFT,
    autoencoder_state,
    checkpoint_state,
    load_autoencoder,
    write,
)
from palimpsest.papercut.flow_transformer_layout import from_flux, to_flux
from palimpsest.papercut.muon import Optimiser
from palimpsest.papercut.networks import new_text_encoder
from palimpsest.papercut.scenes import SPLITS, sample_scene
from palimpsest.papercut.train_flow_transformer import Recipe, Trainer, open_run

SMALL = replace(TRANSFORMER, width=32, heads=4, axes=(2, 2, 4), double_blocks=1, single_blocks=1)


@torch.no_grad()
def random_transformer(config=SMALL):
    """Nothing is zero, so that no weight in the wrong place goes unseen."""
    torch.manual_seed(0)
    model = new_transformer(config)
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    return model.eval()


def inputs(batch=2, height=8, width=12):
    torch.manual_seed(1)
    x = torch.randn(batch, 16, height, width)
    return x, torch.tensor([0.9, 0.3][:batch]), torch.randn(batch, 7, 192), torch.randn(batch, 192)


def host_flux(model, config=SMALL):
    import comfy.ops
    from comfy.ldm.flux.model import Flux

    flux = Flux(
        image_model="flux", dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init, **config.host()
    )
    state = to_flux(model.state_dict(), config)
    flux.load_state_dict(
        {k.removesuffix(".scale") + ".weight" if k.endswith(".scale") else k: v for k, v in state.items()}
    )
    return flux


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, heads=2, axes=(4, 4, 8), theta=10_000, double_blocks=2)])
@torch.no_grad()
def test_the_same_weights_give_the_same_velocity_in_the_hosts_flux(config):
    model = random_transformer(config)
    x, sigma, text, pooled = inputs()
    expected = host_flux(model, config)(x, sigma, text.clone(), y=pooled)
    found = velocity(model, x, sigma, text, pooled)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_our_forward_is_that_of_diffusers():
    model = random_transformer(replace(SMALL, theta=10_000))
    x, sigma, text, pooled = inputs()
    ids = positions(4, 6, 0)
    tokens = model(to_tokens(x), text, pooled, sigma, ids, torch.zeros(text.shape[1], 3)).sample
    torch.testing.assert_close(velocity(model, x, sigma, text, pooled), to_latents(tokens, 12), rtol=1e-4, atol=1e-4)


def test_the_names_go_to_flux_and_back_without_loss():
    state = random_transformer().state_dict()
    back = from_flux(to_flux(state, SMALL), SMALL)
    assert back.keys() == state.keys() and all(torch.equal(back[k], state[k]) for k in state)


def test_a_network_of_other_sizes_is_refused():
    with pytest.raises(ValueError, match="does not fit the layout"):
        to_flux(random_transformer().state_dict(), replace(SMALL, double_blocks=2))


def test_an_untrained_transformer_answers_with_nothing_and_its_blocks_change_nothing():
    x, sigma, text, pooled = inputs()
    assert not velocity(new_transformer(SMALL), x, sigma, text, pooled).any()


def test_levels_fall_from_noise_to_nothing_and_a_shift_of_one_is_even():
    torch.testing.assert_close(levels(4, 1.0), torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))
    shifted = levels(10, 4.0)
    assert shifted[0] == 1 and shifted[-1] == 0 and (shifted.diff() < 0).all() and shifted[5] == pytest.approx(0.8)


def test_muon_turns_a_matrix_by_an_almost_orthogonal_step_and_leaves_adams_alone():
    torch.manual_seed(0)
    matrix, other = (torch.nn.Parameter(torch.zeros(32, 48)) for _ in range(2))
    optimiser = Optimiser([matrix, other], 0.1, by_adam=[other])
    for weight in (matrix, other):
        weight.grad = torch.randn(32, 48)
    signs = other.grad.sign()
    optimiser.update(0.1)
    strengths = torch.linalg.svdvals(matrix.detach()) / (0.2 * 0.1 * 48**0.5)
    assert strengths.min() > 0.4 and strengths.max() < 1.4  # Newton-Schulz stops early, on purpose
    torch.testing.assert_close(other.detach(), -0.1 * signs, rtol=1e-3, atol=1e-4)


def examples(seed):
    torch.manual_seed(seed)
    return torch.randn(2, 16, 8, 8), torch.randn(2, 7, 192), torch.randn(2, 192), torch.rand(2, 16, 16)


def test_an_interrupted_run_is_the_same_as_one_that_was_not(tmp_path):
    recipe = Recipe(side=64, geometry=1.0, steps=10)
    whole, part = (Trainer(tmp_path / f"{name}.pt", recipe, SMALL) for name in ("whole", "part"))
    for trainer in (whole, part):
        trainer.update(*examples(1))
    part.save()
    again = open_run(tmp_path / "part.pt")
    assert again.recipe == recipe and again.config == SMALL
    for trainer in (whole, again):
        trainer.update(*examples(2))
    assert again.step == whole.step == 2
    for kept in ("model", "head"):
        pairs = zip(getattr(whole, kept).state_dict().values(), getattr(again, kept).state_dict().values())
        assert all(torch.equal(a, b) for a, b in pairs)
    assert all(torch.equal(a, b) for a, b in zip(whole.ema.shadow_params, again.ema.shadow_params))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """(model, text encoder, autoencoder) and what the host's loader makes of their file."""
    import comfy.sd
    from diffusers import AutoencoderTiny
    from palimpsest.papercut.companion.model import register

    register()
    torch.manual_seed(0)
    parts = random_transformer(TRANSFORMER), new_text_encoder().eval(), AutoencoderTiny(latent_channels=16)
    path = write(checkpoint_state(*parts), tmp_path_factory.mktemp("dit") / "papercut-dit.safetensors", "test")
    return parts, comfy.sd.load_checkpoint_guess_config(str(path))[:3]


@torch.no_grad()
def test_the_hosts_loader_reads_the_file_with_the_companion(loaded):
    (model, _, _), (patcher, _, _) = loaded
    flux = patcher.model.diffusion_model
    assert (flux.num_heads, flux.params.axes_dim, flux.params.theta) == (8, [4, 14, 14], 100)
    assert patcher.model.model_sampling.shift == TRANSFORMER.shift
    x, sigma, text, pooled = inputs()
    expected = velocity(model.half().float(), x, sigma, text, pooled)
    found = flux.float()(x, sigma, text.clone(), y=pooled)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


@torch.no_grad()
def test_the_hosts_text_is_the_trainings_text(loaded):
    from palimpsest.papercut.flow_transformer_data import embed

    (_, encoder, _), (_, clip, _) = loaded
    caption = "a red striped star and a blue ring on a mint waves ground"
    states, pooled = embed(encoder.half().float(), [caption], TRANSFORMER.text_tokens)
    ((found, options),) = clip.encode_from_tokens_scheduled(clip.tokenize(caption))
    assert found.shape == (1, TRANSFORMER.text_tokens, 192)
    torch.testing.assert_close(found.float(), states, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(options["pooled_output"].float(), pooled, rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_the_autoencoders_file_gives_the_same_pictures_in_the_hosts_load_vae(tmp_path):
    import comfy.sd
    import comfy.utils
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    path = write(autoencoder_state(AutoencoderTiny(latent_channels=16)), tmp_path / "vae.safetensors", "test")
    ours, state = load_autoencoder(path), comfy.utils.load_torch_file(str(path))
    theirs = comfy.sd.VAE(sd=state).first_stage_model.float()
    latents = torch.randn(1, 16, 8, 8)
    raw = latents / FLUX_SCALE + FLUX_SHIFT
    torch.testing.assert_close(theirs.decode(raw), ours.decode(latents).sample, rtol=1e-3, atol=1e-3)
    picture = torch.rand(1, 3, 64, 64) * 2 - 1
    unit = (theirs.encode(picture) - FLUX_SHIFT) * FLUX_SCALE
    torch.testing.assert_close(unit, ours.encode(picture).latents, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_the_shipped_autoencoder_brings_pictures_back_in_the_hosts_load_vae():
    import comfy.sd
    import comfy.utils

    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(AUTOENCODER)))
    pictures = torch.stack([sample_scene(seed).render().movedim(0, -1) for seed in SPLITS["validation"][:3]])
    raw = vae.encode(pictures)
    assert raw.shape == (3, 16, 32, 32)
    assert (psnr(vae.decode(raw), pictures) > 34).all()
    unit = (raw - FLUX_SHIFT) * FLUX_SCALE
    assert unit.mean().abs() < 0.3 and 0.7 < unit.std() < 1.3


def test_distances_are_negative_on_the_cut_out_and_one_far_from_it():
    scene = sample_scene(SPLITS["train"][0], objects=1).with_object(0, shape="circle", x=128.0, y=128.0, size=60.0)
    found = distances(scene)
    assert found.shape == (64, 64) and found[32, 32] < -0.99 and found[0, 0] > 0.99
    inside = found[32] < 0
    # A chord of 28.5 cells holds the middles of 28 or 29.
    assert inside.sum().item() in (28, 29)
    assert (distances(replace(scene, objects=())) == 1).all()
    assert per_token(found[None], 8).shape == (1, 64, 16)
