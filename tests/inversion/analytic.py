"""Denoisers whose trajectories have a closed form, and schedules as the host makes them, without the host."""

from __future__ import annotations

import torch
from torch import Tensor


def sd_sigmas() -> Tensor:
    """(1000,) float64: Stable Diffusion 1's training levels, rising."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - betas, 0)
    return ((1 - alpha_bar) / alpha_bar).sqrt()


SIGMA_MIN, SIGMA_MAX = float(sd_sigmas()[0]), float(sd_sigmas()[-1])


def falling(steps: int, *, low: float = SIGMA_MIN, high: float = SIGMA_MAX, rho: float = 7.0) -> Tensor:
    """(steps + 1,) SIGMAS after Karras, with the final zero."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    levels = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.cat([levels, levels.new_zeros(1)]).float()


def rows(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


class Gaussian:
    """The exact denoiser of data N(mean, variance), for variance-exploding and for flow levels.

    With variance-exploding levels the distance from the mean grows along the path as sqrt(sigma^2 + variance). With
    flow levels, x = (1 - sigma) data + sigma noise: as sqrt((1 - sigma)^2 variance + sigma^2).
    """

    def __init__(self, variance: Tensor | float, mean: Tensor | float = 0.0, *, flow: bool = False):
        self.variance, self.mean, self.flow = variance, mean, flow
        self.calls = 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape == (x.shape[0],) and sigma.dtype == torch.float32
        self.calls += 1
        s = rows(sigma, x)
        signal = 1 - s if self.flow else torch.ones_like(s)
        gain = signal * self.variance / (signal**2 * self.variance + s**2)
        return self.mean + gain * (x - signal * self.mean)

    def path(self, x0: Tensor, levels: Tensor) -> Tensor:
        """(N+1, B, C, h, w): the exact solution of the probability flow through x0 at levels[0]."""

        def scale(s: float):
            signal = 1 - s if self.flow else 1.0
            return torch.as_tensor(signal**2 * self.variance + s**2).sqrt(), signal

        start, first = scale(float(levels[0]))
        noise = (x0 - first * self.mean) / start
        return torch.stack([s[1] * self.mean + s[0] * noise for s in map(scale, levels.tolist())])
