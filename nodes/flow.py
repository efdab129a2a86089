"""FLOW builders and what can be done with one: Motion Guidance's target, drawn, computed or estimated."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..guidance.flow.fields import (
    Transform,
    expand_batch,
    moving,
    region_of,
    resize_layers,
    transform_flow,
)
from ..guidance.flow.points import KINDS, drag_pairs, parse_points, points_flow, require_drags, track_pairs
from ..guidance.flow.warp import land
from ..host.images import as_pictures
from ..host.motion.optical_flow import LARGEST, estimate_each, require_optical_flow
from ..host.notify import notify
from ..host.validation import require_picture, require_same_size
from ._flow_inputs import require_mask
from ._presets import FLOW_TRANSFORM, preset_input, with_presets
from .sockets import Flow as FlowSocket

CATEGORY = "Palimpsest/motion"
PIVOTS = {"centre of the region": "centre", "centre of its box": "box", "a given point": None}
FLOW_TIP = "Where every pixel goes, from a Flow node."
LAYERS_TIP = (
    "Who lies in front where things meet (lighter is nearer), from Flow Compose or Flow Canvas. Left open, "
    "what moves lies in front of what stays."
)


class FlowFromTransform(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        number = lambda name, default, low, high, step, tip, **more: io.Float.Input(
            name, default=default, min=low, max=high, step=step, round=0.001, tooltip=tip, **more
        )
        return io.Schema(
            node_id="PalimpsestFlowFromTransform",
            display_name="Flow From Transform",
            category=CATEGORY,
            description="Moves, turns, scales or stretches what a mask covers.",
            search_aliases=["motion guidance", "drag", "move object", "rotate object", "optical flow"],
            inputs=[
                io.Mask.Input("mask", tooltip="The thing to be moved, at the picture's size. Everything else stays."),
                number("move_x", 0.0, -4096, 4096, 1, "Pixels to the right (negative: to the left)."),
                number("move_y", 0.0, -4096, 4096, 1, "Pixels down (negative: up)."),
                number("turn", 0.0, -360, 360, 1, "Degrees clockwise about the pivot. Sane: up to 45."),
                number("scale", 1.0, 0.05, 8, 0.05, "Size factor about the pivot. Sane: 0.5 to 2."),
                number("stretch", 1.0, 0.05, 8, 0.05, "Factor along one line only, below 1 squeezes. Sane: 0.5 to 2."),
                number(
                    "stretch_angle",
                    0.0,
                    -180,
                    180,
                    1,
                    "The line of the stretch: 0 is across, 90 is up and down, degrees clockwise.",
                ),
                number(
                    "tilt_x",
                    0.0,
                    -0.9,
                    0.9,
                    0.05,
                    "Perspective: how much farther away the right end gets.",
                    optional=True,
                    advanced=True,
                ),
                number(
                    "tilt_y",
                    0.0,
                    -0.9,
                    0.9,
                    0.05,
                    "Perspective: how much farther away the lower end gets.",
                    optional=True,
                    advanced=True,
                ),
                io.Combo.Input(
                    "pivot",
                    options=list(PIVOTS),
                    optional=True,
                    advanced=True,
                    tooltip="What stays in place under turn, scale and stretch.",
                ),
                number(
                    "pivot_x",
                    0.5,
                    -1,
                    2,
                    0.01,
                    "The given point, as a fraction of the width.",
                    optional=True,
                    advanced=True,
                ),
                number(
                    "pivot_y",
                    0.5,
                    -1,
                    2,
                    0.01,
                    "The given point, as a fraction of the height.",
                    optional=True,
                    advanced=True,
                ),
                preset_input(FLOW_TRANSFORM),
            ],
            outputs=[FlowSocket.Output("flow", tooltip=FLOW_TIP)],
        )

    @classmethod
    @with_presets(FLOW_TRANSFORM)
    def execute(
        cls,
        mask,
        move_x,
        move_y,
        turn,
        scale,
        stretch,
        stretch_angle,
        tilt_x=0.0,
        tilt_y=0.0,
        pivot="centre of the region",
        pivot_x=0.5,
        pivot_y=0.5,
    ) -> io.NodeOutput:
        mask = require_mask(mask)
        change = Transform((move_x, move_y), turn, scale, stretch, stretch_angle, (tilt_x, tilt_y))
        height, width = mask.shape[1:]
        point = torch.tensor([pivot_x * (width - 1), pivot_y * (height - 1)], dtype=torch.float64)
        flow = transform_flow(mask, change, PIVOTS[pivot] or point)
        if bool(land(flow).occluded[moving(flow)].all()) and bool(moving(flow).any()):
            notify("Everything that moves leaves the picture or is hidden: make the motion smaller.")
        return io.NodeOutput(flow)


class FlowFromPoints(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestFlowFromPoints",
            display_name="Flow From Points",
            category=CATEGORY,
            description="Drags points of a region to their goals; the rest of the region follows.",
            search_aliases=["drag points", "spline", "tracks", "thin plate", "warp"],
            inputs=[
                io.Mask.Input("mask", tooltip="What follows the points, at the picture's size. Everything else stays."),
                io.String.Input(
                    "points",
                    default="[]",
                    multiline=True,
                    tooltip='JSON of a spline or point editor: [{"x":..,"y":..}, ...] or a list of such lists, in '
                    "pixels. Each curve's first point is dragged to its last.",
                ),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    tooltip="thin plate bends; rigid moves and turns; similarity also scales; move only moves. Too few "
                    "points for a kind (thin plate needs three) fall back to a stiffer one.",
                ),
                io.Boolean.Input(
                    "pin_edge",
                    default=False,
                    tooltip="Hold the region's outline still, so that it deforms inside (thin plate only).",
                ),
                io.Tracks.Input(
                    "tracks",
                    optional=True,
                    tooltip="Tracks of the host in place of 'points': first frame to last, where "
                    "points are seen in both.",
                ),
                io.Int.Input(
                    "canvas_width",
                    default=0,
                    min=0,
                    max=16384,
                    optional=True,
                    advanced=True,
                    tooltip="Width of the editor in which the points were set; 0 = the mask's own.",
                ),
                io.Int.Input(
                    "canvas_height",
                    default=0,
                    min=0,
                    max=16384,
                    optional=True,
                    advanced=True,
                    tooltip="Height of the editor in which the points were set; 0 = the mask's own.",
                ),
            ],
            outputs=[FlowSocket.Output("flow", tooltip=FLOW_TIP)],
        )

    @classmethod
    def execute(cls, mask, points, kind, pin_edge, tracks=None, canvas_width=0, canvas_height=0) -> io.NodeOutput:
        mask = require_mask(mask)
        starts, ends = cls.tracked(tracks) if tracks is not None else drag_pairs(parse_points(points))
        height, width = mask.shape[1:]
        canvas = (canvas_height or height, canvas_width or width)
        if tracks is None:
            require_drags(starts, ends, canvas)
        scale = torch.tensor([width / canvas[1], height / canvas[0]], dtype=torch.float64)
        return io.NodeOutput(points_flow(mask, starts * scale, ends * scale, kind, pin_edge=pin_edge))

    @staticmethod
    def tracked(tracks) -> tuple[torch.Tensor, torch.Tensor]:
        """Starts and ends of the tracks that are seen; the others are said on the node."""
        starts, ends = track_pairs(tracks)
        hidden = tracks["track_path"].shape[1] - len(starts)
        if hidden:
            notify(f"{hidden} tracked points are not seen in the first or the last frame: they drag nothing.")
        return starts, ends


class FlowFromImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestFlowFromImages",
            display_name="Flow From Images",
            category=CATEGORY,
            description="Reads the motion between two pictures, for instance two frames of a video, to move a third "
            "one.",
            search_aliases=["motion transfer", "optical flow", "raft"],
            inputs=[
                io.Custom("OPTICAL_FLOW").Input("optical_flow", tooltip="From Load Optical Flow Model."),
                io.Image.Input("first", tooltip="The frame at the beginning."),
                io.Image.Input("second", tooltip="The frame at the end, of the same size."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    round=0.001,
                    tooltip="Scales the motion; negative values run it backwards. Sane: 0.5 to 2.",
                ),
                io.Float.Input(
                    "still_below",
                    default=1.0,
                    min=0.0,
                    max=64.0,
                    step=0.1,
                    round=0.001,
                    tooltip="Motions shorter than this many pixels count as none. Sane: 0.5 to 2.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="Only what it covers moves."),
                io.Int.Input(
                    "updates",
                    default=12,
                    min=1,
                    max=32,
                    optional=True,
                    advanced=True,
                    tooltip="Refinements of the estimate. Sane: 8 to 20.",
                ),
                io.Int.Input(
                    "largest",
                    default=LARGEST,
                    min=0,
                    max=16384,
                    step=8,
                    optional=True,
                    advanced=True,
                    tooltip="Longer side in pixels at which the network compares larger pictures; 0 = as they "
                    "are, which takes some GB at 1920 x 1080. Sane: 512 to 1024.",
                ),
            ],
            outputs=[FlowSocket.Output("flow", tooltip=FLOW_TIP)],
        )

    @classmethod
    def execute(
        cls, optical_flow, first, second, strength, still_below, mask=None, updates=12, largest=LARGEST
    ) -> io.NodeOutput:
        require_optical_flow(optical_flow)
        require_same_size(require_picture(first, "first", 1), require_picture(second, "second", 1), "first", "second")
        batch = max(len(first), len(second))
        pairs = (expand_batch(as_pictures(image), batch) for image in (first, second))
        flow = estimate_each(optical_flow, *pairs, updates=updates, largest=largest)
        flow = torch.where(flow.norm(dim=-1, keepdim=True) < still_below, 0.0, strength * flow)
        if mask is not None:
            covers = region_of(expand_batch(resize_layers(require_mask(mask), *flow.shape[1:3]), len(flow)))
            flow = torch.where(covers[..., None], flow, 0.0)
        return io.NodeOutput(flow)


NODES = (FlowFromTransform, FlowFromPoints, FlowFromImages)
