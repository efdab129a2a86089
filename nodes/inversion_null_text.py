"""NullText Optimize, and the two methods that cost nothing: Negative-Prompt Inversion and Proximal Guidance."""

from __future__ import annotations

from typing import get_args

import torch
from comfy_api.latest import io, ui

from ..guidance.proximal import Form, Threshold
from ..host.compatibility import warn_of_another_caption
from ..host.inversion.null_text import fit_null_text
from ..host.prompts import connected_or_encoded, text_of_input
from ..host.proximal import with_proximal_guidance
from ..host.validation import require_conditioning, require_unconditional
from ..inversion.negative_prompt import between
from ..inversion.null_text_run import MODES, NullText, NullTextRecipe
from ._loss_plot import plot
from ._presets import PROXIMAL, PROXIMAL_SAMPLING, preset_input, with_presets
from .sockets import Trajectory, advanced

CATEGORY = "Palimpsest/inversion"


def _advanced_inputs() -> list[io.Input]:
    """What is right as it is for most pictures."""
    return [
        advanced(io.Int, "inner_steps", "Most updates at a step of the schedule; fast mode takes fewer and fewer. In "
                 "global mode: rounds over all steps, of which it needs some hundred. Sane: 5 to 20.",
                 default=10, min=0, max=500),
        advanced(io.Float, "learning_rate", "Size of an update at the first step; it halves to the last. Sane: 0.005 "
                 "to 0.02.", default=0.01, min=1e-5, max=1.0, step=1e-3, round=1e-5),
        advanced(io.Float, "tolerance", "Fast mode is content with this squared error of a step's latent. Smaller is "
                 "closer and slower. Sane: 0.00002 to 0.001.",
                 default=NullTextRecipe.enough, min=0.0, max=0.1, step=1e-5, round=1e-7),
        advanced(io.Int, "levels_at_once", "Fast mode: noise levels fitted side by side. 0 takes what memory allows, "
                 "1 is least.", default=0, min=0, max=100),
    ]  # fmt: skip


class NullTextOptimize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestNullTextOptimize",
            display_name="NullText Optimize",
            category=CATEGORY,
            description="Makes a negative prompt, one for each step, with which guided sampling returns your picture.",
            search_aliases=["null text inversion", "null-text", "unconditional embedding"],
            has_intermediate_output=True,
            inputs=[
                io.Model.Input("model", tooltip="The model of the inversion, with the same LoRAs."),
                Trajectory.Input("trajectory", tooltip="Your picture's way to noise, from DDIM Invert at CFG 1."),
                io.Conditioning.Input("positive", tooltip="The prompt that the trajectory was made with."),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=-30.0,
                    max=30.0,
                    step=0.1,
                    round=0.01,
                    tooltip="The CFG that you will sample with: set the same in the sampler. Anything but 1. Sane: 3 "
                    "to 10.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="fast",
                    tooltip="fast: from the prompt's own embedding, some seconds. faithful: the published recipe, from "
                    "the negative prompt, ten times as long. global: one embedding for all steps, weaker.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="Where faithful and global begin: normally the empty prompt. Left open, that is used; "
                    "connect CLIP then.",
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="Encodes the empty prompt where no negative is connected."
                ),
                *_advanced_inputs(),
            ],
            outputs=[
                io.Conditioning.Output("negative", tooltip="Connect it as the negative of any sampler or guider."),
                io.Image.Output("losses", tooltip="The error at each step, before and after the fit."),
                io.String.Output("report", tooltip="What was done, in numbers."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        trajectory,
        positive,
        cfg=7.5,
        mode="fast",
        negative=None,
        clip=None,
        inner_steps=10,
        learning_rate=0.01,
        tolerance=NullTextRecipe.enough,
        levels_at_once=0,
    ) -> io.NodeOutput:
        require_unconditional(model, "NullText Optimize")
        recipe = NullTextRecipe(
            cfg=cfg, mode=mode, inner_steps=inner_steps, learning_rate=learning_rate, enough=tolerance
        )
        text = text_of_input(cls.hidden, "positive")
        warn_of_another_caption(trajectory, text and text.text)
        if mode != "fast":
            negative = connected_or_encoded(model, negative, clip, "The negative prompt")
        conditioning, found = fit_null_text(
            model, trajectory, positive, negative, recipe, levels_at_once=levels_at_once
        )
        picture = plot(loss_curves(found))
        return io.NodeOutput(conditioning, picture, report(found, mode), ui=ui.PreviewImage(picture, cls=cls))


def loss_curves(found: NullText) -> list[tuple[str, list[float]]]:
    """Titled curves for the plot; the first step is the noisiest."""
    first: dict[int, float] = {}
    for level, loss in found.history:
        first.setdefault(level, loss)
    levels = range(len(found.losses), 0, -1)
    kept = [float(found.losses[i - 1].max()) for i in levels]
    return [
        ("error of each step's latent, before", [first.get(i) for i in levels]),
        ("error of each step's latent, after (worst picture)", kept),
    ]


def report(found: NullText, mode: str) -> str:
    """The cost and the errors, for people."""
    cost, levels = found.cost, len(found.losses)
    return (
        f"{mode}: {levels} levels, {cost.forwards} forwards and {cost.backwards} backwards "
        f"({cost.forward_equivalents} forward-equivalents); squared error of a step's latent: mean "
        f"{float(found.losses.mean()):.2e}, worst {float(found.losses.max()):.2e}"
    )


class NegativePromptInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestNegativePromptInversion",
            display_name="Negative-Prompt Inversion",
            category=CATEGORY,
            description="The source prompt as the negative prompt: returns your picture at any CFG, at no cost.",
            search_aliases=["NPI", "null text inversion"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt that the trajectory was made with."),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="The empty prompt, or one of your own; counts where balance is below 1.",
                ),
                io.Float.Input(
                    "balance",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.01,
                    tooltip="1: the source prompt, which returns the picture best. 0: the negative prompt, which edits "
                    "most strongly. Sane: 0.7 to 1.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("negative", tooltip="Connect it as the negative of any sampler or guider."),
            ],
        )

    @classmethod
    def execute(cls, positive, negative=None, balance=1.0) -> io.NodeOutput:
        positive = require_conditioning(positive, "The positive prompt")
        if balance >= 1:
            return io.NodeOutput(positive)
        if negative is None:
            raise ValueError(
                "Balance is below 1 and no negative prompt is connected: connect one, or set balance to 1."
            )
        negative = require_conditioning(negative, "The negative prompt")
        if len(positive) != 1 or len(negative) != 1:
            raise ValueError("Combined prompts cannot be balanced: connect single prompts, or set balance to 1.")
        return io.NodeOutput([mixed(negative[0], positive[0], balance)])


