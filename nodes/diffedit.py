"""DiffEdit Mask: where a picture has to change if its text changes."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..guidance.diffedit.heat_map import (
    SLIGHT,
    STEADY,
    heat_map,
    is_noise,
    new_shape,
    off_ground,
    steadiness,
    strongest,
)
from ..guidance.diffedit.masks import MaskRecipe, find, finish, one_level, roomy, to_size
from ..host.diffedit.heat_map import MapRecipe, Prompts, compare, same_content
from ..host.images import batch_items, picture_frame
from ..host.notify import notify
from ..host.progress import Interruptible
from ..host.validation import require_conditioning, require_finite, require_latent
from ._diffedit_inputs import (
    edge_inputs,
    noise_inputs,
    part_inputs,
    prompt_inputs,
    rare_inputs,
    shape_input,
    threshold_inputs,
)
from ._presets import DIFFEDIT_MASK, preset_input, with_presets

SAME_TEXTS = (
    "The reference and the query prompt are the same, so they differ by noise alone: write into "
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
    "The map of picture {0} depends on the noises (two halves of them correlate by {1:.0f} %), so the mask is partly "
    "chance: take more noises or another strength, or name the change more clearly."
)
FAINT = (
    "The map of picture {0} has no two levels, as where a thing is small and faint, so the mask may be much too large: "
    "look at heat_map, and name the change more clearly, take more noises, or paint the mask."
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
                "Finds the part of a picture that has to change when its text changes: the picture gets noise, and the "
                "model predicts it from the old and from the new text. Where the two predictions differ is the mask."
            ),
            search_aliases=[
                "diffedit",
                "remove object",
                "inpaint mask",
                "inpaint",
                "automatic mask",
                "text mask",
                "semantic mask",
                "mask from prompt",
            ],
            inputs=[
                *prompt_inputs(),
                *noise_inputs(),
                *threshold_inputs(),
                *part_inputs(),
                *edge_inputs(),
                *rare_inputs(),
                preset_input(DIFFEDIT_MASK),
                shape_input("room, and on what the change keeps of the ground"),
            ],
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
                    tooltip="The direction in which the picture has to change within the mask, for DiffEdit Head "
                    "Start; it comes with the mask, at no cost. With 'complement' it is zero.",
                ),
            ],
        )

    @classmethod
    @with_presets(DIFFEDIT_MASK)
    def execute(
        cls,
        model,
        reference,
        query,
        latent,
        seed,
        noises,
        strength,
        threshold,
        level,
        outliers,
        gap,
        fill_holes,
        parts,
        complement,
        grow,
        soft_edge,
        reference_negative=None,
        query_negative=None,
        cfg=7.5,
        picture=None,
        room=0.0,
        shape_changes="detect",
    ) -> io.NodeOutput:
        samples = require_latent(latent, model=model)
        prompts = _prompts(reference, query, reference_negative, query_negative)
        _require_strength(strength)
        samples, items = batch_items(latent, samples, [reference, query, reference_negative, query_negative])
        frame = picture_frame(model, samples, picture)
        recipe = MaskRecipe(
            outliers=outliers,
            threshold=threshold,
            level=level,
            gap=gap,
            fill_holes=fill_holes,
            parts=parts,
            complement=complement,
            grow=grow,
            soft_edge=soft_edge,
            room=room,
        )
        noising = MapRecipe(noises=noises, strength=strength, seed=seed, cfg=cfg)
        maps, change, cost = compare(model, prompts, samples, noising, items, latent.get("noise_mask"))
        raw = heat_map(maps, trim=recipe.trims)
        silent = _silent(raw)
        mask, rescaled = find(raw, recipe)
        mask[silent] = False
        moved = off_ground(change, mask & (not complement), model.model.process_latent_in(samples), shape_changes)
        with Interruptible():
            hard, soft = finish(roomy(mask, new_shape(moved, shape_changes), recipe), frame, recipe)
        note = _note(hard, silent, cost, _doubts(maps, raw, silent) + _faint(raw, silent, recipe))
        return io.NodeOutput(hard, _grey(to_size(rescaled, frame)), soft, note, {"samples": moved})


def _silent(raw: torch.Tensor) -> torch.Tensor:
    """(B, h, w) -> (B,) bool: where the two texts change nothing. Raises ValueError where that is so everywhere."""
    require_finite(raw, "The model's prediction", "load the model in fp32 or bf16, or use another one")
    silent = is_noise(raw)
    if silent.all():
        raise ValueError(SAME_TEXTS)
    return silent


def _grey(maps: torch.Tensor) -> torch.Tensor:
    """(B, H, W) -> IMAGE."""
    return maps[..., None].repeat(1, 1, 1, 3)


def _require_strength(strength: float) -> None:
    if not 0 < strength < 1:
        left = "no noise" if strength <= 0 else "no picture"
        raise ValueError(
            f"The noise strength is {strength:g}, which leaves {left} to compare the prompts on: choose one between "
            "0.3 and 0.7."
        )


def _prompts(reference, query, reference_negative, query_negative) -> Prompts:
    """The CONDITIONINGs. Raises ValueError where one is missing, or both texts are the same."""
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
    """Why a map may mean nothing: sentences for the node. maps: (n, B, h, w); raw: (B, h, w), their mean."""
    doubts = []
    for i, (most, alike) in enumerate(zip(strongest(raw).tolist(), steadiness(maps).tolist(), strict=True)):
        if not silent[i] and most < SLIGHT:
            doubts.append(HARDLY.format(i, 100 * most))
        elif not silent[i] and alike < STEADY:
            doubts.append(CHANCE.format(i, 100 * max(alike, 0)))
    return doubts


def _faint(raw: torch.Tensor, silent: torch.Tensor, recipe: MaskRecipe) -> list[str]:
    """Sentences for pictures whose adaptive mask may be noise. raw: (B, h, w)."""
    if recipe.threshold != "adaptive":
        return []
    return [FAINT.format(i) for i, chance in enumerate(one_level(raw) & ~silent.to(raw.device)) if chance]


def _note(hard: torch.Tensor, silent: torch.Tensor, cost: int, doubts: list[str]) -> str:
    """What was found, in words; what went wrong also stands on the node."""
    lines = [f"Picture {i}: {100 * float(m.mean()):.1f} % of the area." for i, m in enumerate(hard)]
    warnings = [EMPTY.format(i) for i, m in enumerate(hard) if not m.any() and not silent[i]]
    warnings += [f"Picture {i}: {SAME_TEXTS}" for i, same in enumerate(silent) if same]
    warnings += doubts
    if warnings:
        notify(" ".join(warnings))
    return "\n".join([*lines, *warnings, f"{cost} samples of the network."])


NODES = (DiffEditMask,)
