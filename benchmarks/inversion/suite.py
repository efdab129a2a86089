"""DDIM Invert: how well pictures come back, what a step costs, and parity with diffusers on the same weights."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ...papercut.networks import FILE
from ..random_sd1 import stable_diffusion_1
from ..results import Row
from .fixtures import GUIDED, Papercut, came_back, inverted, papercut

TECHNIQUE = "DDIM Invert"
TECHNIQUES = (TECHNIQUE,)
# The papers' pairing is the faithful mode; the default one the fast.
MODES = {"faithful": "papers", "fast": "extrapolated"}
PARITY_STEPS = 50


def reconstruction(context, fixtures: Papercut | None) -> Iterator[Row]:
    """PSNR for both guidances and every refinement, beside the bound that the VAE sets; noise as white as it is."""
    from ...inversion.gaussianity import gaussianity, unit_noise

    bound = None
    for mode, pairing in MODES.items():
        for refinement in (0, 1, 2):
            name = f"refinement {refinement}"
            plain = guided = correlation = None
            if fixtures is not None:
                trajectory = inverted(fixtures, pairing, refinement)
                plain, bound = came_back(fixtures, trajectory, 1.0)
                guided, _ = came_back(fixtures, trajectory, GUIDED)
                noise = unit_noise(trajectory.latents[-1], float(trajectory.sigmas[-1]), flow=False)
                correlation = float(gaussianity(noise).correlation.abs().mean())
            yield context.row(TECHNIQUE, f"reconstruction at CFG 1, {name}", mode, plain, "dB")
            yield context.row(TECHNIQUE, f"reconstruction at CFG {GUIDED}, {name}", mode, guided, "dB")
            yield context.row(TECHNIQUE, f"neighbour correlation of the noise, {name}", mode, correlation, "")
    for refinement in (0, 1, 2):
        both = None
        if fixtures is not None:
            trajectory = inverted(fixtures, MODES["fast"], refinement, GUIDED)
            both, _ = came_back(fixtures, trajectory, GUIDED)
        measure = f"reconstruction, inverted and sampled at CFG {GUIDED}, refinement {refinement}"
        yield context.row(TECHNIQUE, measure, "fast", both, "dB")
    yield context.row(TECHNIQUE, "reconstruction, the bound", "VAE alone", bound, "dB")


def parity(fixtures: Papercut) -> float:
    """Largest difference of the inverted latents, in units of their noise, to diffusers' own loop on the same file."""
    from diffusers import DDIMInverseScheduler

    from ...nodes.inversion import DDIMInvert
    from ...papercut.configs import SCHEDULE
    from ...papercut.reference import load_reference

    reference = load_reference()
    facts = {
        **SCHEDULE.diffusers(),
        "clip_sample": False,
        "steps_offset": 1,
        "set_alpha_to_one": False,
        "timestep_spacing": "leading",
    }
    scheduler = DDIMInverseScheduler(**facts)
    scheduler.set_timesteps(PARITY_STEPS)
    alphas = torch.cat([scheduler.initial_alpha_cumprod.reshape(1), scheduler.alphas_cumprod[scheduler.timesteps]])
    sigmas = ((1 - alphas) / alphas).sqrt()
    scaled = fixtures.model.model.process_latent_in(fixtures.latents[:2])
    # diffusers takes the picture for a latent at the lowest level, which ours holds in the variance-exploding form.
    start = scaled * (1 + sigmas[0] ** 2).sqrt()
    text = fixtures.positive[0][0][:2].float()
    z = scaled
    for t in scheduler.timesteps:
        z = scheduler.step(reference.unet(z, t, encoder_hidden_states=text).sample, t, z).prev_sample
    made = DDIMInvert.execute(
        fixtures.model,
        {"samples": fixtures.model.model.process_latent_out(start)},
        sigmas.flip(0),
        refinement=0,
        positive=[[text, {}]],
        pairing="papers",
    ).args[0]
    return float((made.latents[-1] / (1 + sigmas[-1] ** 2).sqrt() - z).abs().max())


def overhead(context) -> float:
    """Percent that a step of DDIM Invert takes longer than the bare UNet of Stable Diffusion 1 (random weights).

    Steps and bare calls take turns inside the same session, and the medians are compared. On a CPU the latent is a
    quarter of the usual 64 x 64; the fraction of our own work is then larger, not smaller.
    """
    from ...host.session import with_denoiser
    from ...inversion.ddim import invert

    model, size, turns = stable_diffusion_1(), 64 if context.gpu else 32, 20 if context.gpu else 5
    levels = torch.linspace(0.1, 14.0, turns + 1)
    latent = torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(0))
    context_rows = torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(1))

    def body(session):
        ours, bare = [], []
        network, dtype = session.model.diffusion_model, session.model.get_dtype_inference()
        text = context_rows.to(session.device, dtype)
        t = torch.full((1,), 500.0, device=session.device)

        def now() -> float:
            if context.gpu:
                torch.cuda.synchronize()
            return time.perf_counter()

        def bare_call(i: int, n: int, x: Tensor, x0: Tensor) -> None:
            """Between two steps: what the step before took, its report included, and a bare call beside it."""
            nonlocal mark
            session.report(i - 1, n, x0, x)
            start = now()
            ours.append(start - mark)
            network(x.to(dtype), t, context=text)
            mark = now()
            bare.append(mark - start)

        network(session.latent.to(dtype), t, context=text)
        mark = now()
        invert(session.guided, session.latent, levels, on_step=bare_call)
        return statistics.median(ours) / statistics.median(bare)

    return 100 * (with_denoiser(model, {"positive": [[context_rows, {}]]}, latent, levels.flip(0), body) - 1)


def rows(context) -> Iterable[Row]:
    with torch.inference_mode():
        fixtures = papercut() if FILE.exists() else None
        yield from reconstruction(context, fixtures)
        difference = parity(fixtures) if fixtures is not None else None
        measure = "difference to diffusers' DDIM inverse scheduler, same weights"
        yield context.row(TECHNIQUE, measure, "faithful", difference, "", "<= 1e-4")
        measure = "a step beside the bare UNet of SD1 size"
        yield context.row(TECHNIQUE, measure, "fast", overhead(context), "% more", "<= 3")