def mixed(negative: list, positive: list, balance: float) -> list:
    """One entry between two; pooled outputs go along where both have one."""
    options = dict(positive[1])
    pooled = [entry[1].get("pooled_output") for entry in (negative, positive)]
    if all(isinstance(one, torch.Tensor) for one in pooled):
        empty, source = (one.unsqueeze(1) for one in pooled)
        options["pooled_output"] = between(empty, source, balance).squeeze(1)
    return [between(negative[0], positive[0], balance), options]


class ProximalGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestProximalGuidance",
            display_name="Proximal Guidance",
            category=CATEGORY,
            description="Lets guidance act only where source and edit clearly differ; with Negative-Prompt Inversion.",
            search_aliases=["ProxEdit", "proximal CFG"],
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with."),
                io.Float.Input(
                    "quantile",
                    default=0.7,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.01,
                    tooltip="Fraction of the picture where guidance is left out, the smallest differences first. 0 is "
                    "plain guidance. Sane: 0.5 to 0.8.",
                ),
                io.Combo.Input(
                    "threshold",
                    options=list(get_args(Threshold)),
                    default="hard",
                    optional=True,
                    advanced=True,
                    tooltip="hard: a difference counts fully or not at all. soft: what counts is made smaller, too.",
                ),
                Trajectory.Input(
                    "trajectory",
                    optional=True,
                    tooltip="The picture that is edited: where nothing changes the result is drawn to it.",
                ),
                io.Float.Input(
                    "pull",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="How far it is drawn to the trajectory's picture, 0 to 1. Counts with a trajectory alone.",
                ),
                io.Float.Input(
                    "pull_from",
                    default=0.6,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="From which fraction of the model's noise schedule on it is drawn. Sane: 0.5 to 0.8.",
                ),
                io.Int.Input(
                    "grow",
                    default=1,
                    min=0,
                    max=16,
                    optional=True,
                    advanced=True,
                    tooltip="Cells of the latent (8 pixels each) round a change that stay free of the pull.",
                ),
                advanced(
                    io.Combo,
                    "form",
                    "palimpsest: ours, the paper's formulas for each picture by itself. published: as the paper's code "
                    "does it, where threshold has no say; none is plain guidance. Their pull wants euler or ddim.",
                    options=list(get_args(Form)),
                    default="palimpsest",
                ),
                preset_input(PROXIMAL),
            ],
            outputs=[io.Model.Output("model", tooltip="A copy of the model, for any sampler or guider.")],
        )

    @classmethod
    @with_presets(PROXIMAL, PROXIMAL_SAMPLING)
    def execute(
        cls, model, quantile=0.7, threshold="hard", trajectory=None, pull=1.0, pull_from=0.6, grow=1, form="palimpsest"
    ) -> io.NodeOutput:
        require_unconditional(model, "Proximal Guidance")
        settings = {"pull": pull, "pull_from": pull_from, "grow": grow, "form": form}
        return io.NodeOutput(with_proximal_guidance(model, quantile, threshold, trajectory=trajectory, **settings))


NODES = (NullTextOptimize, NegativePromptInversion, ProximalGuidance)
