"""The rising noise levels of an inversion, made from the falling SIGMAS of a sampler."""

from __future__ import annotations

import torch
from torch import Tensor

# Above this a variance-exploding level holds less than a thousandth of the picture (zero terminal SNR): fp32 can
# carry the latent up, but not the picture back down.
SIGMA_NO_SIGNAL = 1000.0
# Schedules quote the model's ends with a few digits (14.6146 for 14.61464); the host rounds such levels as well.
TOLERANCE = 1e-3


def rising_sigmas(sigmas: Tensor, *, sigma_min: float, sigma_max: float, flow: bool = False) -> Tensor:
    """SIGMAS as a sampler takes them -> the same levels from clean to noisy.

    sigmas: (N+1,) falling, as every stock scheduler gives them; a part of a schedule is welcome as long as it ends
        at the clean picture (0, or a level no higher than sigma_min).
    sigma_min, sigma_max: the model's own range; flow: the model's levels run from 0 to 1.
    Returns (N+1,) float32 on the CPU, strictly rising. Raises ValueError for anything else.
    """
    if not isinstance(sigmas, Tensor) or sigmas.ndim != 1:
        raise ValueError("SIGMAS must be one list of noise levels: connect a scheduler node.")
    levels = sigmas.detach().to(device="cpu", dtype=torch.float32)
    if len(levels) < 2:
        raise ValueError(
            f"SIGMAS hold {len(levels)} noise level(s), and an inversion needs two or more: raise the steps "
            "(or the denoise) of the scheduler."
        )
    if torch.isnan(levels).any():
        raise ValueError("SIGMAS hold a value that is not a number: raise the steps, or choose another scheduler.")
    _require_order(levels)
    _require_ends(levels.flip(0), sigma_min, sigma_max, flow)
    return levels.flip(0).contiguous()


def _require_order(falling: Tensor) -> None:
    if (falling < 0).any():
        raise ValueError("SIGMAS go below zero, where there is no noise level: choose another scheduler.")
    steps = falling[1:] - falling[:-1]
    if (steps > 0).all():
        raise ValueError(
            "SIGMAS rise from clean to noisy: take out the Flip Sigmas node, DDIM Invert turns the schedule itself."
        )
    if (steps > 0).any():
        raise ValueError("SIGMAS go up and down: connect a scheduler whose noise levels fall at every step.")
    if (steps == 0).any():
        raise ValueError("SIGMAS repeat a noise level: lower the steps of the scheduler, or choose another one.")


def _require_ends(rising: Tensor, sigma_min: float, sigma_max: float, flow: bool) -> None:
    low, high = float(rising[0]), float(rising[-1])
    if not flow and high > SIGMA_NO_SIGNAL:
        raise ValueError(
            f"SIGMAS start at {high:.5g}, where nothing of the picture is left to invert (zero terminal SNR): put "
            "Split Sigmas with step 1 behind the scheduler and use its low part, here and when sampling."
        )
    if high > sigma_max * (1 + TOLERANCE):
        raise ValueError(
            f"SIGMAS start at {high:.5g}, but this model knows noise levels up to {sigma_max:.5g} only: connect a "
            "scheduler that is made for this model, such as Basic Scheduler."
        )
    if low > sigma_min * (1 + TOLERANCE):
        raise ValueError(
            f"SIGMAS end at {low:.5g} and never reach the clean picture: connect the whole schedule, or the low "
            "part of Split Sigmas."
        )
