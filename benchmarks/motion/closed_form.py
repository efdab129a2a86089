"""What motion guidance promises in closed form, as numbers: warps, regions, gradients, sizes, and rest for no flow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ...guidance.flow.fields import Transform, transform_flow
from ...guidance.flow.warp import forward_warp, land
from ...guidance.motion.guided_ddim import Guide, _through_model, guided_ddim
from ...guidance.motion.loss import objective
from ...guidance.motion.recipe import FAITHFUL, MotionRecipe, Record
from ...guidance.motion.step_size import Damper, scaled_weight
from ...papercut.scenes import SPLITS, rearranged, sample_scene
from ..results import Row

SCENES = 24
MIX = torch.tensor([[0.5, -0.3, 0.2, 0.1], [-0.2, 0.4, 0.3, -0.5], [0.1, 0.2, -0.4, 0.3]], dtype=torch.float64)


def decode(latent: Tensor) -> Tensor:
    """A decoder of twelve weights: one cell is one pixel."""
    return torch.sigmoid(torch.einsum("k c, b c h w -> b k h w", MIX, latent))


def flow_net(picture: Tensor) -> Tensor:
    """A smooth stand-in for a flow network."""
    return torch.stack((picture[:, 0] - picture[:, 1], picture[:, 2] * picture[:, 0]), dim=-1)


class Toy:
    """A Gaussian model in float64; `guidance.motion.Setting`."""

    def __init__(self, source: Tensor):
        self.source = source

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        return (x + sigma**2 * self.source.mean(dim=(-1, -2), keepdim=True)) / (1 + sigma**2)

    def kept(self, sigma: float, like: Tensor) -> Tensor:
        return self.noised(self.source, self.noise(99, like), sigma)

    def noised(self, x0: Tensor, noise: Tensor, sigma: float) -> Tensor:
        return x0 + sigma * noise

    def noise(self, index: int, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=torch.Generator().manual_seed(index), dtype=like.dtype)

    def gradients(self):
        return torch.enable_grad()

    def report(self, step: int, x0: Tensor, x: Tensor) -> None:
        pass


def toy(move: tuple[int, int] = (3, 0), size: int = 12, repeat: int = 1) -> tuple[Toy, Guide]:
    source = torch.randn(1, 4, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    mask = torch.zeros(1, size, size)
    mask[:, 3:8, 2:7] = 1
    flow = transform_flow(mask, Transform(move=move)).double().repeat(1, repeat, repeat, 1)
    source = source.repeat(1, 1, repeat, repeat)
    landing = land(flow)
    goal = objective(decode(source), flow, landing, colour=100.0, motion=3.0, grow=1)
    return Toy(source), Guide(goal, decode, flow_net, landing.edit_mask(1)[:, None].double())


def warp_difference() -> float:
    """Largest difference between a region moved by whole pixels and the same pixels of the source."""
    picture = sample_scene(SPLITS["test"][0]).render()[None]
    mask = torch.zeros(1, 256, 256)
    mask[:, 60:130, 80:150] = 1
    landing = land(transform_flow(mask, Transform(move=(41, -23))))
    moved = forward_warp(picture, landing)
    return float((moved[..., 37:107, 121:191] - picture[..., 60:130, 80:150]).abs().max())


def region_overlap() -> dict[str, float]:
    """IoU of the occluded and of the uncovered region with the scenes' ground truth, over all pixels of all scenes."""
    both = {"occluded": [0, 0], "uncovered": [0, 0]}
    for seed in SPLITS["test"][:SCENES]:
        scene = sample_scene(seed)
        motion = scene.motion_to(rearranged(scene, seed))
        layers = (scene.labels() + 1)[None].float() / (len(scene.objects) + 1)
        landing = land(motion.flow[None], layers)
        for name, counts in both.items():
            found, true = getattr(landing, name)[0], getattr(motion, name)
            counts[0] += int((found & true).sum())
            counts[1] += int((found | true).sum())
    return {name: shared / all_ for name, (shared, all_) in both.items()}


def changed_by_nothing() -> float:
    """Values that a run with a flow of zeros changes, in both modes."""
    setting, guide = toy(move=(0, 0))
    sigmas = torch.tensor([4.0, 1.0, 0.2, 0.0], dtype=torch.float64)
    x, total = setting.noised(setting.source, setting.noise(7, setting.source), 4.0), 0
    for recipe in (MotionRecipe(), FAITHFUL):
        total += int((guided_ddim(x, sigmas, setting, guide, recipe, Record()) != setting.source).sum())
    return total


def gradient_error() -> float:
    """Relative difference of the faithful gradient and a central difference along a random direction."""
    setting, guide = toy()
    draw = lambda seed: torch.randn(1, 4, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x, direction, sigma, step = draw(2), draw(3), 1.3, 1e-6
    _, _, change = _through_model(x, sigma, 1.0, setting, guide, replace(FAITHFUL, clip=0.0), Damper(), Record())
    loss = lambda x: guide.objective.total(
        guide.objective.by_estimate(decode(setting.denoise(x, sigma)), flow_net)
    ).sum()
    finite_difference = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    expected = float(scaled_weight(FAITHFUL.guidance, 12, 12) * sigma * finite_difference)
    return abs(float((change * direction).sum()) - expected) / abs(expected)


def size_error() -> float:
    """How differently one element is pulled in a picture and in the same picture tiled, clipped and unclipped."""
    worst = 0.0
    for clip in (0.0, 0.05):
        recipe, pulls = replace(FAITHFUL, clip=clip), []
        for repeat in (1, 2):
            setting, guide = toy(move=(2, 1), repeat=repeat)
            x = setting.source + 1.1 * toy()[0].noise(1, toy()[0].source).repeat(1, 1, repeat, repeat)
            # Without a network: an estimated flow would read beyond the small picture's rim.
            given = replace(guide, flow_net=None)
            pulls.append(_through_model(x, 1.1, 1.0, setting, given, recipe, Damper(), Record())[2])
        worst = max(worst, float((pulls[1] - pulls[0].repeat(1, 1, 2, 2)).abs().max() / pulls[0].abs().max()))
    return worst


def closed_form_rows(context, technique: str) -> Iterator[Row]:
    row = lambda measure, mode, value, target: context.row(technique, measure, mode, value, "", target)
    yield row("warp of a whole-pixel move, largest difference", "fast", warp_difference(), "== 0")
    for name, value in region_overlap().items():
        yield row(f"{name} region beside the scenes' own, IoU", "fast", value, ">= 0.95")
    yield row("values changed by a flow of zeros, both modes", "fast", changed_by_nothing(), "== 0")
    yield row("gradient beside finite differences", "faithful", gradient_error(), "<= 1e-5")
    yield row("pull of one element at another size, relative difference", "faithful", size_error(), "<= 1e-9")
