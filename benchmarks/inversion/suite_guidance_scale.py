"""Null-text Inversion (arXiv 2211.09794): why it inverts at a guidance scale of 1, and what its parts are good for.

The curve: pictures are inverted at a guidance scale, fitted, and sampled back at 7.5. A larger scale leads away from
the noise that the model knows, as the log-likelihood of the inverted latents under a standard normal says, and pictures
come back no better. The ablations: the same fit with one thing left out or made in another way.

Scenes are of the validation split, so that no run is a look at the test split.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...inversion.gaussianity import IDEAL_LOG_LIKELIHOOD, gaussianity, unit_noise
from ...papercut.networks import FILE
from ..plots import Curve, line_plot
from ..results import Row
from .fixtures import Papercut, inverted, papercut
from .suite_null_text import sampled_back_each

TECHNIQUE = "NullText Optimize, the guidance scale of the inversion"
ABLATIONS = "NullText Optimize, its parts"
TECHNIQUES = (TECHNIQUE, ABLATIONS)
TEST_SPLIT = False
PICTURES, LEVELS, CFG = 4, 50, 7.5
SCALES = (1.0, 2.0, 3.0, 5.0, 7.5)
# The paper's pairing of predictions and levels, after which there is something to fit.
PAIRING = "papers"
WHOLE = "10 iterations a level"
# Iterations at a level; of the global embedding so many rounds over all levels.
ITERATIONS = {WHOLE: 10, "3 iterations a level": 3, "1 iteration a level": 1}
ROUNDS = 20
# The plot's upright axis: decibels from WORST to BEST, and as many nats a number below the ideal from 1 to 0.
WORST, BEST = 10.0, 40.0


def fit_and_return(fixtures: Papercut, trajectory, positive: list | None = None, **settings) -> Tensor:
    """(B,) PSNR of pictures that were fitted from a trajectory and sampled back at CFG. positive: the fit's
    and the sampler's prompt, the pictures' captions where it is None."""
    from ...host.inversion.null_text import fit_null_text
    from ...inversion.null_text_run import NullTextRecipe

    recipe = NullTextRecipe(cfg=CFG, **settings)
    positive = fixtures.positive if positive is None else positive
    conditioning, _ = fit_null_text(fixtures.model, trajectory, positive, fixtures.negative, recipe)
    return sampled_back_each(fixtures._replace(positive=positive), trajectory, conditioning)


def likelihood(trajectory) -> Tensor:
    """(B,) nats a number of the inverted latents under a standard normal."""
    noise = unit_noise(trajectory.latents[-1], float(trajectory.sigmas[-1]), flow=False)
    return gaussianity(noise).log_likelihood


def random_pivot(trajectory):
    """The same picture under one noise at all levels, in place of its inversion."""
    clean = trajectory.latents[0]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    levels = trajectory.sigmas.reshape(-1, *[1] * clean.ndim)
    return replace(trajectory, latents=clean + levels * noise, evaluated=None)


def curve(fixtures: Papercut) -> dict[float, dict[str, Tensor]]:
    """By the scale of the inversion: PSNR without a fit and with one, and log-likelihood, each (B,)."""
    found = {}
    for scale in SCALES:
        path = inverted(fixtures, PAIRING, 0, scale)
        found[scale] = {
            "no fit": sampled_back_each(fixtures, path, fixtures.negative),
            "fast": fit_and_return(fixtures, path),
            "log-likelihood": likelihood(path),
        }
    return found


def ablations(fixtures: Papercut) -> dict[str, Tensor]:
    """(B,) PSNR of each way to fit, all of them faithful but for what their names say."""
    path = inverted(fixtures, PAIRING, 0)
    found = {
        name: fit_and_return(fixtures, path, mode="faithful", inner_steps=count) for name, count in ITERATIONS.items()
    }
    found[f"one embedding for all levels, {ROUNDS} rounds"] = fit_and_return(
        fixtures, path, mode="global", inner_steps=ROUNDS
    )
    found["random pivot"] = fit_and_return(fixtures, random_pivot(path), mode="faithful", inner_steps=10)
    shifted = [[fixtures.positive[0][0].roll(1, 0), {}]]
    found["another picture's caption"] = fit_and_return(
        fixtures, replace(path, prompt=None), shifted, mode="faithful", inner_steps=10
    )
    return found


def spread(values: Tensor) -> float:
    return float(values.std()) if values.numel() > 1 else 0.0


def rows_of(context, technique: str, measure: str, mode: str, values: Tensor | None, unit: str) -> Iterator[Row]:
    """Mean and standard deviation over the pictures."""
    yield context.row(technique, measure, mode, None if values is None else float(values.mean()), unit)
    yield context.row(technique, f"{measure}, std", mode, None if values is None else spread(values), unit)


def plot(found: Mapping[float, Mapping[str, Tensor]]) -> None:
    """Both curves over the scale from 0 to 10."""
    scaled = lambda name: [(float(one[name].mean()) - WORST) / (BEST - WORST) for one in found.values()]
    nats = [1 + float(one["log-likelihood"].mean()) - IDEAL_LOG_LIKELIHOOD for one in found.values()]
    curves: Sequence[Curve] = (
        Curve("PSNR, no fit", scaled("no fit")),
        Curve("PSNR, fast", scaled("fast")),
        Curve("log-likelihood", nats),
    )
    title = f"PSNR ({WORST:g} to {BEST:g} dB) and log-likelihood (0: a nat below noise's)"
    line_plot(
        "null_text_guidance_scale", title, "guidance scale of the inversion / 10", [s / 10 for s in found], curves
    )


def rows(context) -> Iterable[Row]:
    known = FILE.exists()
    with torch.inference_mode():
        fixtures = papercut(PICTURES, LEVELS, split="validation") if known else None
        found = curve(fixtures) if known else {}
        parts = ablations(fixtures) if known else {}
    if found:
        plot(found)
    for scale in SCALES:
        for name, unit in (("no fit", "dB"), ("fast", "dB"), ("log-likelihood", "nats")):
            values = found[scale][name] if found else None
            what = "log-likelihood of the inverted latents, a number" if unit == "nats" else f"comes back at CFG {CFG}"
            mode = f"inverted at {scale:g}" + ("" if unit == "nats" else f", {name}")
            yield from rows_of(context, TECHNIQUE, f"{what}, {PICTURES} pictures", mode, values, unit)
    yield context.row(TECHNIQUE, "log-likelihood of white noise, a number", "exact", IDEAL_LOG_LIKELIHOOD, "nats")
    for name, values in parts.items():
        yield from rows_of(context, ABLATIONS, f"comes back at CFG {CFG}, {PICTURES} pictures", name, values, "dB")
