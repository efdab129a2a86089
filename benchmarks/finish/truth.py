"""Edits whose truth is known: a region of a picture is replaced, then all of it moved, recoloured, resized and
compressed, as instruction editors do.

The pictures are resampled by scipy's splines, which the code under test does not use.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from ...guidance.finish.alignment import Alignment, Size, size_of

VISIBLE = 6 / 255
"""A pixel whose colour an edit moves by less than this, in every channel, is as good as one that it left."""
KINDS = ("replaced", "recoloured", "removed")


@dataclass(frozen=True, kw_only=True)
class Move:
    """What an editor does to the whole picture. right, down: pixels of the source; wider, higher: factors; turned:
    degrees; size: (height, width) of what comes back; crop: to its proportions, in place of stretching."""

    size: Size
    right: float = 0.0
    down: float = 0.0
    wider: float = 1.0
    higher: float = 1.0
    turned: float = 0.0
    crop: bool = False

    def alignment(self, source: Size) -> Alignment:
        height, width = source
        h, w = self.size
        fit = (max(w / width, h / height),) * 2 if self.crop else (w / width, h / height)
        cos, sin = math.cos(math.radians(self.turned)), math.sin(math.radians(self.turned))
        turn = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
        scale = torch.tensor([self.wider, self.higher], dtype=torch.float64).diag()
        matrix = torch.tensor(fit, dtype=torch.float64).diag() @ turn @ scale
        by = torch.tensor([width / 2 + self.right, height / 2 + self.down], dtype=torch.float64)
        moved = torch.tensor(fit, dtype=torch.float64) * (by - torch.tensor([width / 2, height / 2]))
        centre = torch.tensor([width / 2, height / 2], dtype=torch.float64)
        shift = torch.tensor([w / 2, h / 2], dtype=torch.float64) - matrix @ centre + moved
        return Alignment(matrix=matrix, shift=shift, source=source, edited=self.size)


@dataclass(frozen=True, kw_only=True)
class Cast:
    """gain, offset: a colour cast, each (red, green, blue); field: its slow change over the picture, largest value."""

    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    field: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """source (3, H, W), edited (3, h, w) in 0..1; alignment: the true one; region (H, W) bool: what was edited;
    changed: the part of it whose pixels are visibly others; wanted (3, H, W): the source with the edit, undistorted."""

    source: Tensor
    edited: Tensor
    wanted: Tensor
    alignment: Alignment
    region: Tensor
    changed: Tensor


def make(
    source: Tensor, other: Tensor, fraction: float, move: Move, *, seed: int, kind: str = "replaced",
    cast: Cast = Cast(), quality: int = 85,
) -> Truth:  # fmt: skip
    """source, other (3, H, W) of one size: `fraction` of the source is edited, with what `other` shows there.

    quality: of the JPEG that comes back; 0 for none.
    """
    region = blob(size_of(source), fraction, seed)
    wanted = painted(source, other, region, kind, seed)
    alignment = move.alignment(size_of(source))
    edited = compressed(recoloured(seen(wanted, alignment), cast, seed), quality)
    changed = region & ((wanted - source).abs().amax(0) > VISIBLE)
    return Truth(source=source, edited=edited, wanted=wanted, alignment=alignment, region=region, changed=changed)


def blob(size: Size, fraction: float, seed: int) -> Tensor:
    """(H, W) bool, one round region without holes, of this fraction of the picture, wholly within it."""
    height, width = size
    draw = torch.Generator().manual_seed(seed)
    y = (torch.arange(height) + 0.5)[:, None] / height * 2 - 1
    x = (torch.arange(width) + 0.5) / width * 2 - 1
    reach = 0.85 - math.sqrt(fraction)
    middle = (torch.rand(2, generator=draw) * 2 - 1) * max(reach, 0)
    angle = torch.atan2(y - middle[1], x - middle[0])
    wobble = 1.0 + sum(
        0.15 / n * math.cos(float(p)) * torch.cos(n * angle + 6.28 * float(p))
        for n, p in zip((2, 3, 5), torch.rand(3, generator=draw))
    )
    far = ((x - middle[0]) ** 2 + (y - middle[1]) ** 2).sqrt() / wobble
    count = max(1, round(fraction * height * width))
    return far <= far.flatten().kthvalue(count).values


def painted(source: Tensor, other: Tensor, region: Tensor, kind: str, seed: int) -> Tensor:
    """The source with the region replaced by the other picture, in other colours, or wiped out."""
    if kind == "replaced":
        gain = 0.85 + 0.3 * torch.rand(3, 1, 1, generator=torch.Generator().manual_seed(seed + 1))
        new = (other * gain).clamp(0, 1)
    elif kind == "recoloured":
        new = source[[1, 2, 0]] * 0.9 + torch.tensor([0.12, 0.0, -0.05])[:, None, None]
    else:
        surroundings = torch.where(region, 0.0, source)
        std = 0.1 * max(source.shape[1:])
        sums = [torch.from_numpy(ndimage.gaussian_filter(one.numpy(), std)) for one in surroundings]
        known = torch.from_numpy(ndimage.gaussian_filter((~region).float().numpy(), std))
        new = torch.stack(sums) / known.clamp_min(1e-3)
    soft = torch.from_numpy(ndimage.gaussian_filter(region.float().numpy(), 0.5))
    return torch.lerp(source, new.clamp(0, 1), soft * region)


def seen(picture: Tensor, alignment: Alignment) -> Tensor:
    """The whole picture (3, H, W) where the alignment puts it; grey where nothing of it is seen."""
    inverse = torch.linalg.inv(alignment.matrix)
    shrink = (1 / torch.linalg.matrix_norm(alignment.matrix, 2)).item()
    blurred = 0.45 * math.sqrt(max(0.0, shrink**2 - 1))
    # scipy counts rows first, and from the centre of the first pixel.
    matrix = inverse.flip(0, 1).numpy()
    offset = (inverse @ (torch.tensor([0.5, 0.5], dtype=torch.float64) - alignment.shift) - 0.5).flip(0).numpy()
    moved = [
        ndimage.affine_transform(
            ndimage.gaussian_filter(one.numpy(), blurred) if blurred else one.numpy(),
            matrix, offset, tuple(alignment.edited), order=3, mode="reflect",
        )
        for one in picture
    ]  # fmt: skip
    return torch.from_numpy(np.stack(moved)).clamp(0, 1)


def recoloured(picture: Tensor, cast: Cast, seed: int) -> Tensor:
    gain, offset = (torch.tensor(one)[:, None, None] for one in (cast.gain, cast.offset))
    height, width = picture.shape[1:]
    p = torch.rand(4, generator=torch.Generator().manual_seed(seed + 2)).tolist()
    y, x = torch.arange(height)[:, None] / height, torch.arange(width) / width
    slow = torch.cos(math.pi * (x * (0.5 + p[0]) + p[1])) * torch.cos(math.pi * (y * (0.5 + p[2]) + p[3]))
    return (picture * gain + offset + cast.field * slow).clamp(0, 1)


def compressed(picture: Tensor, quality: int) -> Tensor:
    """As it comes back from a JPEG of this quality; 0: from 8 bits."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().movedim(0, -1).numpy()
    if not quality:
        return torch.from_numpy(pixels).movedim(-1, 0).float() / 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.asarray(Image.open(file).convert("RGB")).copy()).movedim(-1, 0).float() / 255


def registration_error(found: Alignment, true: Alignment) -> float:
    """Pixels of the source, the mean over the part of it that is seen, between where both put a point."""
    height, width = true.source
    y, x = torch.meshgrid(torch.linspace(0, height, 33).double(), torch.linspace(0, width, 33).double(), indexing="ij")
    points = torch.stack([x, y], -1).flatten(0, 1)
    there = true.of(points)
    inside = ((there >= 0) & (there <= torch.tensor([true.edited[1], true.edited[0]]))).all(1)
    back = (found.of(points) - there) @ torch.linalg.inv(true.matrix).T
    return float(back[inside].norm(dim=1).mean())
