"""The edge predictor of Sketch-Guided Diffusion (arXiv 2211.13752, section 3.1): a per-pixel MLP that reads a picture's
edges off the UNet's features while the picture is still noise.

    P(F, sigma) = MLP( sum_i W_i up(F_i) + W_s emb(sigma) + b )

F_i are the outputs of a few blocks of the UNet, up() enlarges them to the latent's size. Bilinear weights sum to one,
so W_i up(F_i) = up(W_i F_i) exactly: the first and by far the widest layer is applied at each block's own resolution,
the results of one resolution are added, and only their sum is enlarged.

Differs from the paper:
- The noise level enters as sinusoids of log sigma. The paper feeds the noise itself, which is not known in sampling.
- LayerNorm over the channels of a pixel stands where the paper has BatchNorm. A prediction then depends neither on the
  rest of its batch nor on the number of pictures.
- Features are whitened by the statistics of the training set.
- Beside the paper's target (the VAE's latent of the edge map, 4 channels) there is "edges": one map of closeness to an
  edge, with `detail` x `detail` cells for each pixel of the latent.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Target = Literal["edges", "latent"]
TARGETS: tuple[Target, ...] = get_args(Target)
WIDTHS = (512, 256, 128, 64)
FREQUENCIES = 4
LATENT_CHANNELS = 4
DETAILS = (1, 2, 4)


@dataclass(frozen=True)
class PredictorSpec:
    """All that decides the shape and the meaning of a predictor. Raises ValueError for values that cannot be.

    family: "sd1", "sd2" or "sdxl"; latent_format: the host's class name: which models and VAEs fit.
    taps: blocks of the UNet in the order of the forward pass ("input.2", "middle.0", "output.8"); channels: of each.
    target: "edges" (logits of closeness) or "latent" (the scaled latent of the edge map).
    detail: cells a side for each pixel of the latent ("edges" only); spread: std of the closeness, in pixels of
        the latent. sigma_low, sigma_high: the noise levels it was trained on.
    facts: about the training, for people: numbers and text only.
    """

    family: str
    latent_format: str
    taps: tuple[str, ...]
    channels: tuple[int, ...]
    target: Target = "edges"
    detail: int = 2
    spread: float = 0.5
    widths: tuple[int, ...] = WIDTHS
    sigma_low: float = 0.0
    sigma_high: float = math.inf
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ValueError(f"An edge predictor with the target '{self.target}' is unknown to this version.")
        if self.detail not in DETAILS or (self.target == "latent" and self.detail != 1):
            raise ValueError(f"An edge predictor cannot have a detail of {self.detail}: choose 1, 2 or 4.")
        if not self.taps or len(self.taps) != len(self.channels) or len(set(self.taps)) != len(self.taps):
            raise ValueError("An edge predictor reads one or more blocks, each once and with its number of channels.")
        if not self.widths or min(*self.widths, *self.channels) < 1 or not self.spread > 0:
            raise ValueError("An edge predictor needs layers, channels and a spread above zero.")

    @property
    def outputs(self) -> int:
        return LATENT_CHANNELS if self.target == "latent" else self.detail**2

    def with_facts(self, **facts: Any) -> "PredictorSpec":
        return replace(self, facts={**self.facts, **facts})


class EdgeNetwork(nn.Module):
    """The MLP. features: one (B, C_i, h_i, w_i) for each of `channels`; see `forward`."""

    def __init__(self, channels: Sequence[int], outputs: int, widths: Sequence[int] = WIDTHS):
        super().__init__()
        first = widths[0]
        self.first = nn.ParameterList(nn.Parameter(torch.empty(first, count)) for count in channels)
        self.mean = nn.ParameterList(_fixed(torch.zeros(count)) for count in channels)
        self.scale = nn.ParameterList(_fixed(torch.ones(count)) for count in channels)
        self.level = nn.Linear(2 * FREQUENCIES + 1, first)
        sizes = [*widths, outputs]
        self.rest = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        bound = sum(channels) ** -0.5
        for weight in self.first:
            nn.init.uniform_(weight, -bound, bound)

    def forward(
        self, features: Sequence[Tensor], sigma: Tensor, size: tuple[int, int], positions: Tensor | None = None
    ) -> Tensor:
        """features: as the UNet gives them, any float type; sigma: (B,); size: (h, w) of the latent.

        Returns (B, outputs, h, w), or with positions (P,), indices into the h * w pixels, (B, P, outputs) for those.
        """
        x = rearrange(self.first_layer(features, size), "b c h w -> b (h w) c")
        if positions is not None:
            x = x[:, positions]
        x = x + self.level(embed_level(sigma).to(x))[:, None]
        for norm, linear in zip(self.norms, self.rest):
            x = linear(F.relu(norm(x)))
        return x if positions is not None else rearrange(x, "b (h w) c -> b c h w", h=size[0])

    def first_layer(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """W_i F_i, added within each resolution, then enlarged and added over the resolutions -> (B, width, h, w)."""
        sums: dict[tuple[int, ...], Tensor] = {}
        for feature, weight, mean, scale in zip(features, self.first, self.mean, self.scale, strict=True):
            whitening = weight * scale
            part = F.conv2d(feature.to(weight), whitening[:, :, None, None], -(whitening @ mean))
            side = tuple(part.shape[-2:])
            sums[side] = sums[side] + part if side in sums else part
        return reduce(torch.add, (enlarge(part, size) for part in sums.values()))

    @torch.no_grad()
    def whiten(self, mean: Sequence[Tensor], std: Sequence[Tensor]) -> None:
        """Set the statistics of the features, (C_i,) each; a channel that never changes is left as it is."""
        for i, (m, d) in enumerate(zip(mean, std, strict=True)):
            self.mean[i].copy_(m)
            self.scale[i].copy_(torch.where(d > 1e-6, 1 / d.clamp_min(1e-6), torch.ones_like(d)))


@dataclass(frozen=True, eq=False)
class EdgePredictor:
    """EDGE_PREDICTOR: what was trained, and the frozen network. state: what a training needs to go on (see
    training.py), None where it is finished. The host's cache hands it to several nodes: never write to it."""

    spec: PredictorSpec
    network: EdgeNetwork
    state: Mapping[str, Tensor] | None = None

    def logits(self, features: Mapping[str, Tensor], sigma: Tensor, size: tuple[int, int]) -> Tensor:
        """The network's output for the tapped features at sigma (B,): "edges" logits (B, 1, detail h, detail w),
        "latent" (B, 4, h, w) scaled latent. size: (h, w) of the latent."""
        out = self.network([features[name] for name in self.spec.taps], sigma, size)
        return cells(out, self.spec.detail) if self.spec.target == "edges" else out

    def edges(self, features: Mapping[str, Tensor], sigma: Tensor, size: tuple[int, int]) -> Tensor:
        """The same as a map to show: closeness in 0..1 for "edges"; the latent is for a VAE to decode."""
        out = self.logits(features, sigma, size)
        return out.sigmoid() if self.spec.target == "edges" else out

    def covers(self, sigma: float) -> bool:
        """Whether a noise level lies within the trained ones (with a little tolerance for rounded schedules)."""
        return self.spec.sigma_low * 0.99 - 1e-6 <= sigma <= self.spec.sigma_high * 1.01


