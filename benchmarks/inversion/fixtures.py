"""Papercut with test pictures, their inversions, and how well those come back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SCENES, STEPS, GUIDED = 12, 20, 7.5


class Papercut(NamedTuple):
    """The shipped model as stock nodes give it, and test pictures with their prompts encoded, a row each."""

    model: object
    vae: object
    pictures: Tensor
    latents: Tensor
    positive: list
    negative: list
    sigmas: Tensor


def papercut(count: int = SCENES, steps: int = STEPS, split: str = "test") -> Papercut:
    """The first `count` scenes of a split, and the levels of so many steps."""
    import comfy.samplers

    from ...papercut.scenes import SPLITS, sample_scene
    from ...papercut.shipped import load_shipped

    model, clip, vae = load_shipped()
    scenes = [sample_scene(seed) for seed in SPLITS[split][:count]]
    pictures = torch.stack([scene.render().movedim(0, -1) for scene in scenes])

    def encode(texts: list[str]) -> list:
        rows = [clip.encode_from_tokens_scheduled(clip.tokenize(text))[0] for text in texts]
        return [[torch.cat([row[0] for row in rows]), {}]]

    positive, negative = encode([scene.caption for scene in scenes]), encode([""] * count)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps).cpu()
    return Papercut(model, vae, pictures, vae.encode(pictures), positive, negative, sigmas)


def inverted(fixtures: Papercut, pairing: str, refinement: int, cfg: float = 1.0):
    """The trajectory of all test pictures."""
    from ...nodes.inversion import DDIMInvert

    negative = fixtures.negative if cfg != 1.0 else None
    return DDIMInvert.execute(
        fixtures.model,
        {"samples": fixtures.latents},
        fixtures.sigmas,
        cfg=cfg,
        refinement=refinement,
        positive=fixtures.positive,
        negative=negative,
        pairing=pairing,
    ).args[0]


def came_back(fixtures: Papercut, trajectory, cfg: float) -> tuple[float, float]:
    """Mean PSNR against the pictures: sampled back at a CFG, and of the VAE alone."""
    from ...inversion.quality import psnr
    from ...nodes._reconstruction import round_trip

    conds = {"positive": fixtures.positive, **({"negative": fixtures.negative} if cfg != 1.0 else {})}
    through_vae, back = round_trip(fixtures.model, fixtures.vae, trajectory, conds, cfg)
    return float(psnr(back, fixtures.pictures).mean()), float(psnr(through_vae, fixtures.pictures).mean())
