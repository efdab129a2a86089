"""Named sets of values for nodes with more than eight numbers: one choice that sets them all."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from comfy_api.latest import io

from ..host.published import Sampling, beside_published

AS_SET, PUBLISHED, OURS = "as set", "as published", "our defaults"
Presets = Mapping[str, Mapping[str, Any]]

# DiffEdit, arXiv 2210.11427, section 3; diffusers' StableDiffusionDiffEditPipeline, whose level is 481 of 1000.
DIFFEDIT_MASK: Presets = {
    PUBLISHED: {
        "noises": 10, "strength": 0.5, "threshold": "fixed", "level": 0.5, "outliers": "clip at 3 x mean",
        "gap": 0, "fill_holes": False, "parts": 0, "grow": 0, "cfg": 7.5, "room": 0.0, "shape_changes": "no",
    },
    "as in diffusers": {
        "noises": 10, "strength": 0.48, "threshold": "1.5 x mean", "level": 0.5, "outliers": "none",
        "gap": 0, "fill_holes": False, "parts": 0, "grow": 0, "cfg": 7.5, "room": 0.0, "shape_changes": "no",
    },
    OURS: {
        "noises": 10, "strength": 0.5, "threshold": "adaptive", "level": 0.5, "outliers": "drop the extreme noises",
        "gap": 1, "fill_holes": True, "parts": 0, "grow": 0, "cfg": 7.5, "room": 0.0, "shape_changes": "detect",
    },
    "ours, on other models": {
        "noises": 10, "strength": 0.5, "threshold": "adaptive", "level": 0.5, "outliers": "drop the extreme noises",
        "gap": 1, "fill_holes": True, "parts": 0, "grow": 0, "cfg": 7.5, "room": 0.0, "shape_changes": "no",
    },
}  # fmt: skip

# Prompt-to-Prompt, arXiv 2208.01626, and its code with Null-text Inversion, arXiv 2211.09794. CFG and steps belong to
# the sampler.
PROMPT_TO_PROMPT_SAMPLING = Sampling(7.5, 50)
PROMPT_TO_PROMPT: Presets = {
    PUBLISHED: {
        "cross_steps": 0.8, "self_steps": 0.4, "blend_threshold": 0.3, "blend_start": 0.2,
        "self_layers": "at most 32 x 32 cells",
    },
    OURS: {
        "cross_steps": 0.8, "self_steps": 0.5, "blend_threshold": 0.4, "blend_start": 0.2,
        "self_layers": "from half the latent's size",
    },
}  # fmt: skip

# ProxEdit, arXiv 2306.05414, and the examples of its code, which pull below time 400 of 1000.
PROXIMAL_SAMPLING = Sampling(7.5, 50)
_PROXIMAL = {"quantile": 0.7, "pull": 1.0, "pull_from": 0.6, "grow": 1}
PROXIMAL: Presets = {
    PUBLISHED: {**_PROXIMAL, "form": "published l0"},
    "as published, l1": {**_PROXIMAL, "form": "published l1"},
    "as published, none": {**_PROXIMAL, "form": "published none"},
    OURS: {**_PROXIMAL, "form": "palimpsest"},
}

# Sketch-Guided Text-to-Image Diffusion, arXiv 2211.13752, section 4: beta 1.6, the first half of the steps, CFG 8. It
# names no number of steps.
SKETCH_SAMPLING = Sampling(8.0)
SKETCH_GUIDANCE: Presets = {
    PUBLISHED: {
        "strength": 1.6, "start_percent": 0.0, "end_percent": 0.5, "every": 1, "unfinished": 0.0, "soften": 0.0,
        "stroke_weights": False, "renew": 0.0, "adapt": 0.0, "hold": 0.0, "step_rule": "paper",
    },
    OURS: {
        "strength": 1.6, "start_percent": 0.0, "end_percent": 0.5, "every": 1, "unfinished": 0.0, "soften": 3.0,
        "stroke_weights": True, "renew": 0.0, "adapt": 0.5, "hold": 0.15, "step_rule": "palimpsest",
    },
    "half a drawing": {
        "strength": 0.8, "start_percent": 0.0, "end_percent": 0.35, "every": 1, "unfinished": 1.0, "soften": 3.0,
        "stroke_weights": True, "renew": 0.0, "adapt": 0.5, "hold": 0.15, "step_rule": "palimpsest",
    },
}  # fmt: skip

STILL = {
    "move_x": 0.0, "move_y": 0.0, "turn": 0.0, "scale": 1.0, "stretch": 1.0, "stretch_angle": 0.0, "tilt_x": 0.0,
    "tilt_y": 0.0,
}  # fmt: skip
# Motion Guidance, arXiv 2401.18085: the flow of its turned cat. What stays in place is left as it is set.
FLOW_TRANSFORM: Presets = {
    "turn by 30, as published": {**STILL, "turn": 30.0},
    "half the size": {**STILL, "scale": 0.5},
    "twice the size": {**STILL, "scale": 2.0},
    "nothing moves": STILL,
}


def preset_input(presets: Presets) -> io.Combo.Input:
    """The node's last input, optional, so that saved workflows keep their order and their numbers."""
    return io.Combo.Input(
        "preset",
        options=[AS_SET, *presets],
        default=AS_SET,
        optional=True,
        tooltip="as set: the values of this node count. Any other choice takes its own values instead, whatever the "
        "widgets show; they stand on the node's help page.",
    )


def with_presets(presets: Presets, published: Sampling | None = None) -> Callable:
    """Decorates `execute`: the values of the chosen preset take the place of those that are given.

    published: CFG and steps of the paper, where the node's first output is a MODEL. With a published preset its runs
    say where they sample otherwise.

    The decorated function takes `preset` besides and raises ValueError where there is none of that name.
    """

    def decorate(execute: Callable) -> Callable:
        signature = inspect.signature(execute)

        @functools.wraps(execute)
        def run(*args, preset: str = AS_SET, **values):
            if preset != AS_SET and preset not in presets:
                raise ValueError(f"There is no preset '{preset}': choose one of {', '.join([AS_SET, *presets])}.")
            bound = signature.bind(*args, **values)
            bound.arguments.update(presets.get(preset, {}))
            found = execute(*bound.args, **bound.kwargs)
            if published is None or not preset.startswith(PUBLISHED):
                return found
            technique = args[0].define_schema().display_name
            model, *others = found.args
            return io.NodeOutput(beside_published(model, technique, published), *others, ui=found.ui)

        return run

    return decorate
