"""TRAJECTORY: a picture on its way to noise. Made once, checked, saved, and read by every technique."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from .ddim import PAIRINGS, Pairing

Prediction = Literal["eps", "v", "flow"]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The latents of B pictures at N+1 noise levels.

    sigmas: (N+1,) float32 CPU, rising; sigmas[0] is the clean end (0, or the model's lowest level).
    latents: (N+1, B, C, h, w) float32 CPU in the host's scaled form (variance-exploding; a flow model's own form),
        latents[0] the picture, latents[-1] the inverted noise.
    prompt: the text that the levels were made with, "" for the empty prompt, None where it is not known.
    cfg: guidance of the inversion; 1 is none.
    fingerprint: of the model with its patches; see host/fingerprint.py.
    prediction: what the network predicts.
    latent_format: the class name of the host's latent format: which VAEs fit.
    prompt_is_all: whether a plain encoding of the prompt is all that the model was given; not so with a ControlNet,
        an area or an encoder with further inputs.
    noise_mask: (1 or B, h, w) or (1 or B, 1, h, w) float32 CPU, any size, 1 = repaint: what an inpainting model was
        shown; None without one.
    pairing: where the inversion asked the network; see `ddim.invert`. None where it is not known.
    evaluated: (N, B, C, h, w) float32 CPU, the latents at which the network gave each step, [i] for the one up to
        sigmas[i + 1], of a refined inversion; None where they follow from the path.

    The tensors are shared, not copied: read them, never write to them. Raises ValueError where they do not agree.
    """

    sigmas: Tensor
    latents: Tensor
    prompt: str | None
    cfg: float
    fingerprint: str
    prediction: Prediction
    latent_format: str
    prompt_is_all: bool = False
    noise_mask: Tensor | None = None
    pairing: Pairing | None = None
    evaluated: Tensor | None = None

    def __post_init__(self) -> None:
        _require_tensors(self.sigmas, self.latents)
        if self.prediction not in get_args(Prediction):
            raise ValueError(f"A trajectory of the prediction '{self.prediction}' is unknown to this version.")
        if not math.isfinite(self.cfg):
            raise ValueError("The trajectory's CFG is not a number: invert again.")
        if self.noise_mask is not None:
            _require_mask(self.noise_mask, self.rows)
        if self.pairing not in (None, *PAIRINGS):
            raise ValueError(f"A trajectory of the pairing '{self.pairing}' is unknown to this version.")
        if self.evaluated is not None:
            _require_evaluated(self.evaluated, self.latents)

    def __len__(self) -> int:
        """Number of levels, N+1."""
        return len(self.sigmas)

    def __repr__(self) -> str:
        low, high = float(self.sigmas[0]), float(self.sigmas[-1])
        size = "x".join(str(n) for n in self.latents.shape[1:])
        return f"Trajectory({len(self)} levels {low:.4g}..{high:.4g}, latents {size}, prompt {self.prompt!r})"

    @property
    def rows(self) -> int:
        """Number of pictures, B."""
        return self.latents.shape[1]

    @property
    def flow(self) -> bool:
        return self.prediction == "flow"

    def part(self, rows: slice | Sequence[int]) -> "Trajectory":
        """The trajectory of some of its pictures, as a copy."""
        evaluated, mask = self.evaluated, self.noise_mask
        return replace(
            self,
            latents=self.latents[:, rows].contiguous(),
            evaluated=None if evaluated is None else evaluated[:, rows].contiguous(),
            noise_mask=mask if mask is None or len(mask) == 1 else mask[rows],
        )

    def index_of(self, sigma: float, *, tolerance: float = 1e-3) -> int | None:
        """The index of the level at sigma (relative tolerance), or None if sigma is none of the levels."""
        distance = (self.sigmas - sigma).abs()
        index = int(distance.argmin())
        # At the clean end a relative tolerance says nothing: there a fraction of the first step counts.
        scale = float(self.sigmas[index]) or float(self.sigmas[1])
        return index if float(distance[index]) <= tolerance * scale else None

    def covers(self, sigmas: Tensor) -> bool:
        """Whether a sampler's SIGMAS (n+1,), falling, visit neighbouring levels of the trajectory and no others."""
        rising = sigmas.detach().to("cpu", torch.float32).flip(0)
        first, last = (self.index_of(float(rising[i])) for i in (0, -1))
        if first is None or last is None or last - first + 1 != len(rising):
            return False
        return torch.allclose(self.sigmas[first : last + 1], rising, rtol=1e-3, atol=1e-4)

    def at(self, sigma: float, *, tolerance: float = 1e-3) -> Tensor:
        """(B, C, h, w), the latent at a noise level.

        At a level of the trajectory (relative tolerance) exactly the stored latent; between two levels their linear
        interpolation in sigma, which is the Euler path between them. Raises ValueError outside the trajectory.
        """
        sigma = float(sigma)
        index = self.index_of(sigma, tolerance=tolerance)
        if index is not None:
            return self.latents[index]
        low, high = float(self.sigmas[0]), float(self.sigmas[-1])
        if not low < sigma < high:
            raise ValueError(
                f"The trajectory runs from noise level {low:.4g} to {high:.4g} and has no latent at {sigma:.4g}: "
                "sample with the SIGMAS that DDIM Invert was given."
            )
        upper = int(torch.searchsorted(self.sigmas, sigma))
        below, above = self.sigmas[upper - 1], self.sigmas[upper]
        return torch.lerp(self.latents[upper - 1], self.latents[upper], (sigma - below) / (above - below))


def _require_tensors(sigmas: Tensor, latents: Tensor) -> None:
    if sigmas.ndim != 1 or len(sigmas) < 2 or not bool((sigmas[1:] > sigmas[:-1]).all()) or float(sigmas[0]) < 0:
        raise ValueError("A trajectory needs two or more noise levels that rise from the clean end.")
    if latents.ndim != 5 or latents.shape[0] != len(sigmas) or latents.shape[1] < 1:
        raise ValueError(
            f"A trajectory of {len(sigmas)} levels needs latents of shape ({len(sigmas)}, B, C, h, w), "
            f"not {tuple(latents.shape)}."
        )
    for name, tensor in (("noise levels", sigmas), ("latents", latents)):
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            raise ValueError(f"A trajectory keeps its {name} in float32 on the CPU.")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"The trajectory's {name} hold values that are not numbers: invert again.")


def _require_evaluated(points: Tensor, latents: Tensor) -> None:
    if points.shape != latents[1:].shape or points.dtype != torch.float32 or points.device.type != "cpu":
        raise ValueError("A trajectory keeps one evaluated latent for each step, in float32 on the CPU.")
    if not bool(torch.isfinite(points).all()):
        raise ValueError("The trajectory's evaluated latents hold values that are not numbers: invert again.")


def _require_mask(mask: Tensor, rows: int) -> None:
    if mask.ndim not in (3, 4) or mask.shape[0] not in (1, rows) or (mask.ndim == 4 and mask.shape[1] != 1):
        raise ValueError(
            f"The noise mask of a trajectory of {rows} pictures has the shape {tuple(mask.shape)}: set one mask, or "
            "one for each picture, on the latent that is inverted."
        )
    if mask.dtype != torch.float32 or mask.device.type != "cpu" or not bool(torch.isfinite(mask).all()):
        raise ValueError("A trajectory keeps its noise mask in float32 on the CPU, and every value is a number.")
