"""A check's numbers in words: is this inversion good enough to edit, and what would make it better?"""

from __future__ import annotations

from dataclasses import dataclass

from .gaussianity import IDEAL_LOG_LIKELIHOOD
from .quality import PSNR_EQUAL

# Decibels between the replay and the picture as the VAE shows it. At 30 the eye finds no difference without a flicker
# test; at 24 the shapes stand and textures wander.
FAITHFUL, CLOSE = 30.0, 24.0
WHITE, NEARLY_WHITE = 0.05, 0.15


@dataclass(frozen=True)
class Check:
    """What Inversion Check measured on one picture.

    psnr, ssim: the reconstruction against the source picture; bound: the VAE's own round trip against the source, in
    decibels; both against the VAE's picture, and bound None, where no source is connected. drift: the reconstruction
    against the VAE's picture. The rest describes the inverted noise, see gaussianity.py.
    """

    psnr: float
    ssim: float
    bound: float | None
    drift: float
    mean: float
    std: float
    correlation: float
    log_likelihood: float

    @property
    def replay(self) -> str:
        return "faithful" if self.drift >= FAITHFUL else "close" if self.drift >= CLOSE else "lost"

    @property
    def whiteness(self) -> str:
        worst = max(abs(self.mean), abs(self.std - 1), abs(self.correlation))
        return "white" if worst <= WHITE else "nearly white" if worst <= NEARLY_WHITE else "structured"


def decibels(value: float) -> str:
    return "equal" if value >= PSNR_EQUAL else f"{value:.1f} dB"


def lines(check: Check, *, made_at: float, sampled_at: float) -> list[str]:
    """Three or four short lines. made_at, sampled_at: the CFG of the inversion and of the check."""
    bound = "" if check.bound is None else f" (the VAE alone {decibels(check.bound)})"
    return [
        f"Reconstruction: PSNR {decibels(check.psnr)}{bound}, SSIM {check.ssim:.3f}, at CFG {sampled_at:g}",
        f"Noise (white: 0, 1, 0, {IDEAL_LOG_LIKELIHOOD:.2f}): mean {check.mean:.3f}, std {check.std:.3f}, "
        f"neighbour correlation {check.correlation:.3f}, log-likelihood {check.log_likelihood:.3f}",
        _replay_text(check, made_at, sampled_at),
        _noise_text(check),
    ]


def _replay_text(check: Check, made_at: float, sampled_at: float) -> str:
    if check.replay == "faithful":
        return "The picture comes back: good to edit."
    start = "The picture comes back nearly" if check.replay == "close" else "The picture does not come back"
    if abs(made_at - sampled_at) > 1e-3:
        return (
            f"{start}: it was inverted at CFG {made_at:g} and sampled at {sampled_at:g}; NullText Optimize, "
            "Negative-Prompt Inversion or Trajectory Anchor close the gap."
        )
    return f"{start}: raise the refinement or the steps, use the same prompt both times, or invert at CFG 1."


def _noise_text(check: Check) -> str:
    return {
        "white": "The noise is white: edits are free to change the picture.",
        "nearly white": "The noise is nearly white: edits keep a little of the picture's layout.",
        "structured": "The noise still carries the picture (a low starting level always does): edits stay close to it.",
    }[check.whiteness]
