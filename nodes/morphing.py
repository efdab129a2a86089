"""Morphing by the batch: key pictures, the schedule of the frames, their latents and their prompts."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.compatibility import require_same_kind
from ..host.family import latent_format
from ..host.images import same_size
from ..host.inversion.inverted_noise import InvertedNoise
from ..host.morphing.conditioning import morphed
from ..host.notify import notify
from ..morphing.schedule import PACES, Alphas, as_alphas, schedule
from ..morphing.trajectory import MorphedTrajectory, joined
from .sockets import Alphas as AlphasSocket, Trajectory as TrajectorySocket

CATEGORY = "Palimpsest/morph"
MOST = 32

ALPHAS_TIP = "Where each frame lies between the key pictures, from Morph Schedule or Reschedule."


def several(names: str, name: str, socket, tooltip: str) -> io.Autogrow.Input:
    """As many inputs of one type as are connected, at least one: name0, name1, ..."""
    template = io.Autogrow.TemplatePrefix(input=socket.Input(name, tooltip=tooltip), prefix=name, min=1, max=MOST)
    return io.Autogrow.Input(names, template=template, tooltip=tooltip)


def in_order(values: dict) -> list:
    """What came in by such inputs, in their order."""
    number = lambda name: int("".join(letter for letter in name if letter.isdigit()) or 0)
    return [values[name] for name in sorted(values, key=number) if values[name] is not None]


class KeyPictures(io.ComfyNode):
    """Pictures of any size and shape, brought to one size without squeezing them: the key pictures of a morph."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        size = lambda side: io.Int.Input(
            side,
            default=0,
            min=0,
            max=8192,
            step=8,
            tooltip=f"Pixels of {side}, rounded down to a multiple of 8. 0: the first picture's own.",
        )
        return io.Schema(
            node_id="PalimpsestKeyPictures",
            display_name="Key Pictures",
            category=CATEGORY,
            description=cls.__doc__,
            search_aliases=["morph pictures", "batch images", "same size", "key frames"],
            inputs=[
                several("pictures", "picture", io.Image, "A picture to morph through; a batch counts as several."),
                size("width"),
                size("height"),
            ],
            outputs=[
                io.Image.Output("pictures", tooltip="All pictures in one batch; for VAE Encode."),
                io.Int.Output("count", tooltip="How many pictures these are; for `keyframes` of Morph Schedule."),
            ],
        )

    @classmethod
    def execute(cls, pictures, width=0, height=0) -> io.NodeOutput:
        batch, notes = same_size(in_order(pictures), width, height)
        for sentence in notes:
            notify(sentence)
        return io.NodeOutput(batch, len(batch))


