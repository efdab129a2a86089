"""Flow Guidance Sampler: a flow as the goal of any stock sampling graph, and the report of what it did."""

from __future__ import annotations

from dataclasses import replace

import torch
from comfy_api.latest import io

from ..guidance.flow.fields import expand_batch, moving, region_of, resize_layers
from ..guidance.flow.warp import forward_warp, land
from ..guidance.motion.recipe import DRAFT, FAITHFUL, NORMAL, MotionRecipe
from ..guidance.motion.step_size import Window
from ..host.gradients import plain
from ..host.images import as_image, as_pictures
from ..host.motion.networks import Tools
from ..host.motion.optical_flow import require_optical_flow
from ..host.motion.sampler import FlowGuidanceSampler, Motion
from ..host.notify import notify
from ..host.validation import require_finite, require_picture
from ._flow_inputs import fitted_flow, matched
from .flow import CATEGORY, FLOW_TIP, LAYERS_TIP
from .sockets import Flow as FlowSocket, Trajectory as TrajectorySocket, advanced, optional

DAMPINGS = ["the preset's", "on", "off"]
PRESETS = {"normal": NORMAL, "draft": DRAFT, "faithful": FAITHFUL}
# Beyond this mean error in 0..1 what comes back is not the picture: an encoder of noise, or a VAE of another family.
WORST_ENCODING, WINDOW = 0.3, 16  # error; cells of the latent


