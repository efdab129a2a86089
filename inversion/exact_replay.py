"""Exact replay: on the way down the network is asked where the inversion asked it on the way up.

A step of the inversion from the level s to t asks the network at a point y, not at its result x*_t:

    x*_t = x*_s + (t - s) (y - D(y, q)) / q        q: the level of y; t, or s with the pairing "same level"

So a sampler's step from x*_t back to s arrives at x*_s exactly where it is given

    D'(x) = x - t / q (y' - D(y', q)),             y' = y + (x - x*_t)

which for q = t is D(x + delta, t) - delta with delta = y - x*_t. It takes no further evaluation, and the source's row
shows the network the very latents of the inversion, so that its features are the inversion's own. An edit's row has
another x and the same delta. DirectEdit and DNAEdit do this for one pairing each.

Both are exact for the steps of Euler (DDIM) at the trajectory's own levels, and with the inversion's own guidance.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from torch import Tensor

from .ddim import evaluation_point
from .trajectory import Trajectory


def evaluated_at(trajectory: Trajectory, index: int) -> tuple[Tensor, float]:
    """The latent (B, C, h, w) and the level at which the network gave the step up to sigmas[index]; index: from 1.

    Raises ValueError where a trajectory does not say how it was made.
    """
    levels, path = trajectory.sigmas.tolist(), trajectory.latents
    if trajectory.evaluated is not None:
        return trajectory.evaluated[index - 1], levels[index]
    if trajectory.pairing is None:
        raise ValueError(
            "This trajectory does not say how it was made (it is older than exact replay, or put together from "
            "several), so it cannot be replayed exactly: invert the picture again, or switch 'exact_replay' off."
        )
    before = itertools.pairwise(range(max(0, index - 3), index))
    derivatives = [((levels[a], levels[b]), (path[b] - path[a]) / (levels[b] - levels[a])) for a, b in before]
    s, t = levels[index - 1 : index + 1]
    return evaluation_point(trajectory.pairing, path[index - 1], s, t, derivatives, flow=trajectory.flow)


def replayed(denoise: Callable[[Tensor, float], Tensor], x: Tensor, trajectory: Trajectory, index: int) -> Tensor:
    """D' of the latents x (B, C, h, w) at sigmas[index]; a trajectory of one picture serves all rows.

    denoise: the network with its guidance, of latents (B, C, h, w) at a level.
    """
    point, level = evaluated_at(trajectory, index)
    # Written so that at the trajectory's own latent the point is asked to the last bit.
    asked = point.to(x) + (x - trajectory.latents[index].to(x))
    return x - float(trajectory.sigmas[index]) / level * (asked - denoise(asked, level))
