"""Which noise suits the sketch? Sketch-Guided Diffusion (arXiv 2211.13752, section 5) names the conflict: seed and
sketch may want different pictures.

Each candidate is sampled for a few wide steps, down to a level where its composition is decided. The result is compared
with the sketch, or with the picture moved by a flow.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .flow.warp import land, sample
from .sketch.guidance import SketchTarget, sketch_loss

BARE = 2
"""Pixels round the places that a flow uncovers, which do not count."""


def cheap_levels(sigmas: Tensor, steps: int, lowest: float) -> Tensor:
    """A few levels of a falling schedule (N+1,): steps + 1 of them or fewer, from the first to about `lowest`.

    Raises ValueError where the schedule begins below `lowest` or has no step.
    """
    last = int((sigmas >= lowest * (1 - 1e-4)).sum()) - 1
    if len(sigmas) < 2 or last < 0:
        raise ValueError(
            "The schedule starts below the level where seeds are judged: give Best Seed one with the full denoise."
        )
    last = min(max(last, 1), len(sigmas) - 2) if len(sigmas) > 2 else 0
    picked = torch.linspace(0, last, min(steps, last) + 1).round().long().unique()
    return sigmas[picked]


def sketch_distance(predicted: Tensor, target: SketchTarget) -> Tensor:
    """(B,), >= 0: the sketch loss for each unit of weight, so that sketches of any length compare."""
    weight = target.weight.flatten(1).sum(1).clamp_min(1e-6)
    return sketch_loss(predicted, target) / weight


def flow_distance(pictures: Tensor, source: Tensor, flow: Tensor) -> Tensor:
    """pictures: (B, 3, H, W) candidates; source: (1, 3, H, W); flow: (1, H, W, 2). All in 0..1 and pixels.

    Returns (B,) the mean difference from the source moved by the flow, where the flow determines the picture.
    """
    landing = land(flow)
    moved = torch.where(landing.arrived[:, None], sample(source, landing.source), source)
    known = (~landing.to_fill(BARE))[:, None].to(pictures)
    difference = (pictures - moved).abs().mean(1, keepdim=True)
    return (difference * known).flatten(1).sum(1) / known.sum().clamp_min(1)


def ranking(scores: Tensor) -> list[int]:
    """Candidates from the best (lowest) score to the worst; the first of equals first, what is no number last."""
    order = sorted(range(len(scores)), key=lambda i: (not bool(torch.isfinite(scores[i])), float(scores[i]), i))
    if not bool(torch.isfinite(scores[order[0]])):
        raise ValueError("No seed could be scored: run the model in full precision (start ComfyUI with --force-fp32).")
    return order