def encoding_error(vae, latent: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Mean L1 of an IMAGE and what a VAE makes of its latent, in a window that is cheap to decode."""
    ratio = image.shape[1] // latent.shape[-2]
    top, left = ((side - min(side, WINDOW)) // 2 for side in latent.shape[-2:])
    seen = vae.decode(latent[..., top : top + WINDOW, left : left + WINDOW])
    return (seen - image[:, top * ratio :, left * ratio :][:, : seen.shape[1], : seen.shape[2]]).abs().mean()


def started(vae, warped: torch.Tensor) -> torch.Tensor | None:
    """The moved picture (B, 3, H, W) as a raw latent; None (said on the node) where the VAE cannot encode."""
    image = as_image(warped)
    try:
        latent = vae.encode(image)
        error = encoding_error(vae, latent, image)
    except (AttributeError, TypeError, NotImplementedError):
        error = torch.tensor(torch.nan)
    if bool(error < WORST_ENCODING):
        return latent
    notify(
        "The VAE does not give the picture back (it may have no encoder): the latent itself is moved, more coarsely."
    )
    return None


def recipe_of(
    preset: str,
    strength: float,
    start: float,
    end: float,
    curve,
    recursion: int,
    inner: int,
    flow_every: int,
    clip: float,
    follow: float = -1.0,
    damping: str = "",
) -> MotionRecipe:
    """A preset with the numbers that were set by hand (0, or below 0 for flow_every and follow: the preset's)."""
    base = PRESETS[preset]
    return replace(
        base,
        guidance=base.guidance * strength,
        clip=clip,
        recursion=recursion or base.recursion,
        inner=inner or base.inner,
        flow_every=base.flow_every if flow_every < 0 else flow_every,
        follow=base.follow if follow < 0 else follow,
        damping={"on": True, "off": False}.get(damping, base.damping),
        window=Window(start, end, None if curve is None else curve.interp),
    )


def _advanced_inputs() -> list[io.Input]:
    """What is right as it is for most pictures."""
    return [
        advanced(io.Float, "start", "Fraction of the steps before guidance begins.", default=0.0, min=0.0,
                 max=1.0, step=0.01),
        advanced(io.Float, "end", "Fraction of the steps after which the model is left alone. Sane: 0.7 to 1.",
                 default=1.0, min=0.0, max=1.0, step=0.01),
        advanced(io.Float, "colour_weight", "Weight of the colour loss.", default=100.0, min=0.0, max=10000.0),
        advanced(io.Float, "flow_weight", "Weight of the flow loss.", default=3.0, min=0.0, max=1000.0),
        advanced(io.Float, "clip", "Largest pull, as a norm at 512 x 512 (scaled to your size); 0 = no limit. "
                 "Sane: 50 to 400.", default=200.0, min=0.0, max=100000.0),
        advanced(io.Int, "recursion", "Evaluations of the model at each step; 0 = the preset's. Sane: 1 to "
                                      "10.",
                 default=0, min=0, max=50),
        advanced(io.Int, "inner_updates", "Pulls at each clean estimate of the second half (not faithful); 0: "
                 "the preset's. Sane: 1 to 4.", default=0, min=0, max=100),
        advanced(io.Int, "flow_every", "The flow network judges every n-th step (not faithful); 0 = never, "
                 "-1 = the preset's.", default=-1, min=-1, max=100),
        advanced(io.Int, "flow_updates", "Refinements of each flow estimate. Sane: 3 to 12.", default=5, min=1,
                 max=32),
        advanced(io.Float, "follow", "Fraction of the way to the moved picture at each step, before the pulls "
                 "(not faithful); -1 = the preset's. Lower leaves the model more say. Sane: 0.4 to 0.9.",
                 default=-1.0, min=-1.0, max=1.0, step=0.05),
        advanced(io.Combo, "damping", "Halve the pull of a picture whose loss grows within a noise level. Faithful, as "
                 "published, does not.", options=DAMPINGS, default=DAMPINGS[0]),
    ]  # fmt: skip


class FlowGuidanceSamplerNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestFlowGuidanceSampler",
            display_name="Flow Guidance Sampler",
            category=CATEGORY,
            description="Paints the picture again with its parts moved along a flow. Plug it into Sampler Custom "
            "Advanced; its latent image is the source through VAE Encode.",
            search_aliases=["motion guidance", "drag", "move object", "dragdiffusion"],
            inputs=[
                io.Vae.Input(
                    "vae",
                    tooltip="The VAE of the model: encodes the moved picture, and decodes for the "
                    "gradients where no small decoder is at hand.",
                ),
                FlowSocket.Input("flow", tooltip=FLOW_TIP),
                io.Image.Input("image", tooltip="The source picture, of the latent's size."),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    tooltip="normal: starts from the moved picture, pulls at the clean estimate. draft: "
                    "no pulls, the moved picture alone is followed; nothing is differentiated. faithful: "
                    "the paper's recipe with gradients through the model, recursion 10; give it 100 to "
                    "500 steps, the full denoise and time.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=20.0,
                    step=0.1,
                    round=0.001,
                    tooltip="How hard the picture is pulled to the goal. 0 is no guidance; normal and draft "
                    "start from the moved picture even so. Sane: 0.5 to 2.",
                ),
                io.Int.Input(
                    "grow",
                    default=10,
                    min=0,
                    max=256,
                    tooltip="Pixels round what moves that may change too: shadows, soft edges. Sane: about a "
                    "fiftieth of the picture's side, more for wide shadows.",
                ),
                optional(
                    io.Custom("OPTICAL_FLOW"),
                    "optical_flow",
                    "From Load Optical Flow Model. Left open, the colours alone guide.",
                ),
                optional(
                    TrajectorySocket,
                    "trajectory",
                    "Inversion of the source: what stays follows it. Left open, "
                    "what stays is the source noised to each level.",
                ),
                optional(io.Mask, "layers", LAYERS_TIP),
                optional(io.Mask, "edit_mask", "What may change, in place of the flow's own edit mask and 'grow'."),
                optional(
                    io.Vae,
                    "gradient_vae",
                    "A small preview decoder (taesd) for the gradients: faster, less "
                    "memory. Left open, the host's own from models/vae_approx, where its file is; faithful takes "
                    "the full VAE.",
                ),
                # A socket alone: the host's own curve widget is drawn by one of its two renderers only.
                optional(
                    io.Custom("CURVE"),
                    "curve",
                    "Strength over the window, from Curve Editor; left open, constant.",
                    extra_dict={"forceInput": True},
                ),
                *_advanced_inputs(),
            ],
            outputs=[io.Sampler.Output("sampler", tooltip="For Sampler Custom Advanced.")],
        )

    @classmethod
    def execute(
        cls,
        vae,
        flow,
        image,
        preset,
        strength,
        grow,
        optical_flow=None,
        trajectory=None,
        layers=None,
        edit_mask=None,
        gradient_vae=None,
        curve=None,
        start=0.0,
        end=1.0,
        colour_weight=100.0,
        flow_weight=3.0,
        clip=200.0,
        recursion=0,
        inner_updates=0,
        flow_every=-1,
        flow_updates=5,
        follow=-1.0,
        damping=DAMPINGS[0],
    ) -> io.NodeOutput:
        if optical_flow is None:
            notify("No optical-flow model is connected: the colours alone guide.")
        else:
            require_optical_flow(optical_flow)
        recipe = recipe_of(
            preset, strength, start, end, curve, recursion, inner_updates, flow_every, clip, follow, damping
        )
        flow, layers, image = matched(*fitted_flow(flow, layers, require_picture(image, "image")), image)
        motion = prepared(plain(flow).cpu(), layers, as_pictures(image), grow, edit_mask)
        if not recipe.faithful:
            warped = forward_warp(motion.picture, motion.landing, grow=grow)
            motion = replace(motion, started=started(vae, warped))
        tools = Tools(vae, optical_flow, flow_updates, gradient_vae=gradient_vae)
        return io.NodeOutput(
            FlowGuidanceSampler(
                motion, tools, recipe, colour=colour_weight, motion_weight=flow_weight, trajectory=trajectory
            )
        )


def prepared(flow, layers, picture, grow: int, edit_mask) -> Motion:
    """The motion with its masks; what cannot lead anywhere is said on the node."""
    landing = land(flow, layers)
    if not bool(moving(flow).any()):
        notify("The flow moves nothing: the picture comes back as it is.")
    elif not bool(landing.arrived.any()):
        notify("Everything that moves leaves the picture or is hidden: only its old place will be filled.")
    edit = landing.edit_mask(grow)
    if edit_mask is not None:
        edit_mask = resize_layers(require_finite(edit_mask, "The input 'edit_mask'").float(), *flow.shape[1:3])
        edit = expand_batch(region_of(edit_mask), len(flow))
        if not bool(edit.any()):
            raise ValueError("The edit mask is empty, so nothing may change: paint it, or leave it open.")
    return Motion(picture, flow, landing, edit, grow)


NODES = (FlowGuidanceSamplerNode,)