class MorphSchedule(io.ComfyNode):
    """Says how many frames a morph has and where each lies between its key pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestMorphSchedule",
            display_name="Morph Schedule",
            category=CATEGORY,
            description=cls.__doc__,
            search_aliases=["animation", "crossfade", "alphas", "diffmorpher", "tween", "in-between frames"],
            inputs=[
                io.Int.Input(
                    "frames",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip="Frames of the whole morph, key pictures included. Sane: 8 to 32 for two pictures.",
                ),
                io.Int.Input(
                    "keyframes",
                    default=2,
                    min=1,
                    max=MOST,
                    tooltip="How many key pictures are morphed through; they lie at 0, 1, 2, ...",
                ),
                io.Combo.Input(
                    "pace",
                    options=list(PACES),
                    default=PACES[0],
                    tooltip="uniform: even alphas, what Reschedule wants. The eased ones linger at the ends or at "
                    "each picture. curve: as the connected CURVE says.",
                ),
                io.Boolean.Input(
                    "cyclic",
                    default=False,
                    tooltip="On: the last picture leads back to the first, for a loop without a seam.",
                ),
                # A socket alone: the canvas would draw a curve of its own here, and send it whatever the pace.
                io.Custom("CURVE").Input(
                    "curve",
                    optional=True,
                    extra_dict={"forceInput": True},
                    tooltip="From a Curve Editor: across is time, up is progress from the first picture to the last. "
                    "Used by the pace `curve`.",
                ),
                io.Int.Input(
                    "start",
                    default=0,
                    min=0,
                    max=4095,
                    optional=True,
                    advanced=True,
                    tooltip="First frame to make, counted from 0, so that several machines can make one morph.",
                ),
                io.Int.Input(
                    "count",
                    default=0,
                    min=0,
                    max=4096,
                    optional=True,
                    advanced=True,
                    tooltip="How many frames to make from there. 0: all that follow.",
                ),
            ],
            outputs=[
                AlphasSocket.Output("alphas", tooltip="One number a frame, for the other morph nodes."),
                AlphasSocket.Output(
                    "keys",
                    tooltip="The key pictures alone: for inverting all of them in one batch, each with its own LoRA "
                    "and prompt.",
                ),
                io.Int.Output("count", tooltip="How many frames these are."),
            ],
        )

    @classmethod
    def execute(cls, frames, keyframes=2, pace=PACES[0], cyclic=False, curve=None, start=0, count=0) -> io.NodeOutput:
        whole = schedule(frames, keyframes, pace=pace, cyclic=cyclic, curve=None if curve is None else curve.interp)
        part = whole.part(start, count)
        return io.NodeOutput(part, Alphas(tuple(range(keyframes)), keyframes, cyclic), len(part))


class MorphLatents(io.ComfyNode):
    """The starting noise of every frame: between the inverted key pictures, at the same distance from the middle."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestMorphLatents",
            display_name="Morph Latents",
            category=CATEGORY,
            description=cls.__doc__,
            search_aliases=["slerp", "adain", "latent interpolation", "diffmorpher"],
            inputs=[
                io.Model.Input("model", tooltip="The model that will sample the frames."),
                several(
                    "trajectories",
                    "trajectory",
                    TrajectorySocket,
                    "An inverted key picture, from DDIM Invert; a batch of them counts as several, in order.",
                ),
                AlphasSocket.Input("alphas", tooltip=ALPHAS_TIP),
                io.Boolean.Input(
                    "adain",
                    default=True,
                    tooltip="On: the mean and contrast of each channel go evenly from picture to picture, so that "
                    "colours do not jump.",
                ),
            ],
            outputs=[
                io.Noise.Output("noise", tooltip="Makes Sampler Custom Advanced start each frame at its place."),
                io.Latent.Output(
                    "latent",
                    tooltip="The same places as a latent of as many pictures: the latent input of the sampler, with "
                    "or without the NOISE (then with noise switched off).",
                ),
                TrajectorySocket.Output(
                    "keys",
                    tooltip="All inverted key pictures in one, for Attention Blend, and for Trajectory Anchor, which "
                    "with the same ALPHAS holds the frames that are key pictures.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model, trajectories, alphas, adain=True) -> io.NodeOutput:
        keys = joined(in_order(trajectories))
        require_same_kind(keys, model, "The inverted key pictures")
        frames = MorphedTrajectory(keys, as_alphas(alphas), adain=adain)
        raw = latent_format(model).process_out(frames.at(float(keys.sigmas[-1])))
        return io.NodeOutput(InvertedNoise(frames, model), {"samples": raw}, keys)


class MorphConditioning(io.ComfyNode):
    """The prompt of every frame: on the straight line between the prompts of its key pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestMorphConditioning",
            display_name="Morph Conditioning",
            category=CATEGORY,
            description=cls.__doc__,
            search_aliases=["prompt travel", "conditioning average", "text interpolation"],
            inputs=[
                several(
                    "prompts",
                    "prompt",
                    io.Conditioning,
                    "The prompt of a key picture, from CLIP Text Encode. One alone serves for all. Prompts that are "
                    "worded alike morph best; they may differ in length.",
                ),
                AlphasSocket.Input("alphas", tooltip=ALPHAS_TIP),
            ],
            outputs=[io.Conditioning.Output(tooltip="One prompt a frame; for any guider or sampler.")],
        )

    @classmethod
    def execute(cls, prompts, alphas) -> io.NodeOutput:
        return io.NodeOutput(morphed(in_order(prompts), as_alphas(alphas)))


NODES = (KeyPictures, MorphSchedule, MorphLatents, MorphConditioning)
