"""One set of weights, two readers: the host's stock loader and diffusers must make the same picture of it.

Largest differences seen in float32 on a CPU with random weights: text 2e-6, noise prediction 4e-6, decoded picture
3e-6, latents 3e-7, and 1.7e-5 over the whole picture of 20 guided steps. `LIMITS` leaves each about ten times as much.
"""

from types import SimpleNamespace

import pytest
import torch
from palimpsest.papercut.configs import LATENT_SCALE, PREVIEW_COLOURS, UNET
from palimpsest.papercut.export import export, to_single_file
from palimpsest.papercut.layout import inverse, rename, unet_prefixes
from palimpsest.papercut.networks import FILE, new_unet, new_vae
from palimpsest.papercut.reference import load_reference, new_scheduler
from palimpsest.papercut.text import encode

PROMPT = "a red striped triangle on a lilac gradient ground"
NEGATIVE = "a blue circle on a plain ground"
STEPS, CFG, SEED, SIDE = 20, 5.0, 7, 16  # SIDE: of the latent
LIMITS = {"text": 2e-5, "epsilon": 5e-5, "decode": 3e-5, "encode": 1e-5, "picture": 5e-4}


@pytest.fixture(scope="module", params=["random", "shipped"])
def both(request):
    """The same file read by the host and by diffusers."""
    if request.param == "shipped" and not FILE.exists():
        pytest.skip("the trained weights are not there")
    path = FILE if request.param == "shipped" else request.getfixturevalue("exported")
    import comfy.sd
    from palimpsest.papercut.companion.model import register

    register()
    register()  # a second time changes nothing
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(path))
    return SimpleNamespace(path=path, model=model, clip=clip, vae=vae, reference=load_reference(path))


def difference(a, b) -> float:
    return (a - b).abs().max().item()


def diffusers_picture(reference, scheduler, start, prompt=PROMPT, negative=NEGATIVE):
    """The textbook loop: diffusers' scheduler, classifier-free guidance. start: unit noise (1, 4, h, w), or the
    scheduler's own first sample. Returns the last latent."""
    cond, uncond = reference.embed([prompt]), reference.embed([negative])
    latent = start
    for t in scheduler.timesteps:
        x = scheduler.scale_model_input(latent, t)
        with torch.no_grad():
            with_prompt = reference.unet(x, t, cond).sample
            without = reference.unet(x, t, uncond).sample
        latent = scheduler.step(without + CFG * (with_prompt - without), t, latent).prev_sample
    return latent


def host_latent(both, sampler, scheduler):
    """What the host's KSampler gives, in latents of unit size."""
    import comfy.sample

    empty = torch.zeros(1, 4, SIDE, SIDE)
    noise = comfy.sample.prepare_noise(empty, SEED)
    conds = [both.clip.encode_from_tokens_scheduled(both.clip.tokenize(text)) for text in (PROMPT, NEGATIVE)]
    out = comfy.sample.sample(both.model, noise, STEPS, CFG, sampler, scheduler, *conds, empty, seed=SEED)
    return noise, out * LATENT_SCALE


def test_the_key_table_is_the_hosts():
    import comfy.utils

    with torch.device("meta"):
        names = new_unet().state_dict()
    theirs = comfy.utils.unet_to_diffusers(UNET.host())
    table = unet_prefixes()
    for name in names:
        (ours,) = rename({name: 0}, table)
        assert ours == theirs[name]
        assert list(rename({ours: 0}, inverse(table))) == [name]


def test_a_network_of_another_layout_is_refused():
    with pytest.raises(ValueError, match=r"time_embedding.act"):
        rename({"time_embedding.act.weight": 0}, unet_prefixes())


def test_weights_that_do_not_fit_fp16_are_refused(networks, tmp_path):
    unet, text, vae = networks
    broken = new_vae()
    broken.load_state_dict({k: v * 1e6 for k, v in vae.state_dict().items()})
    with pytest.raises(ValueError, match="not finite in fp16"):
        export(unet, text, broken, tmp_path / "broken.safetensors")
    assert not any(tmp_path.iterdir())


def test_the_file_returns_every_weight_rounded_to_half(networks, exported):
    reference = load_reference(exported)
    before = to_single_file(*networks)
    after = to_single_file(reference.unet, reference.text_encoder, reference.vae)
    assert before.keys() == after.keys()
    for key in before:
        assert torch.equal(before[key].half().float(), after[key]), key


def test_the_text_is_the_same(both):
    for text in (PROMPT, ""):
        ((theirs, extra),) = both.clip.encode_from_tokens_scheduled(both.clip.tokenize(text))
        ours = both.reference.embed(text)
        assert theirs.shape == (1, 77, 192)
        assert difference(theirs, ours) < LIMITS["text"]
        pooled = both.reference.text_encoder(encode(text)).pooler_output
        assert difference(extra["pooled_output"], pooled) < LIMITS["text"]


