"""Word Attention Mask and Edit Report: where a model attends to words, and what an edit has changed."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..guidance.edit_measures import fit_mask, measure
from ..host.edit_scores import with_scores
from ..host.family import latent_format
from ..host.prompt_to_prompt.patch import recording
from ..host.validation import require_latent
from ._edit_panel import as_encoded, prepared, report_means, stacked, tiles
from ._word_mask import maps_of_prompt, of_run, shown
from .prompt_to_prompt import CATEGORY, listed_phrases
from .sockets import Trajectory


class WordAttentionMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestWordAttentionMask",
            display_name="Word Attention Mask",
            category=CATEGORY,
            description="Shows where the model attends to chosen words, as a mask to edit with and a heat map.",
            search_aliases=["cross attention map", "DAAM", "heat map"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="Any that Prompt-to-Prompt knows; or Prompt-to-Prompt's, after sampling."
                ),
                io.Clip.Input("clip", tooltip="Reads the words."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=False,
                    default="",
                    tooltip="What the picture shows. Not needed for a run of Prompt-to-Prompt: it has its own texts.",
                ),
                io.String.Input(
                    "words",
                    default="",
                    dynamic_prompts=False,
                    tooltip="Words or phrases out of the text, between commas; their places are put together. Empty, "
                    "for a run of Prompt-to-Prompt: the very mask that its blend used.",
                ),
                Trajectory.Input("trajectory", optional=True, tooltip="The picture to read, from DDIM Invert."),
                io.Latent.Input(
                    "samples",
                    optional=True,
                    tooltip="Or the result of a sampling run. With Prompt-to-Prompt's model: what that run attended "
                    "to, one of its last four.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.01,
                    optional=True,
                    tooltip="How much attention a place must get to count, as a fraction of the strongest. Sane: 0.2 "
                    "to 0.6.",
                ),
                io.Int.Input(
                    "levels",
                    default=8,
                    min=1,
                    max=100,
                    optional=True,
                    advanced=True,
                    tooltip="Noise levels at which attention is read; each costs one evaluation. Sane: 4 to 16.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    optional=True,
                    advanced=True,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Of the noise that is put on samples; without effect otherwise.",
                ),
            ],
            outputs=[
                io.Mask.Output("mask", tooltip="1 where the words are, one mask a picture."),
                io.Image.Output("heat_map", tooltip="Black: not looked at, white: most."),
            ],
        )

    @classmethod
    def execute(
        cls, model, clip, text, words, trajectory=None, samples=None, threshold=0.3, levels=8, seed=0
    ) -> io.NodeOutput:
        chosen = listed_phrases(clip, words)
        if trajectory is None and samples is None:
            raise ValueError("There is no picture to read: connect a trajectory, or samples.")
        raw = None if trajectory is not None else require_latent(samples, "The samples", one_frame=True)
        record = None if raw is None or recording(model) is None else recording(model).of(raw)
        scale = latent_format(model).spacial_downscale_ratio
        if record is not None:
            return io.NodeOutput(*of_run(record, chosen, threshold, scale))
        if not chosen:
            raise ValueError("There are no words to find: write one or more that the text has.")
        maps, columns, size = maps_of_prompt(model, clip, text, chosen, trajectory, samples, levels, seed)
        return io.NodeOutput(*shown(maps, columns, size, threshold, scale))


class EditReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestEditReport",
            display_name="Edit Report",
            category=CATEGORY,
            description="Source, edit and what differs side by side, with the numbers of the field.",
            search_aliases=["before after", "compare", "psnr", "ssim", "PIE-Bench", "structure distance", "CLIP score"],
            is_output_node=True,
            inputs=[
                io.Image.Input("source", tooltip="The picture before; one, or as many as there are edits."),
                io.Image.Input("edit", tooltip="The picture after."),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Where the edit was meant to be: measured inside and outside."
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="Measures the structure distance: DINOv2 as in the field, or any other vision model.",
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="With a CLIP vision model of the same kind: the CLIP score."
                ),
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    dynamic_prompts=False,
                    optional=True,
                    tooltip="What the edit was to show, for the CLIP score; one text, or a line for each picture.",
                ),
                io.String.Input(
                    "notes",
                    default="",
                    dynamic_prompts=False,
                    optional=True,
                    force_input=True,
                    tooltip="What is to stand above the numbers, such as the note of the node that found the mask.",
                ),
            ],
            outputs=[
                io.Image.Output("panel", tooltip="Source, edit and difference with the numbers beneath."),
                io.Float.Output("psnr", tooltip="Outside the mask (without one: of all), decibels, the batch's mean."),
                io.Float.Output("ssim", tooltip="The same for the structural similarity."),
                io.Float.Output("changed", tooltip="Fraction of changed pixels, 0 to 1, the batch's mean."),
                io.String.Output("report", tooltip="All numbers."),
            ],
        )

    @classmethod
    def execute(cls, source, edit, mask=None, clip_vision=None, clip=None, text="", notes="") -> io.NodeOutput:
        source, mask = as_encoded(source, mask, edit)
        before, after = prepared(source, edit)
        rows = len(after)
        where = None if mask is None else fit_mask(mask, tuple(after.shape[1:3]), rows)
        if where is not None and len(where) != rows:
            raise ValueError(f"The mask is a batch of {len(where)} and the edit of {rows}: connect one, or as many.")
        found = with_scores(measure(before, after, where), before, after, clip_vision, clip, text)
        said = [line for line in (notes or "").splitlines() if line.strip()]
        made = stacked([tiles(before[i], after[i], where, i, found[i], said) for i in range(rows)])
        means = report_means(found)
        report = "\n\n".join("\n".join(one.lines()) for one in found)
        report = "\n".join([*said, report])
        return io.NodeOutput(made, *means, report, ui=ui.PreviewImage(made, cls=cls))


NODES = (WordAttentionMask, EditReport)
