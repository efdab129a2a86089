"""Motions on Papercut as an artist's graph makes them: the sampler under the host's guider, the instant baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...guidance.flow.warp import land
from ...papercut.evaluate import FLOW_FILE
from ...papercut.layout import VAE_PREFIX
from ...papercut.networks import FILE
from .cases import Case
from .judge import Asked, Judge, Verdict

STEPS, DENOISE, CFG, GROW = 8, 0.6, 3.0, 10
# The instant baseline is the example workflow 46: more steps, and bare places are repainted from pure noise.
INSTANT_STEPS, FILL = 16, 1.0
OUTSIDE = "outside the cells that the edit mask touches"  # where the background is measured


@dataclass(frozen=True)
class Fixtures:
    """The shipped model as stock nodes give it.

    gradient_vae: the same VAE in bfloat16, as hosts load VAEs on most GPUs, for the gradients alone. optical_flow: the
    host's OPTICAL_FLOW, None where it is not trained.
    """

    model: object
    vae: object
    gradient_vae: object
    clip: object
    optical_flow: object | None

    def prompts(self, text: str) -> tuple[list, list]:
        return tuple([[self.clip.encode_from_tokens_scheduled(self.clip.tokenize(t))[0][0], {}]] for t in (text, ""))

    def levels(self, steps: int, denoise: float) -> Tensor:
        from comfy_extras.nodes_custom_sampler import BasicScheduler

        return BasicScheduler.execute(self.model, "normal", steps, denoise).args[0]


class Item(NamedTuple):
    """A case made ready. picture: (1, 256, 256, 3). latent: (1, 4, 32, 32), raw. layers: (1, 256, 256)."""

    judge: Judge
    asked: Asked
    layers: Tensor
    picture: Tensor
    latent: Tensor
    seed: int

    @property
    def case(self) -> Case:
        return self.judge.case


def load() -> Fixtures:
    import comfy.sd
    import comfy.utils

    from ...papercut.shipped import load_shipped

    model, clip, vae = load_shipped()
    state = comfy.utils.load_torch_file(str(FILE))
    part = {key.removeprefix(VAE_PREFIX): value for key, value in state.items() if key.startswith(VAE_PREFIX)}
    light = comfy.sd.VAE(sd=part, dtype=torch.bfloat16)
    return Fixtures(model, vae, light, clip, flow_model() if FLOW_FILE.exists() else None)


def flow_model():
    """Papercut's OPTICAL_FLOW through the host's own loader node."""
    import folder_paths
    from comfy_extras.nodes_void import OpticalFlowLoader

    folder_paths.add_model_folder_path("optical_flow", str(FLOW_FILE.parent))
    return OpticalFlowLoader.execute(FLOW_FILE.name).args[0]


def ready(fixtures: Fixtures, judge: Judge, seed: int) -> Item:
    flow, layers = judge.case.flow()
    landing = land(flow, layers)
    picture = judge.source.movedim(0, -1)[None].contiguous()
    latent = fixtures.vae.encode(picture)
    # Latents change by cells: whatever the edit mask touches may change.
    cells = F.adaptive_max_pool2d(landing.edit_mask(GROW)[:, None].float(), tuple(latent.shape[-2:]))
    free = F.interpolate(cells, tuple(picture.shape[1:3]), mode="nearest")[0, 0] > 0
    return Item(judge, Asked(flow, landing, free), layers, picture, latent, seed)


def sampled(
    fixtures: Fixtures, item: Item, sampler, sigmas: Tensor, latent: Tensor, mask: Tensor | None = None, caption=""
) -> Tensor:
    """(3, 256, 256): a stock sampling run under the source's caption or another, decoded."""
    import comfy.sample

    noise = comfy.sample.prepare_noise(latent, item.seed)
    made = comfy.sample.sample_custom(
        fixtures.model,
        noise,
        CFG,
        sampler,
        sigmas,
        *fixtures.prompts(caption or item.case.before.caption),
        latent,
        noise_mask=mask,
        disable_pbar=True,
        seed=item.seed,
    )
    return shown(fixtures, made)


def shown(fixtures: Fixtures, latent: Tensor) -> Tensor:
    return fixtures.vae.decode(latent)[0].movedim(-1, 0).float().clamp(0, 1)


def sampler_for(fixtures: Fixtures, item: Item, preset: str, **numbers):
    from ...nodes.motion import FlowGuidanceSamplerNode

    chosen = {"strength": 1.0, "grow": GROW, "gradient_vae": fixtures.gradient_vae} | numbers
    return FlowGuidanceSamplerNode.execute(
        vae=fixtures.vae, flow=item.asked.flow, image=item.picture, preset=preset, layers=item.layers, **chosen
    ).args[0]


def fast(fixtures: Fixtures, item: Item, **numbers) -> tuple[Tensor, object]:
    """The picture and the sampler that made it, with its record."""
    sampler = sampler_for(fixtures, item, "normal", **numbers)
    return sampled(fixtures, item, sampler, fixtures.levels(STEPS, DENOISE), item.latent), sampler


def faithful(fixtures: Fixtures, item: Item, steps: int, **numbers) -> tuple[Tensor, object]:
    sampler = sampler_for(fixtures, item, "faithful", **numbers)
    return sampled(fixtures, item, sampler, fixtures.levels(steps, 1.0), item.latent), sampler


def instant(fixtures: Fixtures, item: Item) -> Tensor:
    """Warped pixels, and what was laid bare inpainted under a prompt of what stays; nothing is guided.

    Flow Warp, VAE Encode, Set Latent Noise Mask, KSampler, and the warped picture's own pixels outside the fill mask.
    """
    import comfy.samplers

    from ...nodes.flow_compose import FlowWarp

    warped, _, fill, *_ = FlowWarp.execute(item.asked.flow, item.picture, GROW, item.layers).args
    euler = comfy.samplers.sampler_object("euler")
    latent = fixtures.vae.encode(warped)
    levels, stays = fixtures.levels(INSTANT_STEPS, FILL), item.case.emptied().caption
    painted = sampled(fixtures, item, euler, levels, latent, fill[:, None], stays)
    return torch.where(fill > 0.5, painted, warped[0].movedim(-1, 0))


def unedited(fixtures: Fixtures, item: Item) -> Tensor:
    return item.judge.source


def through_vae(fixtures: Fixtures, item: Item) -> Tensor:
    return shown(fixtures, item.latent)


def verdict(item: Item, picture: Tensor) -> Verdict:
    return item.judge.verdict(picture, item.asked)
