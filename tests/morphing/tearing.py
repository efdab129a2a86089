"""A thing that jumps: drawn latents of a morph that tears."""

import torch
from palimpsest.morphing.schedule import schedule

SIDE, RADIUS, FROM, TO = 48, 5, (24, 10), (24, 38)
APART = TO[1] - FROM[1]


def disc(place, radius=RADIUS, side=SIDE, scale=1):
    y, x = torch.meshgrid(torch.arange(side * scale), torch.arange(side * scale), indexing="ij")
    inside = (y / scale - place[0]) ** 2 + (x / scale - place[1]) ** 2 <= radius**2
    return inside.double()


def latents(*masks, thing=2.0, ground=0.3):
    """Things of one colour on a flat ground, in four channels."""
    colours = torch.tensor([1.0, -0.5, 0.2, 0.7]).double()[:, None, None]
    return torch.stack([ground * colours.flip(0) + thing * colours * mask for mask in masks])


def tearing(frames=33):
    """A thing that moves down, and from the left to the right by being at both places for a while."""
    first, last = disc((12, FROM[1])), disc((24, TO[1]))
    alphas = schedule(frames)
    made = []
    for value in alphas.values:
        come = min(max((value - 0.4) / 0.15, 0.0), 1.0)
        gone = min(max((value - 0.5) / 0.15, 0.0), 1.0)
        old, new = (disc((12 + round(12 * value), column)) for column in (FROM[1], TO[1]))
        made.append(old * (1 - gone) + new * come)
    made[0], made[-1] = first, last
    return latents(*made), alphas
