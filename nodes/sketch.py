"""Sketch Prepare and Edge Predictor Guidance: clean strokes, and a MODEL that is drawn towards them."""

from __future__ import annotations

from typing import get_args

import torch
from comfy_api.latest import io, ui

from ..guidance.sketch.guidance import Scale, SketchRecipe
from ..guidance.sketch.prepare import FITS, Strokes, find_strokes, fit as fitted, fit_lines, read_strokes
from ..host.notify import notify
from ..host.progress import check_interrupt
from ..host.sketch.layers import require_predictor_of
from ..host.sketch.patch import Sketch, sketch_guided
from ..host.validation import require_finite, require_vae_of
from ._presets import SKETCH_GUIDANCE, preset_input, with_presets
from .sockets import EdgePredictor as EdgePredictorSocket, advanced

CATEGORY = "Palimpsest/sketch"
PREDICTOR_TIP = "From Edge Predictor Train or Load Edge Predictor; it must have been trained for this model's family."
SKETCH_TIP = (
    "The drawing: light strokes on dark or dark on light, in any size of the picture's proportions. One, or one for "
    "each picture of the batch."
)


def require_image(image, name: str) -> torch.Tensor:
    """IMAGE (B, H, W, C), finite, or a sentence."""
    if not isinstance(image, torch.Tensor) or image.ndim != 4 or 0 in image.shape:
        raise ValueError(f"{name} is not a picture: connect an IMAGE, such as the output of Load Image or Painter.")
    return require_finite(image, name, "load it again")


def strokes_of(sketch, grey: bool = True) -> Strokes:
    """The strokes of a connected sketch, what was found said on the node; a blank one is a sentence."""
    strokes = read_strokes(require_image(sketch, "The sketch"), check_interrupt)
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


