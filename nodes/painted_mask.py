"""Painted Mask: the mask that somebody has painted, or else one that was found, or else the whole picture."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..guidance.morphology import covered
from .prompt_to_prompt import CATEGORY
from .sockets import optional

NOTHING_FOUND = "nothing was found, so nothing changes"
# A connected input that nobody has evaluated yet arrives as None, one that is not connected does not arrive.
MISSING = object()


class PaintedMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestPaintedMask",
            display_name="Painted Mask",
            category=CATEGORY,
            description="The mask that was painted by hand; where nothing is painted, one that was found; where there "
            "is none, the whole picture.",
            search_aliases=["mask or", "optional mask", "default mask", "empty mask"],
            inputs=[
                optional(io.Mask, "painted", "Painted by hand, such as Load Image's MASK. One without a single white "
                         "pixel counts as none."),
                optional(io.Mask, "found", "Taken where nothing is painted; what finds it does not run otherwise.",
                         lazy=True),
                optional(io.Image, "picture", "The whole of it is the mask where there is no other; it is handed on."),
                optional(io.String, "words", "What was looked for, for the note.", default="", dynamic_prompts=False),
            ],
            outputs=[
                io.Mask.Output("mask", tooltip="White (1) = edit, black (0) = keep."),
                io.String.Output("note", tooltip="Which mask it is, and how much of the picture it covers."),
                io.Boolean.Output("painted", tooltip="Whether it was painted by hand."),
                io.Float.Output("covered", tooltip="How much of the picture it covers, 0 to 1."),
                io.Image.Output("picture", tooltip="The picture as it came in; a grey pixel where none is connected."),
                io.Boolean.Output("given", tooltip="Whether a picture is connected."),
            ],
        )  # fmt: skip

    @classmethod
    def check_lazy_status(cls, painted=None, found=MISSING, picture=None, words="") -> list[str]:
        return ["found"] if found is None and not is_painted(painted) else []

    @classmethod
    def execute(cls, painted=None, found=None, picture=None, words="") -> io.NodeOutput:
        mask, note = chosen(painted, found, picture, words)
        handed = torch.full((1, 1, 1, 3), 0.5) if picture is None else picture
        return io.NodeOutput(mask, note, is_painted(painted), float(mask.float().mean()), handed, picture is not None)


def chosen(painted, found, picture, words: str) -> tuple[torch.Tensor, str]:
    """The mask, and which it is."""
    if is_painted(painted):
        return painted, f"Mask painted by hand: {covered(painted)}."
    if found is None:
        size = (64, 64) if picture is None else tuple(picture.shape[1:3])
        return torch.ones(1, *size), "No mask: the whole picture may change."
    thing = f", {words.strip()}" if words.strip() else ""
    return found, f"Mask found: {covered(found) + thing if is_painted(found) else NOTHING_FOUND}."


def is_painted(mask) -> bool:
    return mask is not None and bool(mask.any())


NODES = (PaintedMask,)
