"""Which layers of a UNet an edge predictor reads.

The paper (arXiv 2211.13752) reads input blocks 2, 4, 8, the three layers of the middle block and output blocks 2, 4, 8
of Stable Diffusion 1. Stable Diffusion 2 has the same blocks; SDXL and narrower UNets have fewer, and the same places.
"""

from __future__ import annotations

from collections.abc import Sequence

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor

from ...guidance.sketch.predictor import PredictorSpec
from ..family import diffusion_model, latent_format_name, model_class
from ..unet_features import sketch_layers
from ..validation import model_family, require_unet

FAMILIES = ("sd1", "sd2", "sdxl")
# (levels, residual blocks a level) -> input blocks, output blocks; the middle block, where there is one, is read whole.
LAYOUTS = {
    (4, 2): ((2, 4, 8), (2, 4, 8)),
    (3, 2): ((2, 4, 8), (2, 4, 5)),
    (3, 1): ((1, 3, 5), (1, 2, 3)),
}


def layout(network: UNetModel) -> tuple[str, ...]:
    """The places that a predictor for this UNet reads."""
    blocks = list(network.num_res_blocks)
    known = LAYOUTS.get((len(blocks), blocks[0])) if len(set(blocks)) == 1 else None
    if known is None:
        known = _last_of_each_level(blocks)
    inputs, outputs = known
    middle = [f"middle.{i}" for i in range(len(network.middle_block or ()))]
    return (*(f"input.{i}" for i in inputs), *middle, *(f"output.{i}" for i in outputs))


def _last_of_each_level(blocks: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The last residual block of each level: on the way down without the deepest, on the way up without the widest."""
    starts = [1 + sum(count + 1 for count in blocks[:level]) for level in range(len(blocks))]
    inputs = tuple(start + count - 1 for start, count in zip(starts, blocks))[: max(1, len(blocks) - 1)]
    ends = [sum(count + 1 for count in blocks[level:]) - 1 for level in range(len(blocks))]
    return inputs, tuple(sorted(ends))[: max(1, len(blocks) - 1)]


def require_edges(model, technique: str) -> UNetModel:
    """The UNet of a MODEL whose edges can be read. Raises ValueError for any other model."""
    require_unet(model, technique)
    family = model_family(model)
    if family not in FAMILIES:
        raise ValueError(
            f"{technique} knows the UNets of Stable Diffusion 1, 2 and SDXL, and this model ({model_class(model)}) "
            "is of another kind: load a model of one of those families."
        )
    return diffusion_model(model)


def require_predictor_of(model, spec: PredictorSpec, technique: str) -> UNetModel:
    """The UNet of a MODEL that the predictor was made for. Raises ValueError for any other model."""
    network = require_edges(model, technique)
    family, form = model_family(model), latent_format_name(model)
    missing = [name for name in spec.taps if name not in sketch_layers(network)]
    if (spec.family, spec.latent_format) != (family, form) or missing:
        raise ValueError(
            f"The edge predictor was trained for a model of the family {spec.family} ({spec.latent_format}), and this "
            f"one is {family} ({form}): load a predictor of this family, or train one with Edge Predictor Train."
        )
    return network


def require_channels(spec: PredictorSpec, features: Sequence[Tensor]) -> None:
    """Raises ValueError where the features do not have the widths that the predictor reads."""
    found = tuple(feature.shape[1] for feature in features)
    if found != tuple(spec.channels):
        raise ValueError(
            f"The edge predictor was trained for blocks of {_listed(spec.channels)} channels, and this model has "
            f"{_listed(found)}: load a predictor that was trained for this model."
        )


def _listed(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values)