def _advanced_inputs() -> list[io.Input]:
    """What is right as it is for most pictures."""
    return [
        advanced(io.Float, "start_percent", "Where in the run the guidance starts: 0 = at pure noise.",
                 default=0.0, min=0.0, max=1.0, step=0.01),
        advanced(io.Int, "every", "Guide each n-th step: 2 halves the cost, and weakens the guidance as much.",
                 default=1, min=1, max=20),
        advanced(io.Float, "soften", "Blur of the sketch at the start of the guidance, in pixels of the latent "
                 "(8 pixels of the picture); it sharpens towards the end, so that things find their place "
                 "before they are held to the line. 0 = sharp from the start, as in the paper: things end up "
                 "half outside their outline more often.", default=3.0, min=0.0, max=8.0, step=0.25),
        advanced(io.Boolean, "stroke_weights", "On: faint strokes (their grey level, or alpha) count less. "
                 "Off: all strokes count alike.", default=True),
        advanced(io.Float, "renew", "0 = each guided step looks at the edges, as in the paper. Above, after "
                 "the first tenth, one look serves for this share of the run and the steps within it follow "
                 "it by half, at no cost: 0.045 looks at every second of 30 steps, in half of the time and "
                 "less exactly.",
                 default=0.0, min=0.0, max=0.5, step=0.005, round=0.001),
        advanced(io.Float, "adapt", "How fast the step's length follows what is seen: longer where the way to "
                 "the sketch stays the same, shorter where the picture swings to and fro across a line. 0 = "
                 "the same share in all steps, as in the paper.", default=0.5, min=0.0, max=2.0, step=0.05),
        advanced(io.Float, "hold", "After the first tenth, what the negative prompt changes serves for this "
                 "share of the run, so that a guided step costs little more than a plain one. 0 = computed "
                 "in each step, as in the paper.",
                 default=0.15, min=0.0, max=0.5, step=0.005, round=0.001),
        advanced(io.Combo, "scale", "With samplers that add noise at their steps (ancestral, SDE, LCM). sampler: the "
                 "strength is a share of what the sampler's own step changes, so that it means the same with all. "
                 "euler: as in version 0.1.0, where the same strength went up to 6 times as far with those.",
                 options=list(get_args(Scale)), default=SketchRecipe.scale),
    ]  # fmt: skip


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
            search_aliases=["sketch guided diffusion", "scribble", "lgp", "latent edge predictor", "sketch to image"],
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with; the output is a copy."),
                EdgePredictorSocket.Input("edge_predictor", tooltip=PREDICTOR_TIP),
                io.Image.Input("sketch", tooltip=SKETCH_TIP),
                io.Float.Input(
                    "strength", default=1.6, min=0.0, max=10.0, step=0.05,
                    tooltip="How far each guided step goes towards the sketch, as a share of what the step changes "
                    "anyway (the paper's beta). 0 = not at all, 0.8 = loosely, 1.6 = the paper's, above 3 realism "
                    "suffers.",
                ),
                io.Float.Input(
                    "end_percent", default=0.5, min=0.0, max=1.0, step=0.01,
                    tooltip="Where in the run the guidance stops: 0.5 = after the first half, which settles the "
                    "composition; later keeps closer to the lines, earlier leaves the model more freedom.",
                ),
                io.Mask.Input(
                    "mask", optional=True,
                    tooltip="White = the sketch speaks here, black = it does not. With Trajectory Anchor and the same "
                    "mask: a local sketch edit of a photograph.",
                ),
                io.Vae.Input(
                    "vae", optional=True,
                    tooltip="Only for predictors of encoded edges (target 'latent'): encodes the sketch.",
                ),
                io.Float.Input(
                    "unfinished", default=0.0, min=0.0, max=1.0, step=0.05, optional=True,
                    tooltip="For sketches that show only part of what is wanted. 0 = where nothing is drawn there "
                    "should be no edges; 1 = blank paper says nothing, only the strokes count: for half a drawing, "
                    "with a strength of 0.8 and end_percent 0.35. 0.5 where strokes have gaps.",
                ),
                *_advanced_inputs(),
                preset_input(SKETCH_GUIDANCE),
            ],
            outputs=[
                io.Model.Output("model", tooltip="The guided model, for any stock sampler or guider."),
                io.Image.Output("strokes", tooltip="The sketch as it was read: thin strokes, bright where they count."),
            ],
        )  # fmt: skip

    @classmethod
    @with_presets(SKETCH_GUIDANCE)
    def execute(cls, model, edge_predictor, sketch, strength=1.6, end_percent=0.5, mask=None, vae=None, unfinished=0.0,
                start_percent=0.0, every=1, soften=3.0, stroke_weights=True, renew=0.0, adapt=0.5,
                hold=0.15, scale=SketchRecipe.scale) -> io.NodeOutput:  # fmt: skip
        require_predictor_of(model, edge_predictor.spec, "Edge Predictor Guidance")
        if edge_predictor.spec.target == "latent":
            require_vae(model, vae)
        if end_percent <= start_percent and strength:
            raise ValueError("end_percent lies before start_percent, so no step would be guided: raise end_percent.")
        strokes = strokes_of(sketch, stroke_weights)
        recipe = SketchRecipe(
            strength=strength, start=start_percent, end=end_percent, every=every, one_sided=unfinished, blur=soften,
            renew=renew, adapt=adapt, hold=hold, scale=scale,
        )  # fmt: skip
        guided = sketch_guided(model, edge_predictor, Sketch(strokes, _region(mask), encoder(vae)), recipe)
        return io.NodeOutput(guided, shown(strokes.weight))


def require_vae(model, vae) -> None:
    if vae is None:
        raise ValueError("This edge predictor compares encoded edges: connect the model's VAE.")
    require_vae_of(model, vae)


def _region(mask: torch.Tensor | None) -> torch.Tensor | None:
    """MASK -> (M, H, W) in 0..1, or a sentence where it is empty."""
    if mask is None:
        return None
    mask = require_finite(mask if mask.ndim == 3 else mask.reshape(-1, *mask.shape[-2:]), "The mask", "paint it again")
    if not bool(mask.flatten(1).any(1).all()):
        raise ValueError("The mask for the sketch is empty, so nothing would be guided: paint it, or leave it out.")
    return mask.clamp(0, 1)


