"""What is done with flows: several made one, shown on the picture, and used to move its pixels."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui

from ..guidance.flow.colour_wheel import colour_wheel
from ..guidance.flow.fields import check_flow, compose_flows, described
from ..guidance.flow.warp import forward_warp, land
from ..host.gradients import plain
from ..host.images import as_image, as_pictures
from ..host.notify import notify
from ..host.validation import require_picture
from ._arrows import arrows
from ._flow_inputs import fitted_flow, matched
from .flow import CATEGORY, FLOW_TIP, LAYERS_TIP
from .sockets import Flow as FlowSocket


class FlowCompose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestFlowCompose",
            display_name="Flow Compose",
            category=CATEGORY,
            description="Several objects that move at once, front to back.",
            inputs=[
                io.Autogrow.Input(
                    "flows",
                    template=io.Autogrow.TemplatePrefix(
                        FlowSocket.Input("flow", tooltip="One object's motion; the first is nearest."),
                        prefix="flow",
                        min=2,
                        max=16,
                    ),
                    tooltip="The objects' motions, the nearest first.",
                ),
                io.Mask.Input(
                    "in_front",
                    optional=True,
                    tooltip="Things that stay where they are and hide whatever passes behind them.",
                ),
            ],
            outputs=[
                FlowSocket.Output("flow", tooltip="All motions in one."),
                io.Mask.Output("layers", tooltip="Who lies in front, for Flow Warp and Flow Guidance Sampler."),
            ],
        )

    @classmethod
    def execute(cls, flows: io.Autogrow.Type, in_front=None) -> io.NodeOutput:
        parts = [check_flow(flow, name) for name, flow in flows.items() if flow is not None]
        if not parts:
            raise ValueError("No flow is connected: connect at least one Flow node to 'flows'.")
        sizes = {tuple(part.shape[1:3]) for part in parts}
        if len(sizes) > 1:
            notify("The flows are of different sizes; all are resized to the first one's, with their vectors.")
        return io.NodeOutput(*compose_flows(parts, in_front))


class FlowPreview(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestFlowPreview",
            display_name="Flow Preview",
            category=CATEGORY,
            description="Shows a flow as arrows on the picture, and in the standard colours (hue: way, strength: "
            "length).",
            is_output_node=True,
            inputs=[
                FlowSocket.Input("flow", tooltip=FLOW_TIP),
                io.Image.Input("image", optional=True, tooltip="The picture beneath the arrows; left open, white."),
                io.Int.Input("spacing", default=24, min=6, max=256, tooltip="Pixels between arrows. Sane: 16 to 48."),
                io.Float.Input(
                    "longest",
                    default=0.0,
                    min=0.0,
                    max=4096.0,
                    step=1.0,
                    optional=True,
                    advanced=True,
                    tooltip="Length in pixels shown in full colour; 0 = the longest there is.",
                ),
            ],
            outputs=[
                io.Image.Output("arrows", tooltip="The picture with arrows along the motion."),
                io.Image.Output("colours", tooltip="The flow on the colour wheel: hue = direction."),
                io.String.Output("note", tooltip="How much of the picture moves, and whither."),
            ],
        )

    @classmethod
    def execute(cls, flow, image=None, spacing=24, longest=0.0) -> io.NodeOutput:
        flow = check_flow(flow)
        note = "\n".join(map(described, flow))
        if image is None:
            image = torch.ones(1, *flow.shape[1:3], 3)
        flow, _ = fitted_flow(flow, None, require_picture(image, "image", 1))
        flow, _, image = matched(flow, None, image[..., :3])
        drawn = arrows(image, flow, every=spacing)
        wheel = colour_wheel(flow, largest=longest or None)
        return io.NodeOutput(drawn, wheel, note, ui=ui.PreviewImage(drawn, cls=cls))


class FlowWarp(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestFlowWarp",
            display_name="Flow Warp",
            category=CATEGORY,
            description="Moves the pixels themselves: an instant preview, the start of guidance, and all its masks.",
            search_aliases=["splat", "instant drag", "warp image"],
            inputs=[
                FlowSocket.Input("flow", tooltip=FLOW_TIP),
                io.Image.Input("image", tooltip="The picture to be moved."),
                io.Int.Input(
                    "grow",
                    default=8,
                    min=0,
                    max=256,
                    tooltip="Pixels by which masks reach beyond what moves: over shadows and soft edges. "
                    "Sane: about a fiftieth of the picture's side.",
                ),
                io.Mask.Input("layers", optional=True, tooltip=LAYERS_TIP),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The moved picture; bare places are filled softly from around them."),
                io.Mask.Output("edit_mask", tooltip="Everything that something moves from or to, grown."),
                io.Mask.Output("fill_mask", tooltip="What was filled and wants inpainting: bare places, grown."),
                io.Mask.Output("occluded", tooltip="On the old picture: what is hidden or has left it."),
                io.Mask.Output("uncovered", tooltip="On the new picture: what the old one did not show."),
                io.Mask.Output("moved", tooltip="On the new picture: what has come there, not grown."),
            ],
        )

    @classmethod
    def execute(cls, flow, image, grow=8, layers=None) -> io.NodeOutput:
        flow, layers, image = matched(*fitted_flow(flow, layers, require_picture(image, "image", 1)), image)
        landing = land(plain(flow).cpu(), layers)
        warped = forward_warp(as_pictures(image), landing, grow=grow)
        masks = (landing.edit_mask(grow), landing.to_fill(grow), landing.occluded, landing.uncovered, landing.arrived)
        return io.NodeOutput(as_image(warped), *(mask.float() for mask in masks))


NODES = (FlowCompose, FlowPreview, FlowWarp)
