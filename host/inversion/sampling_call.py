"""What the node that asks for NOISE is about to do, read from that node's own frame: the one place that does so.

The NOISE protocol hands over the latent alone. But the schedule decides at which latent of the trajectory sampling
starts, the sampler whether an inversion can be replayed at all, and the guider's model how noise and picture are mixed;
with any of them wrong, the sampler would silently make another picture. There is no other way to see them:

- no wrapper of ours runs when the sampler starts, since the guider holds the artist's MODEL and not one of ours;
- an input for SIGMAS, or a node that gives NOISE for given SIGMAS, would have to be wired. Workflows that are saved
  without the wire would then start at another latent, without a word, wherever their schedule starts lower.

So the arguments `sigmas`, `sampler` and `guider` are read, never written, under the names that the host gives them.
Its functions that ask are SamplerCustomAdvanced.execute and AddNoise.execute; the tests hold the host to both. A caller
that names them otherwise is unknown, and the inverted noise then says on the node what it assumes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import comfy.samplers
from torch import Tensor

# How far up a caller is looked for: wrappers of other packs may stand between.
FRAMES = 4
NAMES = ("sigmas", "sampler", "guider")


@dataclass(frozen=True)
class SamplingCall:
    """The arguments of the node that asks. sigmas alone: it only adds noise; nothing: it is unknown."""

    sigmas: Tensor | None = None
    sampler: Any = None
    guider: Any = None


def sampling_call() -> SamplingCall:
    """The call of the node that has called the function which calls this one."""
    asking = sys._getframe(2)
    frame, near = asking, FRAMES
    while frame is not None and near:
        sigmas, sampler, guider = (frame.f_locals.get(name) for name in NAMES)
        if _is_schedule(sigmas) and isinstance(sampler, comfy.samplers.Sampler):
            return SamplingCall(sigmas, sampler, guider if hasattr(guider, "model_patcher") else None)
        frame, near = frame.f_back, near - 1
    sigmas = asking.f_locals.get("sigmas")
    return SamplingCall(sigmas) if _is_schedule(sigmas) else SamplingCall()


def _is_schedule(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 1
