"""NullText Optimize and its free alternatives: how well pictures come back under full guidance, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...papercut.export import FILE
from ..held import Held
from ..rows import Row
from .inversion import Papercut, inverted, papercut, stable_diffusion_1

TECHNIQUE = "NullText Optimize"
TECHNIQUES = (TECHNIQUE,)
CFG, LEVELS, PICTURES = 7.5, 50, 6
WAYS = ("plain DDIM", "negative-prompt", "anchored", "faithful", "fast")
FITS = ("faithful", "fast")
# The random network of Stable Diffusion 1's size: on a CPU a small picture, and a stretch of its levels for both modes.
GPU_SIZE, CPU_SIZE, STRETCH = 64, 8, 5


class Fitted(NamedTuple):
    """What a fit gave and took: the CONDITIONING, and for each picture forward-equivalents and seconds."""

    conditioning: list
    forwards: float
    seconds: float


def fitted(context, model, trajectory, positive: list, negative: list, mode: str) -> Fitted:
    from ...host.null_text import fit_null_text
    from ...inversion.null_text import Recipe

    begin = now(context)
    conditioning, fit = fit_null_text(model, trajectory, positive, negative, Recipe(CFG, mode))
    count = trajectory.rows
    return Fitted(conditioning, fit.cost.forward_equivalents / count, (now(context) - begin) / count)


def now(context) -> float:
    if context.gpu:
        torch.cuda.synchronize()
    return time.perf_counter()


# Papercut


def sampled_back(world: Papercut, trajectory, negative: list, *, model=None) -> float:
    """Mean PSNR of the stock Euler sampler's pictures, started at the inverted latents."""
    import comfy.sample
    import comfy.samplers

    model = model or world.model
    start = model.model.process_latent_out(trajectory.latents[-1])
    latents = comfy.sample.sample_custom(
        model, torch.zeros_like(start), CFG, comfy.samplers.sampler_object("euler"), trajectory.sigmas.flip(0),
        world.positive, negative, start, disable_pbar=True, seed=0,
    )  # fmt: skip
    return likeness(world, latents)


def likeness(world: Papercut, latents: Tensor) -> float:
    from ...inversion.quality import psnr

    return float(psnr(world.vae.decode(latents)[..., :3].float().cpu(), world.pictures).mean())


def came_back(context, world: Papercut) -> tuple[dict[str, float], dict[str, Fitted]]:
    """PSNR of every way and of the VAE alone, and the two fits."""
    from ...guidance.anchor import Anchor
    from ...host.anchor import anchored

    trajectory = inverted(world, "extrapolated", 0)
    kept = anchored(world.model, Anchor(trajectory))
    found = {
        "VAE alone": likeness(world, world.latents),
        "plain DDIM": sampled_back(world, trajectory, world.negative),
        "negative-prompt": sampled_back(world, trajectory, world.positive),
        "anchored": sampled_back(world, trajectory, world.negative, model=kept),
    }
    fits = {
        mode: fitted(context, world.model, trajectory, world.positive, world.negative, mode) for mode in FITS
    }
    return found | {mode: sampled_back(world, trajectory, fit.conditioning) for mode, fit in fits.items()}, fits


def reconstruction(context, world: Papercut | None) -> Iterator[Row]:
    """PSNR at CFG 7.5, beside the bound of the VAE, and the cost of the two fits side by side."""
    found, fits = came_back(context, world) if world is not None else ({}, {})
    for way in WAYS:
        yield context.row(TECHNIQUE, f"reconstruction at CFG {CFG}, {LEVELS} levels", way, found.get(way), "dB")
    yield context.row(TECHNIQUE, "reconstruction, the bound", "VAE alone", found.get("VAE alone"), "dB")

    def behind(one: str, other: str) -> float | None:
        return found[one] - found[other] if found else None

    measure = "behind the VAE's bound"
    yield context.row(TECHNIQUE, measure, "faithful", behind("VAE alone", "faithful"), "dB", "<= 1")
    yield context.row(TECHNIQUE, measure, "anchored", behind("VAE alone", "anchored"), "dB", "<= 0.01")
    yield context.row(TECHNIQUE, "behind faithful", "fast", behind("faithful", "fast"), "dB", "<= 0.5")
    yield from costs(context, f"{LEVELS} levels, Papercut", fits, {"faithful": "<= 1700", "fast": "<= 400"})


