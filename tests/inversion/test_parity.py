"""The same network in diffusers' schedulers and in ours gives the same latents."""

import pytest
import torch
from palimpsest.inversion.ddim import invert, replay

diffusers = pytest.importorskip("diffusers")

CONFIG = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, num_train_timesteps=1000
)
SPACINGS = [
    dict(set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading"),
    dict(set_alpha_to_one=True, steps_offset=0, timestep_spacing="trailing"),
    dict(set_alpha_to_one=True, steps_offset=1, timestep_spacing="leading"),
]


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    network = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def context():
    return torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def latent():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))


def as_denoiser(unet, context, alphas_cumprod):
    """diffusers' epsilon network as the model contract: x is z / sqrt(alpha_bar), the timestep the nearest level."""
    sigmas = ((1 - alphas_cumprod) / alphas_cumprod).sqrt()

    def denoise(x, sigma):
        t = (sigmas[:, None].log() - sigma.log()).abs().argmin(0)
        s = sigma.reshape(-1, 1, 1, 1)
        return x - s * unet(x / (1 + s**2).sqrt(), t, encoder_hidden_states=context).sample

    return denoise


def levels_of(scheduler, first_alpha: torch.Tensor) -> torch.Tensor:
    """(N+1,) sigmas: the clean end that the scheduler assumes, then its timesteps, rising."""
    alpha_bar = torch.cat([first_alpha.reshape(1), scheduler.alphas_cumprod[scheduler.timesteps.sort().values]])
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def to_ve(z, sigma):
    return z * (1 + float(sigma) ** 2) ** 0.5


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [10, 50])
def test_the_papers_pairing_is_diffusers_inverse_scheduler(unet, context, latent, spacing, steps):
    scheduler = diffusers.DDIMInverseScheduler(**CONFIG, **spacing)
    scheduler.set_timesteps(steps)
    z = latent
    for t in scheduler.timesteps:
        z = scheduler.step(unet(z, t, encoder_hidden_states=context).sample, t, z).prev_sample
    levels = levels_of(scheduler, scheduler.initial_alpha_cumprod)
    denoise = as_denoiser(unet, context, scheduler.alphas_cumprod)
    ours = invert(denoise, to_ve(latent, levels[0]), levels, pairing="papers")[-1]
    assert float((ours / to_ve(1.0, levels[-1]) - z).abs().max()) < 1e-4


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_replay_is_diffusers_ddim(unet, context, latent, spacing):
    scheduler = diffusers.DDIMScheduler(**CONFIG, **spacing)
    scheduler.set_timesteps(20)
    z = latent
    for t in scheduler.timesteps:
        z = scheduler.step(unet(z, t, encoder_hidden_states=context).sample, t, z, eta=0.0).prev_sample
    levels = levels_of(scheduler, scheduler.final_alpha_cumprod)
    denoise = as_denoiser(unet, context, scheduler.alphas_cumprod)
    ours = replay(denoise, to_ve(latent, levels[-1]), levels)[0]
    assert float((ours / to_ve(1.0, levels[0]) - z).abs().max()) < 1e-4


def test_every_pairing_returns_to_the_picture_on_a_network(unet, context, latent):
    """A random network is no denoiser, but its inversion's fixed point is replayed all the same."""
    scheduler = diffusers.DDIMScheduler(**CONFIG, **SPACINGS[1])
    scheduler.set_timesteps(10)
    levels = levels_of(scheduler, scheduler.final_alpha_cumprod)
    denoise = as_denoiser(unet, context, scheduler.alphas_cumprod)
    path = invert(denoise, latent, levels, refinement=30, tolerance=1e-6)
    assert float((replay(denoise, path[-1], levels)[0] - latent).abs().max()) < 1e-3
