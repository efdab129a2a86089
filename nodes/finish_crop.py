"""Crop to Mask: the part of a photo that is to change, at the size that a model paints best."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..guidance.finish.crop import around, cut_out, fitting
from ..host.images import count_of_rows, fitted_mask

ENLARGED = 2
"""Times by which a crop is enlarged at most: what a model sees more blurred than that it paints blurred."""


class CropToMask(io.ComfyNode):
    """Cut the masked part out of a picture, with context, at a size of one's own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestCropToMask",
            display_name="Crop to Mask",
            category="Palimpsest/editing",
            description=(
                "Cuts out what the mask marks, with room around it, at the size that the model paints best. Edit the "
                "crop, and Pixel-True Finish puts it back into the picture at full size."
            ),
            search_aliases=["crop and stitch", "detailer", "crop by mask", "bounding box of mask"],
            inputs=[
                io.Image.Input("picture", tooltip="The whole picture, at full size."),
                io.Mask.Input("mask", tooltip="What is to change: 1 = change. Several masks share one crop."),
                io.Float.Input(
                    "context",
                    default=0.5,
                    min=0.0,
                    max=8.0,
                    step=0.05,
                    tooltip="Room on each side, as a multiple of the marked region's longer side. Sane: 0.25 to 1. A "
                    "crop that would be enlarged more than twice gets more.",
                ),
                io.Float.Input(
                    "megapixels",
                    default=1.0,
                    min=0.01,
                    max=16.0,
                    step=0.05,
                    tooltip="The size of the crop, whatever it was: 0.25 for Stable Diffusion 1, 1 for most others.",
                ),
                io.Int.Input(
                    "multiple", default=16, min=1, max=128, tooltip="Both sides are multiples of this; 16 suits all."
                ),
            ],
            outputs=[
                io.Image.Output("crop", tooltip="That part of the picture."),
                io.Mask.Output("crop_mask", tooltip="The mask of the crop."),
                io.BoundingBox.Output("place", tooltip="Where it was cut out, for Pixel-True Finish."),
            ],
        )

    @classmethod
    def execute(cls, picture, mask, context, megapixels, multiple) -> io.NodeOutput:
        count_of_rows({"picture": picture, "mask": mask})
        mask = fitted_mask(mask, picture)
        area = megapixels * 2**20
        box = around(mask, context, area**0.5 / ENLARGED)
        if box is None:
            raise ValueError("The input 'mask' marks nothing: paint what is to change in Load Image's Mask Editor.")
        size = fitting(box, area, multiple)
        crops = torch.stack([cut_out(one.movedim(-1, 0), box, size).movedim(0, -1) for one in picture])
        place = {"x": box.left, "y": box.top, "width": box.right - box.left, "height": box.bottom - box.top}
        return io.NodeOutput(crops.clamp(0, 1), cut_out(mask, box, size).clamp(0, 1), place)


NODES = (CropToMask,)