def test_weighted_and_long_prompts_work_as_in_any_model(both):
    ((plain, _),) = both.clip.encode_from_tokens_scheduled(both.clip.tokenize("a red circle"))
    ((heavy, _),) = both.clip.encode_from_tokens_scheduled(both.clip.tokenize("a (red:1.5) circle"))
    assert torch.equal(plain[:, :2], heavy[:, :2]) and not torch.equal(plain[:, 2], heavy[:, 2])
    assert torch.equal(plain[:, 3:], heavy[:, 3:])
    ((long, _),) = both.clip.encode_from_tokens_scheduled(both.clip.tokenize("red circle " * 60))
    assert long.shape == (1, 154, 192)


@pytest.mark.parametrize("t", [0, 1, 500, 999])
def test_the_noise_prediction_is_the_same(both, t):
    generator = torch.Generator().manual_seed(t)
    x = torch.randn(2, 4, SIDE, SIDE, generator=generator)
    cond = both.reference.embed([PROMPT, NEGATIVE])
    sigma = both.model.get_model_object("model_sampling").sigmas[t].expand(2)
    with torch.no_grad():
        ours = both.reference.unet(x, t, cond).sample
        x_host = x * (1 + sigma[0] ** 2) ** 0.5
        x0 = both.model.model.apply_model(x_host, sigma, c_crossattn=cond)
    assert difference((x_host - x0) / sigma[0], ours) < LIMITS["epsilon"]


def test_the_noise_levels_are_the_same(both):
    bars = new_scheduler().alphas_cumprod
    theirs = both.model.get_model_object("model_sampling").sigmas
    assert torch.allclose(((1 - bars) / bars) ** 0.5, theirs, rtol=1e-4)  # float32 near alpha_bar = 1


def test_pictures_decode_and_encode_the_same(both):
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(2, 4, SIDE, SIDE + 4, generator=generator) * 1.5
    with torch.no_grad():
        ours = both.reference.pictures(latent).movedim(1, -1)
        theirs = both.vae.decode(latent / LATENT_SCALE)
        assert difference(theirs, ours) < LIMITS["decode"] and ours.std() > 0.01
        back = both.reference.latents(ours.movedim(-1, 1))
        assert difference(both.vae.encode(ours) * LATENT_SCALE, back) < LIMITS["encode"]


def test_ksampler_euler_is_diffusers_euler_and_ddim(both):
    from diffusers import EulerDiscreteScheduler

    noise, theirs = host_latent(both, "euler", "simple")
    ddim = new_scheduler(timestep_spacing="trailing")
    ddim.set_timesteps(STEPS)
    euler = EulerDiscreteScheduler.from_config(ddim.config, timestep_spacing="trailing")
    euler.set_timesteps(STEPS)
    pictures = both.reference.pictures(theirs)
    assert pictures.std() > 0.01
    # The host takes the top level's noise as unit noise times sqrt(1 + sigma^2), which is DDIM's start exactly.
    start = noise * (1 + euler.sigmas[0] ** 2) ** 0.5
    for ours in (diffusers_picture(both.reference, ddim, noise), diffusers_picture(both.reference, euler, start)):
        assert difference(pictures, both.reference.pictures(ours)) < LIMITS["picture"]


def test_ksampler_ddim_uniform_is_diffusers_leading_ddim(both):
    noise, theirs = host_latent(both, "ddim", "ddim_uniform")
    ddim = new_scheduler()
    ddim.set_timesteps(STEPS)
    # Below the top level the host starts from sigma * noise, DDIM from unit noise.
    first = ddim.alphas_cumprod[ddim.timesteps[0]]
    ours = diffusers_picture(both.reference, ddim, noise * (1 - first) ** 0.5)
    assert difference(both.reference.pictures(theirs), both.reference.pictures(ours)) < LIMITS["picture"]


def test_previews_have_the_files_own_colours(both):
    from safetensors import safe_open

    with safe_open(both.path, "pt") as file:
        colours = file.get_tensor(PREVIEW_COLOURS)
    latent_format = both.model.model.latent_format
    assert type(latent_format).__name__ == "SD15" and latent_format.scale_factor == LATENT_SCALE
    assert torch.allclose(torch.tensor(latent_format.latent_rgb_factors), colours[:4])
    assert torch.allclose(torch.tensor(latent_format.latent_rgb_factors_bias), colours[4])


def test_the_host_saves_every_weight_under_its_name(both, tmp_path):
    import comfy.sd
    from safetensors.torch import load_file

    saved = tmp_path / "saved.safetensors"
    comfy.sd.save_checkpoint(str(saved), both.model, both.clip, both.vae)
    again, first = load_file(saved), load_file(both.path)
    missing = set(first) - set(again) - {PREVIEW_COLOURS}
    assert not missing
    for key in set(first) & set(again):
        assert torch.equal(first[key].float(), again[key].float()), key
