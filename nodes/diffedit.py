"""DiffEdit Mask: where a picture has to change if its text changes."""

from __future__ import annotations

from typing import get_args

import torch
from comfy_api.latest import io

from ..guidance.diffedit.heat_map import (
    DRAFTS,
    HEAD_START,
    SLIGHT,
    STEADY,
    heat_map,
    is_noise,
    new_shape,
    off_ground,
    steadiness,
    strongest,
)
from ..guidance.diffedit.masks import MaskRecipe, Outliers, Threshold, find, finish, roomy, to_size
from ..host.diffedit.head_start import with_head_start
from ..host.diffedit.heat_map import MapRecipe, Prompts, compare, same_content
from ..host.images import batch_items, picture_frame
from ..host.notify import notify
from ..host.validation import require_conditioning, require_finite, require_latent
from ._presets import DIFFEDIT_MASK, preset_input, with_presets

SAME_TEXTS = (
    "The reference and the query prompt are the same, so that nothing but noise would tell them apart: write into "
    "the query what the picture is to become."
)
EMPTY = (
    "The mask of picture {0} is empty, and the picture will stay as it is: lower 'level' or choose another threshold, "
    "name more of the change in the prompts, or widen the mask with 'grow'."
)
HARDLY = (
    "The two texts hardly differ to the model on picture {0} (by {1:.1f} % of the noise where they differ most), so "
    "the mask may mean nothing: change a word that names something to be seen in the picture."
)
CHANCE = (
    "The map of picture {0} depends on the noises (two halves of them agree to {1:.0f} %), so the mask is half chance: "
    "take more noises or another strength, or name the change more plainly."
)


