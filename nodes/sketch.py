"""Edge Predictor Guidance: a MODEL that is drawn towards the strokes of a sketch."""

from __future__ import annotations

from typing import get_args

import torch
from comfy_api.latest import io

from ..guidance.sketch.guidance import Scale, SketchRecipe, StepRule
from ..guidance.sketch.prepare import Strokes, read_strokes
from ..host.notify import notify
from ..host.progress import check_interrupt
from ..host.sketch.layers import require_predictor_of
from ..host.sketch.patch import Sketch, sketch_guided
from ..host.validation import require_vae_of
from ._presets import SKETCH_GUIDANCE, SKETCH_SAMPLING, preset_input, with_presets
from .sockets import EdgePredictor as EdgePredictorSocket, advanced

CATEGORY = "Palimpsest/sketch"
PREDICTOR_TIP = "From Edge Predictor Train or Load Edge Predictor; it must have been trained for this model's family."
NO_PREDICTOR = (
    "No edge predictor is connected: Load Edge Predictor loads one, and the template 'Train an edge predictor' makes "
    "one for your model."
)
SKETCH_TIP = (
    "The drawing: light strokes on dark or dark on light, in any size of the picture's proportions. One, or one for "
    "each picture of the batch."
)


def strokes_of(sketch, grey: bool = True) -> Strokes:
    """The strokes of a connected sketch; what was found is shown on the node. Raises ValueError for a blank one."""
    strokes = read_strokes(sketch, check_interrupt)
    if strokes.blank:
        raise ValueError(
            "The sketch is blank, so there is nothing to guide by: draw on it; a drawing on a transparent "
            "layer goes through Sketch Prepare, with Load Image's MASK as its transparency."
        )
    for note in strokes.notes:
        notify(note)
    return strokes if grey else Strokes(strokes.lines, strokes.lines.float(), strokes.notes)


def shown(weight: torch.Tensor) -> torch.Tensor:
    """(B, H, W) in 0..1 -> IMAGE, white strokes on black."""
    return weight[..., None].expand(-1, -1, -1, 3).contiguous()


def encoder(vae):
    return None if vae is None else vae.encode


def _law_inputs() -> list[io.Input]:
    """When the sketch guides, and how it is compared."""
    return [
        advanced(
            io.Float,
            "start_percent",
            "Where in the run the guidance starts: 0 = at pure noise.",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
        ),
        advanced(
            io.Int,
            "every",
            "Guide each n-th step: 2 halves the cost, and weakens the guidance as much.",
            default=1,
            min=1,
            max=20,
        ),
        advanced(
            io.Float,
            "soften",
            "Blur of the sketch at the start of the guidance, in pixels of the latent "
            "(8 pixels of the picture). It sharpens towards the end, so that things find their place "
            "before they are drawn to the line. 0 = sharp from the start, as in the paper: things end up "
            "half outside their outline more often.",
            default=3.0,
            min=0.0,
            max=8.0,
            step=0.25,
        ),
        advanced(
            io.Boolean,
            "stroke_weights",
            "On: faint strokes (their grey level, or alpha) count less. Off: all strokes count alike.",
            default=True,
        ),
    ]


def _saving_inputs() -> list[io.Input]:
    """What serves for several steps, and how long they are."""
    return [
        advanced(
            io.Float,
            "renew",
            "0 = each guided step computes a new gradient, as in the paper. Above 0, after "
            "the first tenth of the run, a gradient is used again for this fraction of the run, at half "
            "strength and no cost: 0.045 computes it at every second of 30 steps, in half of the time and "
            "less exactly.",
            default=0.0,
            min=0.0,
            max=0.5,
            step=0.005,
            round=0.001,
        ),
        advanced(
            io.Float,
            "adapt",
            "How fast the step's length adapts: longer while the gradient keeps its direction, "
            "shorter where the picture swings to and fro across a line. 0 = the same fraction in all "
            "steps, as in the paper.",
            default=0.5,
            min=0.0,
            max=2.0,
            step=0.05,
        ),
        advanced(
            io.Float,
            "hold",
            "After the first tenth of the run, the negative prompt's part is used again for this "
            "fraction of the run, so that a guided step costs little more than a plain one. 0 = computed "
            "in each step, as in the paper.",
            default=0.15,
            min=0.0,
            max=0.5,
            step=0.005,
            round=0.001,
        ),
        advanced(
            io.Combo,
            "scale",
            "What a step makes of the prediction differs by sampler. sampler: it is measured, and the strength is a "
            "fraction of what the step changes, so that it means the same with all. euler: as in version 0.1.0, where "
            "the same strength went up to 6 times as far with samplers that add noise or remember steps.",
            options=list(get_args(Scale)),
            default=SketchRecipe.scale,
        ),
    ]


