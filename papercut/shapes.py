"""The outlines and colours that Papercut scenes are cut from.

An outline is an implicit function of local coordinates: negative inside, zero on the edge, about one unit in radius.
Only its zero set matters; distances in pixels come from dividing by the gradient (see `distance`).
"""

from math import cos, pi, sin, sqrt

import torch
from torch import Tensor

COLOURS = {
    "red": (0.82, 0.14, 0.16),
    "orange": (0.96, 0.54, 0.10),
    "yellow": (0.98, 0.83, 0.14),
    "green": (0.17, 0.60, 0.25),
    "cyan": (0.13, 0.73, 0.77),
    "blue": (0.14, 0.29, 0.78),
    "purple": (0.48, 0.20, 0.66),
    "pink": (0.96, 0.42, 0.68),
    "brown": (0.48, 0.28, 0.15),
    "black": (0.12, 0.12, 0.14),
}
TONES = {
    "cream": (0.98, 0.94, 0.83),
    "grey": (0.74, 0.74, 0.76),
    "mint": (0.75, 0.93, 0.82),
    "rose": (0.97, 0.80, 0.81),
    "sky": (0.74, 0.87, 0.97),
    "lilac": (0.84, 0.77, 0.95),
}
PATTERNS = ("plain", "striped", "dotted")
GROUNDS = ("plain", "gradient", "checked", "waves")


def _circle(u: Tensor, v: Tensor) -> Tensor:
    return torch.hypot(u, v) - 0.95


def _square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) - 0.85


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(v, 0.866 * u.abs() - 0.5 * v) - 0.58


def _star(u: Tensor, v: Tensor) -> Tensor:
    # Fold the plane into one tenth, where the outline is a single straight line from tip to notch.
    angle = torch.atan2(u, -v)
    folded = torch.remainder(angle + pi / 5, 2 * pi / 5) - pi / 5
    r = torch.hypot(u, v)
    x, y = r * torch.sin(folded).abs(), r * torch.cos(folded)
    tip, notch = (0.0, 1.1), (0.5 * sin(pi / 5), 0.5 * cos(pi / 5))
    dx, dy = notch[0] - tip[0], notch[1] - tip[1]
    return ((y - tip[1]) * dx - (x - tip[0]) * dy) / sqrt(dx * dx + dy * dy)


def _heart(u: Tensor, v: Tensor) -> Tensor:
    v = v - 0.12
    lobes = torch.hypot(u.abs() - 0.45, v + 0.45) - 0.636
    return torch.minimum(lobes, (u.abs() + v.abs() - 0.9) / sqrt(2))


def _cross(u: Tensor, v: Tensor) -> Tensor:
    a, b = u.abs(), v.abs()
    return torch.minimum(torch.maximum(a - 0.32, b - 0.95), torch.maximum(a - 0.95, b - 0.32))


def _ring(u: Tensor, v: Tensor) -> Tensor:
    return (torch.hypot(u, v) - 0.69).abs() - 0.28


def _moon(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(torch.hypot(u + 0.15, v) - 0.98, 0.78 - torch.hypot(u - 0.40, v))


SHAPES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "ring": _ring,
    "moon": _moon,
}


def distance(field: Tensor) -> Tensor:
    """Signed distance in pixels, right near the edge, from an implicit `field` sampled at every pixel (H, W)."""
    dy, dx = torch.gradient(field)
    return field / torch.hypot(dx, dy).clamp_min(1e-4)
