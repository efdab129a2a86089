"""A network of one cross-attention layer, small enough for closed forms and quick enough for whole recipes."""

from __future__ import annotations

import torch
from torch import Tensor

CHANNELS, WIDTH, TOKENS, SIZE = 4, 24, 16, 5
DISTANCE = 0.2  # of the empty text from the source text: a few updates a level make up for it


class Toy:
    """x0 from x and a text: epsilon is a little of the input and much of what the text's tokens say about it."""

    guided = False

    def __init__(self, dtype: torch.dtype = torch.float32, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)

        def weight(a: int, b: int) -> Tensor:
            return (torch.randn(a, b, generator=generator) / a**0.5).to(dtype)

        self.query, self.key, self.value = weight(CHANNELS, WIDTH), weight(WIDTH, WIDTH), weight(WIDTH, CHANNELS)
        self.source = torch.randn(1, TOKENS, WIDTH, generator=generator).to(dtype)
        self.empty = self.source + DISTANCE * torch.randn(1, TOKENS, WIDTH, generator=generator).to(dtype)
        self.calls = 0

    def __call__(self, x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        """x: (R, 4, h, w); sigma: (R,); text: (R, T, 24)."""
        self.calls += len(x)
        s = sigma.to(x).reshape(-1, 1, 1, 1)
        z = (x / (1 + s * s).sqrt()).flatten(2).transpose(1, 2)
        scores = (z @ self.query) @ (text @ self.key).transpose(1, 2) / WIDTH**0.5
        heard = scores.softmax(-1) @ (text @ self.value)
        epsilon = (0.8 * z + 0.5 * heard).transpose(1, 2).reshape(x.shape)
        return x - s * epsilon

    def conditional(self, x: Tensor, sigma: Tensor, pictures: Tensor) -> Tensor:
        return self(x, sigma, self.source.expand(len(x), -1, -1))

    def unconditional(self, x: Tensor, sigma: Tensor, embedding: Tensor, pictures: Tensor) -> Tensor:
        return self(x, sigma, embedding)


def picture(batch: int = 1, dtype: torch.dtype = torch.float32, seed: int = 5) -> Tensor:
    shape = (batch, CHANNELS, SIZE, SIZE)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def official_levels(steps: int = 50) -> Tensor:
    """(steps + 1,) float64 rising: time steps 0, 20, ... of Stable Diffusion 1, and the clean end before them."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - betas, 0)
    sigmas = ((1 - alpha_bar) / alpha_bar).sqrt()
    return torch.cat([torch.zeros(1, dtype=torch.float64), sigmas[1 :: 1000 // steps]])


def inverted(toy: Toy, x: Tensor, levels: Tensor) -> Tensor:
    """(N+1, B, C, h, w): DDIM inversion without guidance, the papers' pairing."""
    path = [x]
    for s, t in zip(levels[:-1].tolist(), levels[1:].tolist()):
        sigma = torch.full((len(x),), t, dtype=x.dtype)
        asked = path[-1] * ((1 + t * t) / (1 + s * s)) ** 0.5
        derivative = (asked - toy.conditional(asked, sigma, torch.arange(len(x)))) / t
        path.append(path[-1] + (t - s) * derivative)
    return torch.stack(path)
