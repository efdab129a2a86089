"""The inputs of DiffEdit Mask, by what they are about."""

from __future__ import annotations

from typing import get_args

from comfy_api.latest import io

from ..guidance.diffedit.heat_map import ShapeChanges
from ..guidance.diffedit.masks import MaskRecipe, Outliers, Threshold


def prompt_inputs() -> list:
    """The picture and the two texts."""
    return [
        io.Model.Input(
            "model",
            tooltip="Any model whose latents are pictures (not Qwen-Image and video models); "
            "LoRAs, ControlNets and hooks are honoured.",
        ),
        io.Conditioning.Input(
            "reference",
            tooltip="What the picture shows now. An empty prompt works, but then everything that the query names is "
            "found, changed or not.",
        ),
        io.Conditioning.Input(
            "query",
            tooltip="What the picture is to show: the reference with the words changed. A batch finds a mask each.",
        ),
        io.Latent.Input("latent", tooltip="The picture, from VAE Encode; a batch gets a mask for each picture."),
    ]


def noise_inputs() -> list:
    """What the texts are compared on."""
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=False,
            tooltip="Chooses the noises. A picture has its own, whatever batch it comes in.",
        ),
        io.Int.Input(
            "noises",
            default=10,
            min=1,
            max=64,
            tooltip="How many noises are averaged: more give a steadier mask and take longer (two samples of the "
            "network each). 4 is quick, 10 is the paper's, above 20 little is gained.",
        ),
        io.Float.Input(
            "strength",
            default=0.5,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="How much noise the picture gets, as a fraction of the schedule. Low (0.3) finds fine detail, "
            "high (0.7) whole objects; 0.5 is the paper's. 0 and 1 leave nothing to compare.",
        ),
    ]


def threshold_inputs() -> list:
    """What counts as found."""
    return [
        io.Combo.Input(
            "threshold",
            options=list(get_args(Threshold)),
            default="adaptive",
            tooltip="adaptive: follows the size of the object (Otsu's). fixed: 'level', as in the paper. 1.5 x mean: "
            "as in diffusers' pipeline; it never marks more than two thirds of a picture.",
        ),
        io.Float.Input(
            "level",
            default=0.5,
            min=0.0,
            max=1.0,
            step=0.01,
            advanced=True,
            tooltip="The fixed threshold, in the heat map from 0 to 1. Lower marks more; 0.25 to 0.75 make sense.",
        ),
        io.Combo.Input(
            "outliers",
            options=list(get_args(Outliers)),
            default=MaskRecipe.outliers,
            advanced=True,
            tooltip="What is done about extreme values. drop the extreme noises: each place's largest and smallest "
            "value of all noises is left out. The clips cut the map off at three times its mean, or beyond the "
            "quartiles as a box plot does; they flatten the map and mark more.",
        ),
    ]


def part_inputs() -> list:
    """Which parts of what was found count."""
    return [
        io.Int.Input(
            "gap",
            default=MaskRecipe.gap,
            min=0,
            max=8,
            advanced=True,
            tooltip="Closes gaps of up to twice this many latent cells (8 pixels each). 0 closes none; 1 or 2 close "
            "the outline of an object that changes its shape.",
        ),
        io.Boolean.Input(
            "fill_holes",
            default=True,
            tooltip="Marks what is enclosed too, so that outlines become objects. With the "
            "adaptive threshold a faint outline, or one that the picture's border cuts off, encloses as well.",
        ),
        io.Int.Input(
            "parts",
            default=0,
            min=0,
            max=64,
            tooltip="Keeps only so many connected parts, the largest first. 0 keeps all; 1 drops every stray spot.",
        ),
        io.Boolean.Input(
            "complement",
            default=False,
            tooltip="Marks everything but what was found: name a change of the object to get the background.",
        ),
    ]


def edge_inputs() -> list:
    """How wide and how soft the mask is."""
    return [
        io.Int.Input(
            "grow",
            default=0,
            min=-256,
            max=256,
            tooltip="Pixels by which the mask is widened; below 0 it is narrowed. 4 to 12 for edits, 24 to 36 where a "
            "thing gets another shape and another colour at once.",
        ),
        io.Int.Input(
            "soft_edge",
            default=8,
            min=0,
            max=256,
            tooltip="Width in pixels of the ramp round the soft mask. The hard mask has none.",
        ),
    ]


def shape_input(what: str) -> io.Combo.Input:
    """what: the inputs that hang on it, in words."""
    return io.Combo.Input(
        "shape_changes",
        options=list(get_args(ShapeChanges)),
        default="detect",
        optional=True,
        advanced=True,
        tooltip=f"Whether a thing gets another shape, which decides on {what}. detect: by a limit found on Papercut, "
        "the pack's own model. On other models say yes or no.",
    )


def rare_inputs() -> list:
    """What most graphs leave open."""
    return [
        io.Conditioning.Input(
            "reference_negative",
            optional=True,
            tooltip="Only if each prompt has a negative of its own; it doubles the cost. Leave it open where both have "
            "the same negative: guidance would only scale the map.",
        ),
        io.Conditioning.Input(
            "query_negative", optional=True, tooltip="The query's own negative; see reference_negative."
        ),
        io.Float.Input(
            "cfg",
            default=7.5,
            min=0.0,
            max=30.0,
            step=0.1,
            optional=True,
            advanced=True,
            tooltip="The CFG with the two negatives; without them it changes nothing. 5 to 10.",
        ),
        io.Image.Input(
            "picture",
            optional=True,
            tooltip="The picture itself, only for its size: sides that are no multiple of 8 were cropped by VAE "
            "Encode, and the mask is then set back into the whole picture.",
        ),
        io.Float.Input(
            "room",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.05,
            optional=True,
            tooltip="For edits that change a shape: widens the mask by this fraction of its own side. Small masks "
            "count as if half the picture's side were theirs. 0.15 to 0.25 for edits, 0 for exact masks.",
        ),
    ]
