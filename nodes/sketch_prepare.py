"""Sketch Prepare: a photograph or scan of a drawing -> clean strokes."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui

from ..guidance.sketch.prepare import FITS, find_strokes, fit as fitted, fit_lines
from ..host.notify import notify
from ..host.progress import check_interrupt
from ..host.validation import require_finite
from .sketch import CATEGORY, shown
from .sockets import advanced


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
                io.Image.Input(
                    "image", tooltip="A drawing: photographed, scanned, painted; ink on paper or light on dark."
                ),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=8192,
                    step=8,
                    tooltip="Width of the picture to come, in pixels; 0 keeps the drawing's own size.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=8192,
                    step=8,
                    tooltip="Height of the picture to come, in pixels; 0 keeps the drawing's own size.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default="pad",
                    tooltip="Where the proportions differ. pad: all of the drawing, with blank paper round "
                    "it; crop: fills the frame; stretch: pulled into shape.",
                ),
                io.Float.Input(
                    "sensitivity",
                    default=0.5,
                    min=0.0,
                    max=0.95,
                    step=0.01,
                    tooltip="How faint a line may be: 0.5 parts ink and paper where they differ most, "
                    "higher takes in pencil and smudges, lower keeps the dark lines only.",
                ),
                io.Int.Input(
                    "drop_specks",
                    default=12,
                    min=0,
                    max=500,
                    tooltip="Pieces with fewer pixels of line than this vanish: dust, paper grain, dots. 0 keeps all.",
                ),
                io.Boolean.Input(
                    "thin",
                    default=True,
                    tooltip="Lines one pixel wide, as the guidance wants them. Off "
                    "keeps the strokes' width, for a ControlNet or to view.",
                ),
                advanced(
                    io.Boolean,
                    "even_light",
                    "Takes the paper's brightness from round each line: for photographs "
                    "with shadows. Off: one paper colour, for scans, screens and "
                    "large filled shapes.",
                    default=True,
                ),
                advanced(
                    io.Boolean,
                    "grey_levels",
                    "Keep how strong each stroke is: the guidance gives faint strokes "
                    "less weight. Off makes all strokes white.",
                    default=True,
                ),
                io.Mask.Input(
                    "transparency",
                    optional=True,
                    tooltip="The MASK of Load Image, for a drawing on a "
                    "transparent layer: what is painted is ink, as strongly as it covers.",
                ),
                advanced(
                    io.Boolean,
                    "blank",
                    "On: a blank drawing gives no strokes. Off: it is an error.",
                    default=False,
                ),
            ],
            outputs=[
                io.Image.Output("sketch", tooltip="White strokes on black, for Edge Predictor Guidance."),
                io.Mask.Output("strokes", tooltip="The same as a mask."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image,
        width=0,
        height=0,
        fit="pad",
        sensitivity=0.5,
        drop_specks=12,
        thin=True,
        even_light=True,
        grey_levels=True,
        transparency=None,
        blank=False,
    ) -> io.NodeOutput:
        picture = with_alpha(image, transparency)
        found = find_strokes(
            picture,
            even=even_light,
            sensitivity=sensitivity,
            smallest=drop_specks,
            thinned=thin,
            grey=grey_levels,
            check=check_interrupt,
        )
        size = (height or picture.shape[1], width or picture.shape[2])
        if found.blank and blank:
            nothing = torch.zeros(len(picture), *size)
            return io.NodeOutput(shown(nothing), nothing, ui=ui.PreviewImage(shown(nothing), cls=cls))
        if found.blank:
            raise ValueError(
                "No strokes are left of the drawing: raise sensitivity, lower drop_specks, switch even_light off if it "
                "is made of filled shapes, or connect Load Image's MASK as transparency if it is a transparent layer."
            )
        for note in found.notes:
            notify(note)
        if thin:
            strokes = fit_lines(found.lines, found.weight, *size, fit, check_interrupt)[1]
        else:
            strokes = fitted(found.weight, *size, fit)
        return io.NodeOutput(shown(strokes), strokes, ui=ui.PreviewImage(shown(strokes), cls=cls))


NODES = (SketchPrepare,)
