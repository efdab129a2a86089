"""NullText Optimize and its free alternatives: how well pictures come back under full guidance, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...papercut.networks import FILE
from ..peak_memory import PeakMemory
from ..random_sd1 import stable_diffusion_1
from ..results import Row
from .fixtures import Papercut, inverted, papercut
from .memory import kept_for_backward

TECHNIQUE = "NullText Optimize"
TECHNIQUES = (TECHNIQUE,)
CFG, LEVELS, PICTURES = 7.5, 50, 8
# Rounds of the paper's global variant over all levels.
ROUNDS = 20
WHOLE = "fast, whole budget"
METHODS = ("plain DDIM", "negative-prompt", "anchored", "faithful", "fast")
FITS = ("faithful", "fast")
# The latent of the random network of Stable Diffusion 1's size, a small one on a CPU.
GPU_SIZE, CPU_SIZE = 64, 8
# Levels on which the memory of a fit on Papercut is counted; the first graph is as large as the last.
STRETCH = 5
AT_ONCE = 10


class Fitted(NamedTuple):
    """What a fit gave and took: the CONDITIONING, and for each picture forward-equivalents and seconds."""

    conditioning: list
    forwards: float
    seconds: float


def recipe(mode: str):
    """faithful, fast or global; `WHOLE`: fast without its stop, so that every level takes all its updates."""
    from ...inversion.null_text_run import NullTextRecipe

    if mode == "global":
        return NullTextRecipe(cfg=CFG, mode=mode, inner_steps=ROUNDS)
    if mode == WHOLE:
        return NullTextRecipe(cfg=CFG, mode="fast", enough=0.0)
    return NullTextRecipe(cfg=CFG, mode=mode)


def fitted(context, model, trajectory, positive: list, negative: list, mode: str, at_once: int = 0) -> Fitted:
    from ...host.inversion.null_text import fit_null_text

    begin = now(context)
    conditioning, fit = fit_null_text(model, trajectory, positive, negative, recipe(mode), levels_at_once=at_once)
    count = trajectory.rows
    return Fitted(conditioning, fit.cost.forward_equivalents / count, (now(context) - begin) / count)


def now(context) -> float:
    if context.gpu:
        torch.cuda.synchronize()
    return time.perf_counter()


# Papercut


def sampled_back(fixtures: Papercut, trajectory, negative: list, *, model=None) -> float:
    """Mean PSNR of the stock Euler sampler's pictures, started at the inverted latents."""
    return float(sampled_back_each(fixtures, trajectory, negative, model=model).mean())


def sampled_back_each(fixtures: Papercut, trajectory, negative: list, *, model=None) -> Tensor:
    """The same of each picture, (B,)."""
    import comfy.sample
    import comfy.samplers

    model = model or fixtures.model
    start = model.model.process_latent_out(trajectory.latents[-1])
    latents = comfy.sample.sample_custom(
        model,
        torch.zeros_like(start),
        CFG,
        comfy.samplers.sampler_object("euler"),
        trajectory.sigmas.flip(0),
        fixtures.positive,
        negative,
        start,
        disable_pbar=True,
        seed=0,
    )
    return likeness(fixtures, latents)


def likeness(fixtures: Papercut, latents: Tensor) -> Tensor:
    """(B,) PSNR of what the latents show."""
    from ...inversion.quality import psnr

    return psnr(fixtures.vae.decode(latents)[..., :3].float().cpu(), fixtures.pictures)


Found = tuple[dict[str, float], dict[str, Fitted]]


def came_back(context, fixtures: Papercut, modes: Sequence[str], pairing: str = "extrapolated") -> Found:
    """PSNR of the methods without a fit, of the VAE alone and of the fits; and the fits."""
    from ...guidance.anchor import Anchor
    from ...host.inversion.anchor import anchored

    trajectory = inverted(fixtures, pairing, 0)
    kept = anchored(fixtures.model, Anchor(trajectory))
    found = {
        "VAE alone": float(likeness(fixtures, fixtures.latents).mean()),
        "plain DDIM": sampled_back(fixtures, trajectory, fixtures.negative),
        "negative-prompt": sampled_back(fixtures, trajectory, fixtures.positive),
        "anchored": sampled_back(fixtures, trajectory, fixtures.negative, model=kept),
    }
    fits = {
        mode: fitted(context, fixtures.model, trajectory, fixtures.positive, fixtures.negative, mode) for mode in modes
    }
    return found | {mode: sampled_back(fixtures, trajectory, fit.conditioning) for mode, fit in fits.items()}, fits