def costs(context, what: str, fits: dict[str, Fitted], most: dict[str, str], share: float = 1.0) -> Iterator[Row]:
    """Forward-equivalents and seconds of both modes, and how many times longer the faithful one takes.

    share: of all levels, those that were fitted; forward-equivalents are told for all.
    """
    for mode in FITS:
        measure, value = f"forward-equivalents a picture, {what}", fits[mode].forwards / share if fits else None
        yield context.row(TECHNIQUE, measure, mode, value, "forwards", most.get(mode, ""))
    for mode in FITS:
        value = fits[mode].seconds if fits else None
        yield context.row(TECHNIQUE, f"time a picture, {what}", mode, value, "s")
    ratio = fits["faithful"].seconds / fits["fast"].seconds if fits else None
    yield context.row(TECHNIQUE, f"faithful's time over fast's, {what}", "fast", ratio, "times", ">= 4")


# Stable Diffusion 1's size


def large(context) -> Iterator[Row]:
    """Both modes on the random network of Stable Diffusion 1's size, one after the other in one run.

    On a CPU both get the same few levels in a row out of the middle of a run of 50: fewer levels for the whole run
    would lie further apart, and neither mode's stop would mean what it means in practice.
    """
    size, levels = (GPU_SIZE, LEVELS) if context.gpu else (CPU_SIZE, STRETCH)
    model = stable_diffusion_1()
    positive, negative = ([[text(seed), {}]] for seed in (1, 2))
    trajectory = stretch(random_trajectory(model, positive, size, LEVELS), levels)
    fits, memory = {}, {}
    for mode in FITS:
        with Held(model.model) as held:
            fits[mode] = fitted(context, model, trajectory, positive, negative, mode)
        memory[mode] = held.peak / 2**20
    what = f"{LEVELS} levels, SD1 size, random weights, {8 * size}x{8 * size}"
    what += "" if levels == LEVELS else f" (measured on {levels})"
    yield from costs(context, what, fits, {"faithful": "<= 1700", "fast": "<= 400"}, levels / LEVELS)
    for mode in FITS:
        yield context.row(TECHNIQUE, f"peak memory: weights, activations, gradients; {what}", mode, memory[mode], "MB")
    measure = f"time for {LEVELS} levels at 512x512 in half precision, SD1 size"
    yield context.gpu_row(TECHNIQUE, measure, "fast", lambda: fits["fast"].seconds, "s", "<= 8")


def text(seed: int) -> Tensor:
    """(1, 77, 768), as large as CLIP's."""
    return torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(seed))


def stretch(trajectory, steps: int):
    """So many steps in a row, out of the middle of a trajectory, as one of its own."""
    first = (len(trajectory) - 1 - steps) // 2
    part = slice(first, first + steps + 1)
    return replace(trajectory, sigmas=trajectory.sigmas[part], latents=trajectory.latents[part])


def random_trajectory(model, positive: list, size: int, levels: int):
    from comfy.samplers import calculate_sigmas

    from ...nodes.inversion import DDIMInvert

    latent = torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(3)) / 0.18215
    sigmas = calculate_sigmas(model.get_model_object("model_sampling"), "normal", levels)
    return DDIMInvert.execute(model, {"samples": latent}, sigmas, refinement=0, positive=positive).args[0]


def rows(context) -> Iterable[Row]:
    with torch.inference_mode():
        yield from reconstruction(context, papercut(PICTURES, LEVELS) if FILE.exists() else None)
        yield from large(context)
