"""Flow Canvas: the motion drawn on the picture itself, inside the node."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui

from ..guidance.flow.canvas import canvas_flow, parse_canvas
from ..host.notify import notify
from ..host.validation import require_picture
from .flow import CATEGORY
from .sockets import Flow as FlowSocket

# web/flow_canvas.js draws it; without a browser it is a plain JSON string.
CanvasWidget = io.Custom("PALIMPSEST_FLOW_CANVAS")


class FlowCanvas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestFlowCanvas",
            display_name="Flow Canvas",
            category=CATEGORY,
            description="Draw on the picture what is to move: paint or pick a region, then drag, turn and scale it.",
            search_aliases=["motion brush", "drag object", "paint flow", "motion guidance"],
            has_intermediate_output=True,
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The picture to draw on; from Load Image it is shown at once, from "
                    "other nodes after the first run.",
                ),
                CanvasWidget.Input(
                    "canvas",
                    tooltip="The drawing. It is kept in the workflow as JSON and needs no browser to run.",
                    extra_dict={"default": "", "socketless": True},
                ),
            ],
            outputs=[
                FlowSocket.Output("flow", tooltip="The motion that was drawn."),
                io.Mask.Output("layers", tooltip="Who lies in front, for Flow Warp and Flow Guidance Sampler."),
                io.Mask.Output("regions", tooltip="The regions as a batch of masks, the nearest first."),
            ],
        )

    @classmethod
    def execute(cls, image, canvas="") -> io.NodeOutput:
        height, width = require_picture(image, "image", 1).shape[1:3]
        drawing = parse_canvas(canvas)
        if drawing is None:
            notify("Nothing is drawn, so nothing moves: choose a tool and mark a region.")
            flow, layers, regions = (torch.zeros(1, height, width, *tail) for tail in ((2,), (), ()))
        else:
            flow, layers, regions = canvas_flow(drawing, height, width)
        # The editor shows what it was given; its own key keeps the node from drawing a preview beneath it.
        shown = ui.PreviewImage(image[:1, ..., :3], cls=cls).as_dict()
        return io.NodeOutput(flow, layers, regions, ui={"palimpsest_picture": shown["images"]})


NODES = (FlowCanvas,)
