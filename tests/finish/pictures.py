"""Pictures with texture at every scale and edits of them, drawn from seeds."""

import kornia
import torch
import torch.nn.functional as F
from palimpsest.benchmarks.finish.truth import Cast, Move, Truth, make


def textured(size=(240, 320), seed=0) -> torch.Tensor:
    """(3, H, W) in 0..1: noise in octaves, as photographs have, with a few flat patches."""
    draw = torch.Generator().manual_seed(seed)
    total = torch.zeros(3, *size)
    for octave in range(2, 8):
        cells = torch.rand(1, 3, 2**octave, 2**octave, generator=draw) - 0.5
        total += F.interpolate(cells, size, mode="bicubic", align_corners=False)[0] / 1.7**octave * 4
    picture = 0.5 + 0.5 * total / total.abs().max()
    for _ in range(4):
        top, left = (int(torch.randint(0, side - side // 4, (1,), generator=draw)) for side in size)
        colour = 0.3 + 0.4 * torch.rand(3, 1, 1, generator=draw)
        picture[:, top : top + size[0] // 5, left : left + size[1] // 5] = colour
    # No lens draws edges of a pixel.
    return kornia.filters.gaussian_blur2d(picture[None], (5, 5), (0.7, 0.7))[0].clamp(0.05, 0.9)


CAST = Cast(gain=(1.05, 1.0, 0.95), offset=(0.01, 0.0, -0.01))


def truth(fraction=0.08, move: Move | None = None, *, seed=0, size=(240, 320), cast=CAST, **other) -> Truth:
    source = textured(size, seed)
    return make(source, textured(size, seed + 100), fraction, move or Move(size=size), seed=seed, cast=cast, **other)
