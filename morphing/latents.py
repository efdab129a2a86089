"""Latents between key latents: DiffMorpher (arXiv 2312.07409), eq. 5 (slerp of the inverted noise) and AdaIN.

Inverted noise has the length of Gaussian noise of that dimension; a straight line between two such latents passes
through shorter ones, which decode to flat pictures. Slerp keeps the length. AdaIN (arXiv 1703.06868) then gives every
frame the channel means and stds between those of its key latents, so that colours do not jump.
"""

from __future__ import annotations

import torch
from einops import rearrange, reduce
from torch import Tensor

from .schedule import Alphas

# Below this sine of the angle, slerp's formula divides by almost nothing, and the line is the arc.
_PARALLEL = 1e-6
# Below this std a channel is flat but for rounding, which must not be blown up to a pattern.
_FLAT = 1e-8


def morph_latents(keys: Tensor, alphas: Alphas, *, adain: bool = True) -> Tensor:
    """Latents of all frames.

    keys: (K, C, h, w), the inverted latents of the key pictures at one noise level.
    Returns (N, C, h, w) in keys' dtype; the arithmetic is float64, and a frame on a key picture is that latent to the
    bit. Raises ValueError if K is not the number of key pictures of `alphas`.
    """
    if len(keys) != alphas.keyframes:
        raise ValueError(
            f"The morph has {alphas.keyframes} key pictures, but {len(keys)} latents came in: connect one latent a "
            "key picture, or set `keyframes` of Morph Schedule."
        )
    return torch.stack([_frame(keys, *alphas.between(value), adain=adain) for value in alphas.values])


def slerp(start: Tensor, end: Tensor, fraction: float) -> Tensor:
    """Spherical interpolation of two tensors of one shape, each seen as one vector; fraction in [0, 1].

    One angle for the whole tensor, as the paper has it. Parallel, opposite or zero vectors have no single arc between
    them: those are interpolated on the line.
    """
    a, b = start.double(), end.double()
    lengths = a.norm() * b.norm()
    cosine = ((a * b).sum() / lengths).clamp(-1.0, 1.0) if lengths > 0 else torch.ones((), dtype=torch.float64)
    angle = torch.arccos(cosine)
    sine = torch.sin(angle)
    if sine < _PARALLEL:
        mixed = torch.lerp(a, b, fraction)
    else:
        mixed = (torch.sin((1.0 - fraction) * angle) * a + torch.sin(fraction * angle) * b) / sine
    return mixed.to(start.dtype)


def adapt(latent: Tensor, start: Tensor, end: Tensor, fraction: float) -> Tensor:
    """AdaIN: `latent` with the channel means and stds lerped from those of `start` and `end`.

    All (C, h, w) or (C, frames, h, w). A channel that is constant stays constant, at the wanted mean.
    """
    mean, std = channel_moments(latent)
    (mean_a, std_a), (mean_b, std_b) = channel_moments(start), channel_moments(end)
    normal = (latent.double() - mean) / std.clamp_min(_FLAT)
    moved = normal * torch.lerp(std_a, std_b, fraction) + torch.lerp(mean_a, mean_b, fraction)
    return moved.to(latent.dtype)


def channel_moments(latent: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std of each channel of (C, ..., h, w), float64, each of shape (C, 1, ..., 1)."""
    flat = rearrange(latent.double(), "c ... -> c (...)")
    shape = (-1,) + (1,) * (latent.ndim - 1)
    mean = reduce(flat, "c n -> c", "mean")
    return mean.reshape(shape), flat.std(dim=1, correction=0).reshape(shape)


def _frame(keys: Tensor, low: int, high: int, fraction: float, *, adain: bool) -> Tensor:
    if fraction == 0.0:
        return keys[low].clone()
    mixed = slerp(keys[low], keys[high], fraction)
    return adapt(mixed, keys[low], keys[high], fraction) if adain else mixed
