"""Reschedule: even steps to the eye, from the distances of the frames of a first, cheap run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..host.morphing.perceptual import MEASURES, distance_table, frame_distances
from ..host.validation import require_latent
from ..morphing.frame_selection import choose
from ..morphing.measured_frames import MeasuredFrames, measured_for, remembering, together
from ..morphing.reschedule import predicted, reschedule, variation
from ..morphing.schedule import Alphas, as_alphas
from ..morphing.torn_frames import shortened, torn
from ._panel import BACKGROUND, QUIET, TEXT
from .morphing import ALPHAS_TIP, CATEGORY
from .sockets import Alphas as AlphasSocket, advanced, optional

WIDTH, HEIGHT, MARGIN = 640, 200, 40
BEFORE, AFTER = (160, 160, 170), (251, 136, 38)


def _advanced_inputs() -> list[io.Input]:
    """What is right as it is for most morphs."""
    return [
        advanced(io.Int, "start", "First frame of the new schedule to make, so that several machines can make one "
                 "morph.", default=0, min=0, max=4095),
        advanced(io.Int, "count", "How many frames to make from there. 0: all that follow.",
                 default=0, min=0, max=4096),
        advanced(io.Boolean, "remember", "On: if these frames were themselves made by a Reschedule, the frames that "
                 "it measured count as well, which finds the leaps of the morph sooner. Off: these frames alone, "
                 "for frames that were made otherwise (other noise levels, another model).", default=True),
        advanced(io.Boolean, "avoid_torn", "On: frames that show a thing at two places, where it should be on its way "
                 "from the one to the other, are passed over as far as evenness allows. Off: they count as any other.",
                 default=True),
    ]  # fmt: skip


def _frame_inputs() -> list[io.Input]:
    """The measured frames, and what it takes to see them."""
    return [
        optional(io.Latent, "latent", "The frames as they come from the sampler; enough for the measure `latents`."),
        optional(io.Image, "images", "The decoded frames; a small preview decoder (TAESD) will do."),
        optional(io.Vae, "vae", "For the measure `latents` where there are `images` only."),
        optional(io.ClipVision, "clip_vision", "For the measure `clip vision`."),
    ]  # fmt: skip


class Reschedule(io.ComfyNode):
    """Moves the frames of a morph so that it changes evenly, by how far the frames of a first run lie apart."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestReschedule",
            display_name="Reschedule",
            category=CATEGORY,
            description=cls.__doc__,
            search_aliases=["even speed", "perceptually uniform", "lpips", "diffmorpher"],
            has_intermediate_output=True,
            inputs=[
                AlphasSocket.Input("alphas", tooltip=ALPHAS_TIP + " Those of the frames that are looked at."),
                io.Combo.Input(
                    "measure",
                    options=list(MEASURES),
                    default=MEASURES[0],
                    tooltip="How far frames lie apart: latents (fastest, no decoding), clip vision (what they show), "
                    "lpips (the paper's, where its package and AlexNet's weights are there).",
                ),
                io.Int.Input(
                    "frames",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Frames of the new schedule. 0: as many as were looked at. A coarse first run may feed a "
                    "fine one.",
                ),
                io.Boolean.Input(
                    "hold_keys",
                    default=True,
                    tooltip="On: the key pictures between the ends stay frames of the morph. Off: perfectly even "
                    "steps over them.",
                ),
                *_frame_inputs(),
                *_advanced_inputs(),
            ],
            outputs=[
                AlphasSocket.Output("alphas", tooltip="The new schedule, for the final run."),
                io.Image.Output("plot", tooltip="The distances of the frames as they were, and as they are to be."),
                io.Float.Output(
                    "variation",
                    tooltip="How uneven the measured frames are: std of their distances over the mean. Below "
                    "0.15 is even to the eye.",
                ),
                io.Latent.Output(
                    "evenest",
                    tooltip="The evenest morph out of all frames looked at, as it is: no further run. Needs `latent`. "
                    "All of them where they are fewer than `frames`.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        alphas,
        measure=MEASURES[0],
        frames=0,
        hold_keys=True,
        latent=None,
        images=None,
        vae=None,
        clip_vision=None,
        start=0,
        count=0,
        remember=True,
        avoid_torn=True,
    ) -> io.NodeOutput:
        before = as_alphas(alphas)
        latents = None if latent is None else require_latent(latent, "The latent of the frames")
        _require_frames(before, latents, images)
        measured = (*(measured_for(before) if remember else ()), MeasuredFrames(before, latents, images))
        seen, wanted = together(measured), frames or len(before)
        to_measure = lambda one: {"images": one.images, "latents": one.latents, "vae": vae, "clip": clip_vision}
        steps = frame_distances(measure, cyclic=before.cyclic, **to_measure(measured[-1]))
        same = seen.alphas.values == before.values
        known = steps if same else frame_distances(measure, cyclic=before.cyclic, **to_measure(seen))
        tears = torn(_frames_of(seen), seen.alphas) if avoid_torn else None
        passed = known if tears is None else shortened(known, tears)
        after = reschedule(seen.alphas, passed, frames=wanted, hold_keys=hold_keys)
        picture = _plot(before, steps, after, predicted(seen.alphas, known, after))
        part = remembering(after, measured).part(start, count)
        distances = lambda: distance_table(measure, **to_measure(seen))
        evenest = _evenest(seen, wanted, hold_keys, tears, distances)
        return io.NodeOutput(part, picture, variation(steps), evenest, ui=ui.PreviewImage(picture, cls=cls))


def _frames_of(seen: MeasuredFrames) -> Tensor:
    """(N, C, h, w): latents, or pictures where there are no latents."""
    return seen.images.movedim(-1, 1) if seen.latents is None else seen.latents


def _evenest(
    seen: MeasuredFrames, wanted: int, hold_keys: bool, tears: Tensor | None, distances: Callable[[], Tensor]
) -> dict | ExecutionBlocker:
    """LATENT of the evenest frames out of all seen. tears: how torn each is. distances: of any two of them, asked for
    if there is a choice."""
    if seen.latents is None:
        return ExecutionBlocker("The output `evenest` of Reschedule needs the frames' latents: connect `latent`.")
    if len(seen.alphas) <= wanted:
        return {"samples": seen.latents}
    return {"samples": seen.latents[choose(seen.alphas, distances(), wanted, hold_keys=hold_keys, torn=tears)]}


def _require_frames(alphas: Alphas, *given: Tensor | None) -> None:
    for batch in given:
        if batch is not None and len(batch) != len(alphas):
            raise ValueError(
                f"Reschedule was given ALPHAS of {len(alphas)} frames, but {len(batch)} pictures: connect the ALPHAS "
                "that these frames were made with."
            )
    if all(batch is None for batch in given):
        raise ValueError("Reschedule needs the frames of a first run: connect `latent` or `images`.")


def _plot(before: Alphas, steps: Tensor, after: Alphas, expected: Tensor) -> Tensor:
    """Two panels: the distances of neighbours before and as expected after; the alphas of the frames."""
    canvas = Image.new("RGB", (WIDTH, 2 * HEIGHT), BACKGROUND)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    if len(steps):
        label = f"steps between frames: variation {variation(steps):.2f}, expected {variation(expected):.2f}"
        _lines(draw, font, 0, label, (steps.tolist(), expected.tolist()))
    _lines(draw, font, HEIGHT, "alphas (grey before, orange after)", (before.values, after.values))
    return torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255)[None]


def _lines(draw: ImageDraw.ImageDraw, font, top: int, title: str, pair: Sequence[Sequence[float]]) -> None:
    draw.text((MARGIN, top + 8), title, TEXT, font)
    low, high = top + HEIGHT - 20, top + 36
    draw.line([(MARGIN, high), (MARGIN, low), (WIDTH - 16, low)], QUIET)
    largest = max((max(values) for values in pair if len(values)), default=0.0) or 1.0
    draw.text((4, high - 8), f"{largest:.3g}", QUIET, font)
    for values, colour in zip(pair, (BEFORE, AFTER)):
        across = (WIDTH - MARGIN - 24) / max(len(values) - 1, 1)
        points = [(MARGIN + i * across, low - (low - high) * value / largest) for i, value in enumerate(values)]
        if len(points) > 1:
            draw.line(points, colour, 2)
        for x, y in points:
            draw.ellipse([x - 2.5, y - 2.5, x + 2.5, y + 2.5], colour)


NODES = (Reschedule,)