def with_alpha(picture: torch.Tensor, transparency: torch.Tensor | None) -> torch.Tensor:
    """IMAGE (B, H, W, C) and the MASK of what is transparent -> (B, H, W, 4), or the picture where nothing is."""
    if transparency is None or not bool(transparency.any()):
        return picture
    mask = require_finite(transparency, "The transparency", "load the drawing again")
    mask = mask.reshape(-1, *mask.shape[-2:])
    if mask.shape[0] not in (1, picture.shape[0]) or mask.shape[1:] != picture.shape[1:3]:
        raise ValueError("The transparency is not of this drawing: connect the MASK of the same Load Image node.")
    alpha = (1 - mask.to(picture).clamp(0, 1))[..., None].expand(*picture.shape[:3], 1)
    return torch.cat([picture[..., :3].expand(-1, -1, -1, 3), alpha], -1)


class SketchPrepare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestSketchPrepare",
            display_name="Sketch Prepare",
            category=CATEGORY,
            description=(
                "Turns a photograph or scan of a drawing into clean strokes, white on black, in the size of the "
                "picture to come. Finds out by itself whether the ink is darker or lighter than the paper, and of what "
                "colour."
            ),
            search_aliases=["scan cleanup", "line art", "scribble", "binarize", "skeleton", "thinning"],
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("image", tooltip="A drawing: photographed, scanned, painted; ink on paper or light on "
                                                "dark."),
                io.Int.Input("width", default=0, min=0, max=8192, step=8,
                             tooltip="Width of the picture to come, in pixels; 0 keeps the drawing's own size."),
                io.Int.Input("height", default=0, min=0, max=8192, step=8,
                             tooltip="Height of the picture to come, in pixels; 0 keeps the drawing's own size."),
                io.Combo.Input("fit", options=list(FITS), default="pad",
                               tooltip="Where the proportions differ. pad: all of the drawing, with blank paper round "
                               "it; crop: fills the frame; stretch: pulled into shape."),
                io.Float.Input("sensitivity", default=0.5, min=0.0, max=0.95, step=0.01,
                               tooltip="How faint a line may be: 0.5 parts ink and paper where they differ most, "
                               "higher takes in pencil and smudges, lower keeps the dark lines only."),
                io.Int.Input("drop_specks", default=12, min=0, max=500,
                             tooltip="Pieces with fewer pixels of line than this vanish: dust, paper grain, dots. 0 "
                                     "keeps all."),
                io.Boolean.Input("thin", default=True, tooltip="Lines one pixel wide, as the guidance wants them. Off "
                                 "keeps the strokes' width, for a ControlNet or to look at."),
                advanced(io.Boolean, "even_light", "Takes the paper's brightness from round each line: for photographs "
                          "with shadows. Off: one paper colour, for scans, screens and "
                          "large filled shapes.", default=True),
                advanced(io.Boolean, "grey_levels", "Keep how strong each stroke is: the guidance gives faint strokes "
                          "less weight. Off makes all strokes white.", default=True),
                io.Mask.Input("transparency", optional=True, tooltip="The MASK of Load Image, for a drawing on a "
                              "transparent layer: what is painted is ink, as strongly as it covers."),
            ],
            outputs=[
                io.Image.Output("sketch", tooltip="White strokes on black, for Edge Predictor Guidance."),
                io.Mask.Output("strokes", tooltip="The same as a mask."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, image, width=0, height=0, fit="pad", sensitivity=0.5, drop_specks=12, thin=True, even_light=True,
                grey_levels=True, transparency=None) -> io.NodeOutput:  # fmt: skip
        picture = with_alpha(require_image(image, "The drawing"), transparency)
        found = find_strokes(picture, even=even_light, sensitivity=sensitivity, smallest=drop_specks, thinned=thin,
                             grey=grey_levels, check=check_interrupt)  # fmt: skip
        if found.blank:
            raise ValueError(
                "No strokes are left of the drawing: raise sensitivity, lower drop_specks, switch even_light off if it "
                "is made of filled shapes, or connect Load Image's MASK as transparency if it is a transparent layer."
            )
        for note in found.notes:
            notify(note)
        size = (height or picture.shape[1], width or picture.shape[2])
        if thin:
            strokes = fit_lines(found.lines, found.weight, *size, fit, check_interrupt)[1]
        else:
            strokes = fitted(found.weight, *size, fit)
        return io.NodeOutput(shown(strokes), strokes, ui=ui.PreviewImage(shown(strokes), cls=cls))


NODES = (SketchPrepare, EdgePredictorGuidance)
