"""Pixel-True Finish: what an edit was not asked to change keeps the source's own pixels."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..guidance.finish.alignment import Box
from ..guidance.finish.finish import FinishRecipe, finish
from ..guidance.finish.report import report
from ..host.images import count_of_rows, fitted_mask
from ..host.notify import notify
from ..host.progress import Progress

PARTS = 5
"""Steps of the progress bar for a picture."""


class PixelTrueFinish(io.ComfyNode):
    """Give a picture that was edited the source's own pixels wherever it was not to change."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestPixelTrueFinish",
            display_name="Pixel-True Finish",
            category="Palimpsest/editing",
            description=(
                "Ends an edit: what has not changed gets the source's own pixels back, at the source's full size. If "
                "the editor has moved, enlarged, turned or recoloured the whole picture, that is found and undone "
                "first. Works on the results of any editor, without a model."
            ),
            search_aliases=[
                "composite",
                "paste back",
                "stitch",
                "align images",
                "registration",
                "color match",
                "zoom drift",
                "kontext",
                "qwen image edit",
                "restore background",
            ],
            inputs=[
                io.Image.Input("source", tooltip="The picture before the edit, at full size. Alpha is kept."),
                io.Image.Input(
                    "edited",
                    tooltip="What an editor made of it, of any size. One source serves many edits, and the reverse.",
                ),
                io.Combo.Input(
                    "registration",
                    options=["automatic", "on", "off"],
                    default="automatic",
                    tooltip="Whether the edited picture has moved, zoomed, turned or been stretched. automatic: moves "
                    "of more than 0.15 pixels are undone. on: any move is. off: both lie on each other as they are.",
                ),
                io.Combo.Input(
                    "colour",
                    options=["gain and offset", "smooth field", "off"],
                    default="gain and offset",
                    tooltip="Which colour cast of the whole picture is undone. gain and offset: the same everywhere. "
                    "smooth field: one that slowly changes over the picture, such as a vignette. off: none.",
                ),
                io.Int.Input(
                    "grow",
                    default=1,
                    min=-64,
                    max=256,
                    tooltip="Widens the edited region by so many pixels, or narrows it (below 0). Pictures above a "
                    "megapixel count as one.",
                ),
                io.Int.Input(
                    "feather",
                    default=1,
                    min=0,
                    max=256,
                    tooltip="Pixels over which the edit passes into the source, outside the region. Sane: 1 to 8; more "
                    "for a painted mask. Pictures above a megapixel count as one.",
                ),
                io.Boolean.Input(
                    "keep_grain",
                    default=False,
                    tooltip="Adds the source's own noise to the edited region where that is smoother: for photos that "
                    "are larger than the edit.",
                ),
                io.Float.Input(
                    "transfer_detail",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Where the edit has only changed the tone of a thing, the source's fine detail takes the "
                    "place of the edit's: 0 none, 1 all of it.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="What may change, on the source: 1 = edited. Left open, it is found. One for all, or one "
                    "each.",
                ),
                io.Image.Input(
                    "enlarged",
                    optional=True,
                    tooltip="The edited picture through an upscaler: its pixels are taken. Left open, the edit is "
                    "enlarged by Lanczos.",
                ),
                io.BoundingBox.Input(
                    "place",
                    optional=True,
                    force_input=True,
                    socketless=False,
                    tooltip="If 'edited' shows only a part of the source: which, from Crop to Mask.",
                ),
            ],
            outputs=[
                io.Image.Output("picture", tooltip="The source with the edit, at the source's size."),
                io.Mask.Output(
                    "mask", tooltip="How much of the edit is seen; where it is 0 the pixels are the source's."
                ),
                io.String.Output(
                    "report", tooltip="What the editor had done to the whole picture, and how much changed."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        source,
        edited,
        registration,
        colour,
        grow,
        feather,
        keep_grain,
        transfer_detail,
        mask=None,
        enlarged=None,
        place=None,
    ) -> io.NodeOutput:
        rows = count_of_rows({"source": source, "edited": edited, "mask": mask, "enlarged": enlarged})
        recipe = FinishRecipe(
            registration=registration, colour=colour, grow=grow, feather=feather, grain=keep_grain,
            detail=transfer_detail,
        )  # fmt: skip
        mask = None if mask is None else fitted_mask(mask, source)
        box = None if place is None else _box(place, source)
        pictures, masks, lines = [], [], []
        progress = Progress(PARTS * rows)
        for i in range(rows):
            done = _one(i, (source, edited, mask, enlarged), recipe, box, progress)
            pictures.append(done.picture.movedim(0, -1))
            masks.append(done.alpha)
            name = f"Picture {i + 1}: " if rows > 1 else ""
            lines += [name + line for line in (report(done), *done.warnings)]
            if done.warnings:
                notify(" ".join(name + line for line in done.warnings))
        return io.NodeOutput(torch.stack(pictures), torch.stack(masks), "\n".join(lines))


def _one(i, batches, recipe: FinishRecipe, box: Box | None, progress: Progress):
    """Picture i of the batches (source, edited, mask, enlarged), finished."""
    source, edited, mask, larger = (None if batch is None else batch[i % len(batch)] for batch in batches)
    steps = iter(range(PARTS * i, PARTS * (i + 1)))
    return finish(
        source.movedim(-1, 0),
        edited[..., :3].movedim(-1, 0),
        mask,
        recipe,
        larger=None if larger is None else larger[..., :3].movedim(-1, 0),
        place=box,
        step=lambda: progress.step(next(steps, PARTS * (i + 1) - 1)),
    )


def _box(place: dict, source: torch.Tensor) -> Box:
    """Raises ValueError where it is not within the source."""
    height, width = source.shape[1:3]
    box = Box(place["y"], place["y"] + place["height"], place["x"], place["x"] + place["width"])
    if box.bottom > height or box.right > width:
        raise ValueError(
            f"The input 'place' reaches to {box.right} x {box.bottom}, but the source is {width} x {height}: connect "
            "the picture that was cropped to 'source'."
        )
    return box


NODES = (PixelTrueFinish,)
