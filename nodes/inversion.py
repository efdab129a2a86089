"""DDIM Invert, and the check that shows what an inversion is worth."""

from __future__ import annotations

import torch
from comfy.utils import repeat_to_batch_size
from comfy_api.latest import io, ui

from ..host.batching import by_rows
from ..host.compatibility import levels_of, require_invertible, require_same_kind, warn_of_another_caption
from ..host.family import latent_format_name
from ..host.fingerprint import fingerprint
from ..host.guidance_patches import without_idle_guidance
from ..host.inversion.inverted_noise import InvertedNoise
from ..host.prompts import Text, conditionings, text_of_input
from ..host.session import Session
from ..host.validation import require_latent, require_vae_of
from ..inversion.ddim import PAIRINGS, invert_and_record
from ..inversion.trajectory import Trajectory
from ..inversion.verdict import lines
from ._panel import error_map, panel
from ._reconstruction import measure, prompt_of, round_trip, source_picture
from .sockets import Trajectory as TrajectorySocket

CATEGORY = "Palimpsest/inversion"

MODEL_TIP = "The model that you will edit with, LoRAs and patches included."
POSITIVE_TIP = (
    "What the picture shows, in a few words. A fitting prompt brings the picture back better and gives edits words to "
    "hold on to. Left open, the empty prompt is used; connect CLIP then."
)
NEGATIVE_TIP = "Used where CFG is not 1. Left open, the empty prompt is used; connect CLIP then."
CLIP_TIP = "Encodes the prompts that are left open. Not needed where they are connected."


def latent_with(latent: dict, samples: torch.Tensor) -> dict:
    """A copy with other samples; a mask would make samplers take the noise for the picture to keep."""
    return {**{key: value for key, value in latent.items() if key != "noise_mask"}, "samples": samples}


def inverted(levels: torch.Tensor, **how):
    """What a session runs for some rows: their path (N + 1, B, C, h, w), its end as the host's raw latent, and the
    evaluated latents (N, B, C, h, w) of a refined one."""

    def body(session: Session, _):
        path, points = invert_and_record(
            session.guided,
            session.latent,
            levels,
            on_step=lambda i, n, x, x0: session.report(i - 1, n, x0, x),
            **how,
        )
        return path, session.to_raw(path[-1]), points

    return body


def noise_mask_of(latent: dict) -> torch.Tensor | None:
    """The latent's noise mask as a trajectory keeps it, a row for all pictures or one for each; None without one."""
    mask = latent.get("noise_mask")
    if mask is None:
        return None
    mask = mask.detach().to("cpu", torch.float32)
    mask = mask.reshape(-1, 1, *mask.shape[-2:])
    rows = latent["samples"].shape[0]
    return mask if mask.shape[0] == 1 else repeat_to_batch_size(mask, rows)