class DiffEditMask(io.ComfyNode):
    """Find the part of a picture that would change from one text to another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestDiffEditMask",
            display_name="DiffEdit Mask",
            category="Palimpsest/editing",
            description=(
                "Finds the part of a picture that has to change when its text changes: the picture is half drowned in "
                "noise, and the model says, for the old and for the new text, what it sees there. Where the two differ "
                "is the mask."
            ),
            search_aliases=["diffedit", "automatic mask", "text mask", "semantic mask", "mask from prompt"],
            inputs=[*_main_inputs(), *_mask_inputs(), *_rare_inputs(), preset_input(DIFFEDIT_MASK)],
            outputs=[
                io.Mask.Output("mask", tooltip="Zeros and ones at the picture's size: 1 = change, 0 = keep."),
                io.Image.Output(
                    "heat_map",
                    tooltip="The map behind the mask, from 0 to 1, grey: how strongly each place would change. Through "
                    "Image To Mask it serves as a strength for Differential Diffusion.",
                ),
                io.Mask.Output("soft_mask", tooltip="The mask with the soft edge round it, for pasting and blending."),
                io.String.Output("note", tooltip="What was found, in words: area, threshold, cost, warnings."),
                io.Latent.Output(
                    "change",
                    tooltip="Which way the picture has to change where the mask is, for DiffEdit Head Start; found "
                    "with the mask, at no cost. With 'complement' it is nothing.",
                ),
            ],
        )

    @classmethod
    @with_presets(DIFFEDIT_MASK)
    def execute(
        cls, model, reference, query, latent, seed, noises, strength, threshold, level, outliers, gap, fill_holes,
        parts, complement, grow, soft_edge, reference_negative=None, query_negative=None, cfg=7.5, picture=None,
        room=0.0,
    ) -> io.NodeOutput:  # fmt: skip
        samples = require_latent(latent, model=model)
        prompts = _prompts(reference, query, reference_negative, query_negative)
        _require_strength(strength)
        samples, items = batch_items(latent, samples, [reference, query, reference_negative, query_negative])
        frame = picture_frame(model, samples, picture)
        recipe = MaskRecipe(outliers, threshold, level, gap, fill_holes, parts, complement, grow, soft_edge, room)
        maps, change, cost = compare(model, prompts, samples, MapRecipe(noises, strength, seed, cfg), items)
        raw = heat_map(maps, trim=recipe.trims)
        require_finite(raw, "The model's prediction", "load the model in fp32 or bf16, or use another one")
        silent = is_noise(raw)
        if silent.all():
            raise ValueError(SAME_TEXTS)
        mask, rescaled = find(raw, recipe)
        mask[silent] = False
        moved = off_ground(change, mask & (not complement), model.model.process_latent_in(samples))
        hard, soft = finish(roomy(mask, new_shape(moved), recipe), frame, recipe)
        image = to_size(rescaled, frame)[..., None].repeat(1, 1, 1, 3)
        note = _note(hard, silent, cost, _doubts(maps, raw, silent))
        return io.NodeOutput(hard, image, soft, note, {"samples": moved})


def _require_strength(strength: float) -> None:
    if not 0 < strength < 1:
        left = "no noise" if strength <= 0 else "no picture"
        raise ValueError(
            f"The noise strength is {strength:g}, which leaves {left} to compare the prompts on: choose one between "
            "0.3 and 0.7."
        )


def _prompts(reference, query, reference_negative, query_negative) -> Prompts:
    """The CONDITIONINGs, or a sentence."""
    require_conditioning(reference, "The reference prompt")
    require_conditioning(query, "The query prompt")
    if (reference_negative is None) != (query_negative is None):
        missing = "reference_negative" if reference_negative is None else "query_negative"
        raise ValueError(
            f"'{missing}' is not connected, but the other negative is: connect both, or none (equal negatives change "
            "nothing)."
        )
    prompts = Prompts(reference, query, reference_negative, query_negative)
    if same_content(reference, query) and not prompts.guided:
        raise ValueError(SAME_TEXTS)
    return prompts


def _doubts(maps: torch.Tensor, raw: torch.Tensor, silent: torch.Tensor) -> list[str]:
    """Why a map may mean nothing although there is one: maps (n, B, h, w), their mean raw (B, h, w)."""
    doubts = []
    for i, (most, alike) in enumerate(zip(strongest(raw).tolist(), steadiness(maps).tolist(), strict=True)):
        if not silent[i] and most < SLIGHT:
            doubts.append(HARDLY.format(i, 100 * most))
        elif not silent[i] and alike < STEADY:
            doubts.append(CHANCE.format(i, 100 * max(alike, 0)))
    return doubts


def _note(hard: torch.Tensor, silent: torch.Tensor, cost: int, doubts: list[str]) -> str:
    """What was found, in words; what went wrong also stands on the node."""
    lines = [f"Picture {i}: {100 * float(m.mean()):.1f} % of the area." for i, m in enumerate(hard)]
    warnings = [EMPTY.format(i) for i, m in enumerate(hard) if not m.any() and not silent[i]]
    warnings += [f"Picture {i}: {SAME_TEXTS}" for i, same in enumerate(silent) if same]
    warnings += doubts
    if warnings:
        notify(" ".join(warnings))
    return "\n".join([*lines, *warnings, f"{cost} samples of the network."])


def _main_inputs() -> list:
    return [
        io.Model.Input("model", tooltip="Any model whose latents are pictures (not Qwen-Image and video models); "
                       "LoRAs, ControlNets and hooks are honoured."),
        io.Conditioning.Input(
            "reference",
            tooltip="What the picture shows now. An empty prompt works, but then everything that the query names "
            "lights up, changed or not.",
        ),
        io.Conditioning.Input(
            "query",
            tooltip="What the picture is to show: the reference with the words changed. A batch finds a mask each.",
        ),
        io.Latent.Input("latent", tooltip="The picture, from VAE Encode; a batch gets a mask for each picture."),
        io.Int.Input(
            "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=False,
            tooltip="Chooses the noises. A picture has its own, whatever batch it comes in.",
        ),
        io.Int.Input(
            "noises", default=10, min=1, max=64,
            tooltip="How many noises are averaged: more give a steadier mask and take longer (two samples of the "
            "network each). 4 is quick, 10 is the paper's, above 20 little is gained.",
        ),
        io.Float.Input(
            "strength", default=0.5, min=0.0, max=1.0, step=0.01,
            tooltip="How deep the picture is drowned in noise, as a share of the schedule. Low (0.3) finds fine "
            "detail, high (0.7) whole objects; 0.5 is the paper's. 0 and 1 leave nothing to compare.",
        ),
        io.Combo.Input(
            "threshold", options=list(get_args(Threshold)), default="adaptive",
            tooltip="adaptive: follows the size of the object (Otsu's). fixed: 'level', as in the paper. 1.5 x mean: "
            "as in diffusers' pipeline; it never marks more than two thirds of a picture.",
        ),
    ]  # fmt: skip


def _mask_inputs() -> list:
    return [
        io.Float.Input(
            "level", default=0.5, min=0.0, max=1.0, step=0.01, advanced=True,
            tooltip="The fixed threshold, in the heat map from 0 to 1. Lower marks more; 0.25 to 0.75 make sense.",
        ),
        io.Combo.Input(
            "outliers", options=list(get_args(Outliers)), default=MaskRecipe.outliers, advanced=True,
            tooltip="How glaring values are kept from ruling the map: each place's largest and smallest of all noises "
            "left out, or the map cut off at three times its mean, or beyond the quartiles as in a box plot. The last "
            "two flatten the map and mark more.",
        ),
        io.Int.Input(
            "gap", default=MaskRecipe.gap, min=0, max=8, advanced=True,
            tooltip="Closes gaps of up to twice as many latent cells (8 pixels each). 0 leaves all open; 1 or 2 close "
            "the outline of an object that changes its shape.",
        ),
        io.Boolean.Input(
            "fill_holes", default=True, tooltip="Marks what is enclosed too, so that outlines become objects. With the "
            "adaptive threshold a faint outline, or one that the picture's border cuts off, encloses as well.",
        ),
        io.Int.Input(
            "parts", default=0, min=0, max=64,
            tooltip="Keeps only so many connected parts, the largest first. 0 keeps all; 1 drops every stray spot.",
        ),
        io.Boolean.Input(
            "complement", default=False,
            tooltip="Marks everything but what was found: name a change of the object to get the background.",
        ),
        io.Int.Input(
            "grow", default=0, min=-256, max=256,
            tooltip="Pixels by which the mask is widened; below 0 it is narrowed. 4 to 12 for edits, 24 to 36 where a "
            "thing gets another shape and another colour at once.",
        ),
        io.Int.Input(
            "soft_edge", default=8, min=0, max=256,
            tooltip="Width in pixels of the ramp round the soft mask. The hard mask has none.",
        ),
    ]  # fmt: skip


def _rare_inputs() -> list:
    return [
        io.Conditioning.Input(
            "reference_negative", optional=True,
            tooltip="Only if the two prompts have negatives of their own; it doubles the cost. With one negative for "
            "both leave it open: guidance would only scale the map.",
        ),
        io.Conditioning.Input("query_negative", optional=True, tooltip="The query's own negative; see the other one."),
        io.Float.Input(
            "cfg", default=7.5, min=0.0, max=30.0, step=0.1, optional=True, advanced=True,
            tooltip="Guidance away from the two negatives; without them it changes nothing. 5 to 10.",
        ),
        io.Image.Input(
            "picture", optional=True,
            tooltip="The picture itself, only for its size: sides that are no multiple of 8 were cropped by VAE "
            "Encode, and the mask is then set back into the whole picture.",
        ),
        io.Float.Input(
            "room", default=0.0, min=0.0, max=1.0, step=0.05, optional=True,
            tooltip="Where another shape is to come: widens the mask by this share of its own side, of a small one by "
            "this share of half the picture's. 0.15 to 0.25 for edits, 0 for exact masks.",
        ),
    ]  # fmt: skip


class DiffEditHeadStart(io.ComfyNode):
    """Let an edit begin some way along the change that DiffEdit Mask has found."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestDiffEditHeadStart",
            display_name="DiffEdit Head Start",
            category="Palimpsest/editing",
            description=(
                "Lets an edit begin some way along the change that DiffEdit Mask has found: old colours and patterns "
                "go more surely, the more so in shallow edits, and small objects stay where they are in deep ones. A "
                "new shape is drafted first, which costs one step; all else costs nothing."
            ),
            search_aliases=["diffedit", "edit direction", "delta"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model to sample with, after Trajectory Anchor where there is one; it is not "
                    "changed, the output is a copy.",
                ),
                io.Latent.Input("change", tooltip="From DiffEdit Mask, for the same picture."),
                io.Float.Input(
                    "head_start", default=HEAD_START, min=0.0, max=20.0, step=0.1,
                    tooltip="How far along: 0 is the paper's edit, 3 to 5 help at every depth, with 10 colours "
                    "overshoot.",
                ),
                io.Int.Input(
                    "drafts", default=DRAFTS, min=0, max=4, optional=True,
                    tooltip="Only where another shape is to come: so often the model drafts the new picture before the "
                    "run, a step each, and the run starts from the draft instead of the old shape. 1 is enough; 0 "
                    "keeps nearer to the old one.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, for any sampler and guider that samples this picture.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, change, head_start, drafts=DRAFTS) -> io.NodeOutput:
        found = require_latent(change, "The change", model)
        return io.NodeOutput(with_head_start(model, found, head_start, drafts=drafts))


NODES = (DiffEditMask, DiffEditHeadStart)