class EdgePredictorGuidance(io.ComfyNode):
    """Draw the edges, keep the model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestEdgePredictorGuidance",
            display_name="Edge Predictor Guidance",
            category=CATEGORY,
            description=(
                "Draws the picture's edges towards a sketch while any sampler works: at each guided step the edges "
                "that the model is about to paint are read from its own features, and the picture moves so that they "
                "come closer to the strokes. The model is not changed; no ControlNet is needed."
            ),
            search_aliases=[
                "sketch guided diffusion",
                "controlnet scribble",
                "scribble",
                "lgp",
                "latent edge predictor",
                "sketch to image",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with; the output is a copy."),
                EdgePredictorSocket.Input("edge_predictor", optional=True, tooltip=PREDICTOR_TIP),
                io.Image.Input("sketch", tooltip=SKETCH_TIP),
                io.Float.Input(
                    "strength",
                    default=1.6,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="How far each guided step goes towards the sketch, as a fraction of what the step changes "
                    "anyway (the paper's beta). 0 = not at all, 0.8 = loosely, 1.6 = the paper's, above 3 realism "
                    "suffers.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where in the run the guidance stops: 0.5 = after the first half, which settles the "
                    "composition; later keeps closer to the lines, earlier leaves the model more freedom.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White = the sketch guides here, black = it does not. With Trajectory Anchor and the same "
                    "mask: a local sketch edit of a photograph.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Only for predictors of encoded edges (target 'latent'): encodes the sketch.",
                ),
                io.Float.Input(
                    "unfinished",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="For sketches that show only part of what is wanted. 0 = where nothing is drawn there "
                    "should be no edges; 1 = blank paper does not count, only the strokes do: for half a drawing, "
                    "with a strength of 0.8 and end_percent 0.35. 0.5 where strokes have gaps.",
                ),
                *_law_inputs(),
                *_saving_inputs(),
                preset_input(SKETCH_GUIDANCE),
                advanced(
                    io.Combo,
                    "step_rule",
                    "palimpsest: renew, adapt and hold count. paper: at each step a new gradient, and strength times "
                    "what the step changes, as published; the three numbers have no say.",
                    options=list(get_args(StepRule)),
                    default="palimpsest",
                ),
            ],
            outputs=[
                io.Model.Output("model", tooltip="The guided model, for any stock sampler or guider."),
                io.Image.Output("strokes", tooltip="The sketch as it was read: thin strokes, bright where they count."),
            ],
        )

    @classmethod
    @with_presets(SKETCH_GUIDANCE, SKETCH_SAMPLING)
    def execute(
        cls,
        model,
        edge_predictor=None,
        sketch=None,
        strength=1.6,
        end_percent=0.5,
        mask=None,
        vae=None,
        unfinished=0.0,
        start_percent=0.0,
        every=1,
        soften=3.0,
        stroke_weights=True,
        renew=0.0,
        adapt=0.5,
        hold=0.15,
        scale=SketchRecipe.scale,
        step_rule="palimpsest",
    ) -> io.NodeOutput:
        if edge_predictor is None:
            raise ValueError(NO_PREDICTOR)
        require_predictor_of(model, edge_predictor.spec, "Edge Predictor Guidance")
        if edge_predictor.spec.target == "latent":
            require_vae(model, vae)
        if end_percent <= start_percent and strength:
            raise ValueError("end_percent lies before start_percent, so no step would be guided: raise end_percent.")
        strokes = strokes_of(sketch, stroke_weights)
        recipe = SketchRecipe(
            strength=strength,
            start=start_percent,
            end=end_percent,
            every=every,
            one_sided=unfinished,
            blur=soften,
            renew=renew,
            adapt=adapt,
            hold=hold,
            scale=scale,
        ).with_step_rule(step_rule)
        guided = sketch_guided(model, edge_predictor, Sketch(strokes, _region(mask), encoder(vae)), recipe)
        return io.NodeOutput(guided, shown(strokes.weight))


def require_vae(model, vae) -> None:
    if vae is None:
        raise ValueError("This edge predictor compares encoded edges: connect the model's VAE.")
    require_vae_of(model, vae)


def _region(mask: torch.Tensor | None) -> torch.Tensor | None:
    """MASK -> (M, H, W) in 0..1. Raises ValueError where it is empty."""
    if mask is None:
        return None
    if not bool(mask.flatten(1).any(1).all()):
        raise ValueError("The mask for the sketch is empty, so nothing would be guided: paint it, or leave it out.")
    return mask.clamp(0, 1)


NODES = (EdgePredictorGuidance,)