class DDIMInvert(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestDDIMInvert",
            display_name="DDIM Invert",
            category=CATEGORY,
            description="Finds the noise from which the model would have painted your picture, and every step between.",
            search_aliases=["inversion", "DDIM inversion", "unsampler", "unsample", "real image editing", "reverse"],
            inputs=[
                io.Model.Input("model", tooltip=MODEL_TIP),
                io.Latent.Input("latent", tooltip="Your picture through VAE Encode; a batch is inverted row by row."),
                io.Sigmas.Input(
                    "sigmas",
                    tooltip="The schedule that you will sample with, from any scheduler node, as it is. With a denoise "
                    "below 1, or the low part of Split Sigmas, the inversion goes part of the way.",
                ),
                io.Float.Input(
                    "cfg",
                    default=1.0,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Guidance of the inversion. 1 (half the time) is right nearly always; higher values lead "
                    "to noise that edits badly. Sane: 1 to 3.",
                ),
                io.Int.Input(
                    "refinement",
                    default=0,
                    min=0,
                    max=20,
                    tooltip="Fixed-point iterations: more evaluations of the model at each step, where Inversion Check "
                    "shows that the picture does not come back. 0 is plain DDIM; 1 doubles the time. Sane: 0 to 3.",
                ),
                io.Conditioning.Input("positive", optional=True, tooltip=POSITIVE_TIP),
                io.Conditioning.Input("negative", optional=True, tooltip=NEGATIVE_TIP),
                io.Clip.Input("clip", optional=True, tooltip=CLIP_TIP),
                io.Combo.Input(
                    "pairing",
                    options=list(PAIRINGS),
                    default=PAIRINGS[0],
                    optional=True,
                    advanced=True,
                    tooltip="Where the model is evaluated for a step: extrapolated (reconstructs best), held (so "
                    "too, simpler), papers (as the published methods do), same level (plain reverse Euler).",
                ),
            ],
            outputs=[
                TrajectorySocket.Output("trajectory", tooltip="The way from picture to noise, for all that follows."),
                io.Latent.Output("inverted", tooltip="The noise at the end of the way, as a latent."),
                io.Noise.Output("noise", tooltip="Makes Sampler Custom Advanced start at exactly the inverted latent."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model, latent, sigmas, cfg=1.0, refinement=0, positive=None, negative=None, clip=None, pairing=PAIRINGS[0]
    ) -> io.NodeOutput:
        samples = require_latent(latent, "The latent", model)
        if not bool(torch.count_nonzero(samples)):
            raise ValueError("The latent is empty: connect your picture through a VAE Encode node.")
        prediction, levels = require_invertible(model), levels_of(model, sigmas)
        conds = conditionings(model, positive, negative, clip, cfg, "DDIM Invert")

        # The model sees the schedule as in sampling, so that patches which read it act alike in both.
        mask = noise_mask_of(latent)
        parts = by_rows(
            without_idle_guidance(model, cfg, "DDIM Invert"),
            conds,
            samples,
            levels.flip(0),
            inverted(levels, flow=prediction == "flow", pairing=pairing, refinement=refinement),
            cfg=cfg,
            noise_mask=mask,
            what="The batch to invert",
        )
        path, raw = torch.cat([one[0] for one in parts], dim=1), torch.cat([one[1] for one in parts])
        text = Text("", whole=True) if positive is None else text_of_input(cls.hidden, "positive")
        facts = (text and text.text, cfg, fingerprint(model), prediction, latent_format_name(model))
        whole = text is not None and text.whole
        points = torch.cat([one[2] for one in parts], dim=1) if refinement else None
        made = Trajectory(levels, path, *facts, prompt_is_all=whole, noise_mask=mask, pairing=pairing, evaluated=points)
        return io.NodeOutput(made, latent_with(latent, raw), InvertedNoise(made, model))


class InversionCheck(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestInversionCheck",
            display_name="Inversion Check",
            category=CATEGORY,
            description="Samples a trajectory back and shows whether the picture returns, and how well it will edit.",
            search_aliases=["reconstruction", "psnr", "ssim", "inversion quality"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model of the inversion."),
                io.Vae.Input("vae", tooltip="The VAE that encoded the picture."),
                TrajectorySocket.Input("trajectory", tooltip="From DDIM Invert or Load Trajectory."),
                io.Float.Input(
                    "cfg",
                    default=1.0,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Guidance of the way back. 1 judges the inversion itself; the CFG of your edit shows what "
                    "that costs. Sane: 1 to 10.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture that was encoded, to compare with. Left open, the VAE's view of it stands in.",
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="The prompt of the inversion. Left open, the trajectory's own is used; connect CLIP then.",
                ),
                io.Conditioning.Input("negative", optional=True, tooltip=NEGATIVE_TIP),
                io.Clip.Input("clip", optional=True, tooltip=CLIP_TIP),
            ],
            outputs=[
                io.Image.Output("panel", tooltip="Source, reconstruction and error map with the numbers beneath."),
                io.Image.Output("reconstruction", tooltip="The picture as sampling the trajectory back gives it."),
                io.Float.Output("psnr", tooltip="Decibels against the source, the mean of the batch; 100 means equal."),
                io.Float.Output("ssim", tooltip="Structural similarity, the mean of the batch; 1 means equal."),
                io.String.Output("report", tooltip="The numbers and what they mean."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model, vae, trajectory, cfg=1.0, image=None, positive=None, negative=None, clip=None
    ) -> io.NodeOutput:
        require_same_kind(trajectory, model)
        require_vae_of(model, vae)
        source = source_picture(image, trajectory, vae)
        text = prompt_of(trajectory) if positive is None else ""
        given = None if positive is None else text_of_input(cls.hidden, "positive")
        warn_of_another_caption(trajectory, given and given.text)
        conds = conditionings(model, positive, negative, clip, cfg, "Inversion Check", text)
        through_vae, reconstruction = round_trip(model, vae, trajectory, conds, cfg)
        checks = measure(through_vae if source is None else source, through_vae, reconstruction, trajectory, source)
        texts = [lines(check, made_at=trajectory.cfg, sampled_at=cfg) for check in checks]
        shown = through_vae if source is None else source
        title = "source" if source is not None else "source, through the VAE"
        errors = error_map(shown, reconstruction)
        titles = (title, "reconstruction", "error (white: a quarter or more)")
        rows = zip(shown, reconstruction, errors)
        made = torch.cat([panel(list(zip(titles, row)), text) for row, text in zip(rows, texts)])
        means = [sum(getattr(check, name) for check in checks) / len(checks) for name in ("psnr", "ssim")]
        report = "\n\n".join("\n".join(text) for text in texts)
        return io.NodeOutput(made, reconstruction, *means, report, ui=ui.PreviewImage(made, cls=cls))


NODES = (DDIMInvert, InversionCheck)