def reconstruction(context, known: bool) -> Iterator[Row]:
    """PSNR at CFG 7.5, beside the bound of the VAE, and the cost of the fits side by side."""
    fixtures = papercut(PICTURES, LEVELS) if known else None
    found, fits = came_back(context, fixtures, FITS) if known else ({}, {})
    for method in METHODS:
        measure = f"reconstruction at CFG {CFG}, {LEVELS} levels, {PICTURES} pictures"
        yield context.row(TECHNIQUE, measure, method, found.get(method), "dB")
    yield context.row(TECHNIQUE, "reconstruction, the bound", "VAE alone", found.get("VAE alone"), "dB")
    measure = "behind the VAE's bound"
    yield context.row(TECHNIQUE, measure, "faithful", behind(found, "VAE alone", "faithful"), "dB", "<= 1")
    yield context.row(TECHNIQUE, measure, "anchored", behind(found, "VAE alone", "anchored"), "dB", "<= 0.01")
    yield context.row(TECHNIQUE, "behind faithful", "fast", behind(found, "faithful", "fast"), "dB", "<= 0.5")
    for row in costs(f"{LEVELS} levels, Papercut", fits, {"faithful": "<= 1700", "fast": "<= 400"}):
        yield context.row(TECHNIQUE, *row)
    memory = peaks(context, fixtures) if known else {}
    for mode in FITS:
        measure = f"peak memory: weights, activations, gradients; a picture, Papercut (measured on {STRETCH} levels)"
        yield context.row(TECHNIQUE, measure, mode, memory.get(mode), "MB")


def peaks(context, fixtures: Papercut) -> dict[str, float]:
    """Megabytes of both modes, for one picture on a stretch of its levels; apart from the runs that are timed, since
    counting takes time."""
    positive, negative = ([[cond[0][0][:1], {}]] for cond in (fixtures.positive, fixtures.negative))
    alone = fixtures._replace(latents=fixtures.latents[:1], positive=positive, negative=negative)
    trajectory, memory = stretch(inverted(alone, "extrapolated", 0), STRETCH), {}
    for mode in FITS:
        with PeakMemory(fixtures.model.model) as tracked:
            fitted(context, fixtures.model, trajectory, positive, negative, mode)
        memory[mode] = tracked.peak / 2**20
    return memory


def behind(found: dict[str, float], one: str, other: str) -> float | None:
    return found[one] - found[other] if found else None


def costs(what: str, fits: dict[str, Fitted], most: dict[str, str]) -> Iterator[tuple]:
    """Rows but for their technique: forward-equivalents and seconds of the modes, and how many times longer the
    faithful one takes.

    most: the modes, and the forward-equivalents that each may cost.
    """
    for mode, target in most.items():
        value = fits[mode].forwards if fits else None
        yield f"forward-equivalents a picture, {what}", mode, value, "forwards", target
        yield f"time a picture, {what}", mode, fits[mode].seconds if fits else None, "s"
    for mode in [one for one in most if one != "faithful"]:
        ratio = fits["faithful"].seconds / fits[mode].seconds if fits else None
        target = ">= 4" if mode == "fast" else ""
        yield f"faithful's time over fast's, {what}", mode, ratio, "times", target


# Stable Diffusion 1's size


def large(context) -> Iterator[Row]:
    """Every mode on the random network of Stable Diffusion 1's size, one after the other in one run."""
    size = GPU_SIZE if context.gpu else CPU_SIZE
    model = stable_diffusion_1()
    positive, negative = ([[text(seed), {}]] for seed in (1, 2))
    trajectory = random_trajectory(model, positive, size, LEVELS)
    fits, memory = {}, {}
    for mode in (*FITS, WHOLE):
        with PeakMemory(model.model) as tracked:
            fits[mode] = fitted(context, model, trajectory, positive, negative, mode)
        memory[mode] = tracked.peak / 2**20
    what = f"{LEVELS} levels, SD1 size, random weights, {8 * size}x{8 * size}"
    for row in costs(what, fits, {"faithful": "<= 1700", "fast": "<= 400", WHOLE: "<= 400"}):
        yield context.row(TECHNIQUE, *row)
    for mode in memory:
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


def activations(context) -> Iterator[Row]:
    """What a backward pass keeps at 512x512, the weights left out: of one picture in faithful mode and in fast mode
    level by level, of a row a level where fast mode fits levels side by side."""
    sizes = {"faithful": 1, "fast": 1, f"fast, {AT_ONCE} levels at once": AT_ONCE}
    kept = {rows: kept_for_backward(rows) for rows in set(sizes.values())}
    measure = "activations kept for a backward pass, 512x512 in half precision, SD1 size"
    for mode, rows in sizes.items():
        yield context.row(TECHNIQUE, measure, mode, kept[rows], "MB")


def rows(context) -> Iterable[Row]:
    known = FILE.exists()
    with torch.inference_mode():
        yield from reconstruction(context, known)
        yield from large(context)
        yield from activations(context)
