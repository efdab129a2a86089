"""The pack's own socket types; everything else is the host's. And inputs that may stay open, in a line."""

from __future__ import annotations

from comfy_api.latest import io

# inversion/trajectory.py: a picture's latents at every noise level of its inversion.
Trajectory = io.Custom("TRAJECTORY")
# (B, H, W, 2) float32 pixels on the source's grid, x right, y down, forward.
Flow = io.Custom("FLOW")
# A small network that reads edges out of the diffusion model's features.
EdgePredictor = io.Custom("EDGE_PREDICTOR")
# One float a frame: with K key frames from 0 to K - 1, so that 1.3 lies between the second and the third.
Alphas = io.Custom("ALPHAS")


def optional(kind, name: str, tip: str, **more):
    """An input of the io type `kind` that may stay open."""
    return kind.Input(name, tooltip=tip, optional=True, **more)


def advanced(kind, name: str, tip: str, **more):
    """One that the node shows on demand."""
    return optional(kind, name, tip, advanced=True, **more)