def new_network(spec: PredictorSpec, seed: int = 0) -> EdgeNetwork:
    """Untrained weights from the seed alone; the process's own random numbers are left as they were."""
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EdgeNetwork(spec.channels, spec.outputs, spec.widths)


def frozen(network: EdgeNetwork) -> EdgeNetwork:
    """The network, ready to be shared: no gradients, evaluation."""
    return network.train(False).requires_grad_(False)


def cells(out: Tensor, detail: int) -> Tensor:
    """(B, detail^2, h, w) -> (B, 1, detail h, detail w)."""
    return rearrange(out, "b (y x) h w -> b 1 (h y) (w x)", y=detail, x=detail)


def uncells(map_: Tensor, detail: int) -> Tensor:
    """The inverse of `cells`."""
    return rearrange(map_, "b 1 (h y) (w x) -> b (y x) h w", y=detail, x=detail)


def enlarge(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) to another size, bilinear; weights sum to one everywhere."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def embed_level(sigma: Tensor) -> Tensor:
    """(B,) noise levels -> (B, 2 * FREQUENCIES + 1): log sigma and its sines and cosines."""
    u = sigma.float().clamp_min(1e-4).log()[:, None] / 4
    angles = u * (math.pi * 2.0 ** torch.arange(FREQUENCIES, device=sigma.device))
    return torch.cat((u, angles.sin(), angles.cos()), 1)


def _fixed(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)
