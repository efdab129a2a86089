"""Outlines in Papercut pictures, and sketches as hands draw them: what sketch guidance is measured with.

The outline of a *painted* picture is found without knowing what was asked for: a pixel belongs to a cut-out where its
colour is no shade of the ground, which is what lies along the border. Shadows and the ground's own pattern only make
its tone darker. `readable` says for which scenes this finds the true outline.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..guidance.morphology import dilate
from .edge_score import EdgeScore, edge_score
from .scenes import SIZE, Scene

BORDER = 6
SHADES = torch.linspace(0.55, 1.08, 22)
FOREIGN = 0.11
"""Distance in RGB from every shade of the ground beyond which a pixel belongs to a cut-out."""
SMALLEST = 60
"""Holes and islands of fewer pixels than this are dirt."""
READABLE = 0.95


def cover(picture: Tensor) -> Tensor:
    """(3, 256, 256) in 0..1 -> (256, 256) bool: where something lies on the ground."""
    edge = torch.ones(SIZE, SIZE, dtype=torch.bool)
    edge[BORDER:-BORDER, BORDER:-BORDER] = False
    border = picture[:, edge]
    # The tone's direction comes from the border's bright pixels; its brightest shade is the tone itself.
    bright = border[:, border.sum(0) >= border.sum(0).quantile(0.5)]
    tone = bright.median(1).values
    shades = tone[:, None] * SHADES
    distance = (picture[:, None] - shades[:, :, None, None]).norm(dim=0).amin(0)
    smooth = F.avg_pool2d(distance[None, None], 3, 1, 1)[0, 0]
    return _clean(smooth > FOREIGN)


def _clean(mask: Tensor) -> Tensor:
    """Without islands and holes of fewer than SMALLEST pixels."""
    from ..guidance.morphology import without_specks

    mask = without_specks(mask[None], SMALLEST)[0]
    return ~without_specks(~mask[None], SMALLEST)[0]


def outline(picture: Tensor) -> Tensor:
    """(3, 256, 256) in 0..1 -> (256, 256) bool, one pixel wide, as `Scene.edges` draws it."""
    mask = cover(picture)
    edge = torch.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edge[:-1] |= mask[:-1] != mask[1:]
    return edge


def outlines_score(pictures: Tensor, wanted: Tensor) -> EdgeScore:
    """pictures: (B, 3, 256, 256) in 0..1; wanted: (B, 256, 256) bool. At two pixels' tolerance."""
    return edge_score(torch.stack([outline(picture) for picture in pictures]), wanted)


def readable(scene: Scene) -> bool:
    """Whether the outline of the scene's own picture is found: a fair test for a painted one."""
    return float(outlines_score(scene.render()[None], scene.edges()[None]).f1) >= READABLE


# Sketches


def wobbled(edges: Tensor, seed: int, *, reach: float = 3.0) -> Tensor:
    """The lines (256, 256) bool as an unsteady hand draws them: bent by a smooth field of std `reach` pixels."""
    field = reach * _smooth(seed, 2)
    return _moved(edges, field)


def broken(edges: Tensor, seed: int, *, fraction: float = 0.3) -> Tensor:
    """The lines with gaps: `fraction` of them missing, in stretches of some twenty pixels."""
    noise = _smooth(seed + 1, 1, cells=14)[0]
    return edges & (noise > torch.quantile(noise[edges], fraction))


def partial(edges: Tensor, seed: int, *, fraction: float = 0.5) -> Tensor:
    """Only the lines on one side: `fraction` of them, seen from a random direction."""
    draw = torch.Generator().manual_seed(seed + 2)
    angle = 2 * math.pi * float(torch.rand((), generator=draw))
    y, x = edges.nonzero().float().T
    along = x * math.cos(angle) + y * math.sin(angle)
    out = torch.zeros_like(edges)
    kept = along <= torch.quantile(along, fraction)
    out[y[kept].long(), x[kept].long()] = True
    return out


SKETCHES = {
    "outline": lambda edges, seed: edges,
    "wobbled": wobbled,
    "broken": broken,
    "partial": partial,
}


def as_picture(edges: Tensor) -> Tensor:
    """(B, 256, 256) bool -> IMAGE values (B, 256, 256, 3), white strokes on black."""
    return edges.float()[..., None].expand(-1, -1, -1, 3).contiguous()


def _smooth(seed: int, channels: int, cells: int = 7) -> Tensor:
    """(channels, 256, 256) smooth noise of unit std."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, channels, cells, cells, generator=draw)
    fine = F.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic", align_corners=False)[0]
    return fine / fine.std(dim=(1, 2), keepdim=True)


def _moved(edges: Tensor, field: Tensor) -> Tensor:
    """Line pixels moved along a field (2, 256, 256) of x, y offsets; gaps that open are closed."""
    from ..guidance.sketch.strokes import thin

    y, x = edges.nonzero().T
    out = torch.zeros_like(edges)
    rows = (y + field[1, y, x]).round().long().clamp(0, SIZE - 1)
    columns = (x + field[0, y, x]).round().long().clamp(0, SIZE - 1)
    out[rows, columns] = True
    return thin(dilate(out[None], 1, "square"))[0]
