"""Prompt-to-Prompt: an edit of a picture by its caption."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io, ui

from ..guidance.prompt_to_prompt.changed_things import changed_things, columns_of
from ..guidance.prompt_to_prompt.pairing import METHODS
from ..guidance.prompt_to_prompt.plan import EditPlan, LocalBlend, chosen_columns, plan_edits, uncovered
from ..guidance.prompt_to_prompt.windows import WordWindow, parse_windows
from ..host.attention.transformer import padding_of
from ..host.notify import notify
from ..host.prompt_to_prompt.negative_rows import negative_rows
from ..host.prompt_to_prompt.own_prompt import marked
from ..host.prompt_to_prompt.patch import with_prompt_to_prompt
from ..host.prompt_to_prompt.text_encoders import in_context
from ..host.prompt_to_prompt.tokens import as_rows, encode_tokens, read_prompt, reweighted
from ..host.prompts import FROM_CLIP
from ..host.validation import require_prompt_of
from ._presets import PROMPT_TO_PROMPT, PROMPT_TO_PROMPT_SAMPLING, preset_input, with_presets
from .sockets import advanced, optional

CATEGORY = "Palimpsest/editing"
# Layers whose shapes are kept, as settings of the plan.
WHERE = {
    "from half the latent's size": {"self_reduction": 2},
    "from a quarter": {"self_reduction": 4},
    "everywhere": {"self_reduction": 1},
    "first third of the blocks": {"self_reduction": 1, "depth": 1 / 3},
    "at most 32 x 32 cells": {"self_reduction": 1, "self_cells": 32 * 32},
}
# Whether words that replace others keep their own attention.
REPLACED = {"take the old word's place": False, "keep their own (Refine)": True}


def listed_phrases(clip, text: str) -> list:
    """Words or phrases as artists list them, between commas or on lines."""
    parts = [part.strip() for part in text.replace("\n", ",").split(",")]
    return [read_prompt(clip, part)[0] for part in parts if part]


def _place_inputs() -> list[io.Input]:
    """Where the picture may change and where it may not."""
    return [
        optional(io.String, "blend_words", "Words whose place alone may change, between commas: the old thing and "
                 "the new one. Left empty, the whole picture may.", default="", dynamic_prompts=False),
        advanced(io.Float, "blend_threshold", "How much attention a place must get to count, as a fraction of the "
                 "strongest. Lower is wider. Sane: 0.2 to 0.5.", default=0.4, min=0.0, max=1.0, step=0.05, round=0.01),
        advanced(io.Float, "blend_start", "Fraction of the steps before the blend begins. Sane: 0.1 to 0.4.",
                 default=0.2, min=0.0, max=1.0, step=0.05, round=0.01),
        advanced(io.Combo, "self_layers", "Layers whose shapes are kept; the finest hold textures. SDXL: half the "
                 "latent is all it has, 32 x 32 cells (published) the coarse ones. Transformers: all, or a third.",
                 options=list(WHERE), default=next(iter(WHERE))),
        optional(io.String, "keep_words", "Words whose place stays as it is, between commas: the thing in front, "
                 "where its ground changes. With or without blend_words.", default="", dynamic_prompts=False),
    ]  # fmt: skip


def _published_inputs() -> list[io.Input]:
    """What the published code has besides."""
    return [
        advanced(io.String, "word_steps", "Steps of its own for a word of the edits, as fractions with or without a "
                 "start: 'star: 0.4' or 'star: 0.1 to 0.4', between commas. All others have cross_steps.",
                 default="", dynamic_prompts=False),
        advanced(io.Combo, "replaced_word", "Where a word stands for another: at the old word's place, or where the "
                 "model puts it (the official Refine), which frees its shape.",
                 options=list(REPLACED), default=next(iter(REPLACED))),
        preset_input(PROMPT_TO_PROMPT),
    ]  # fmt: skip


class PromptToPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PalimpsestPromptToPrompt",
            display_name="Prompt-to-Prompt",
            category=CATEGORY,
            description="Edits a picture by its caption: change, add, remove or weigh words, and the rest stays.",
            search_aliases=[
                "P2P",
                "edit image",
                "edit by words",
                "replace word",
                "cross attention control",
                "word swap",
                "refine",
                "reweight",
                "local blend",
            ],
            # Its reading of the texts is shown again where the host remembers its outputs.
            has_intermediate_output=True,
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model to sample with: Stable Diffusion, Flux, Qwen-Image, Wan ..."
                ),
                io.Clip.Input("clip", tooltip="Encodes the texts."),
                io.String.Input(
                    "source",
                    multiline=True,
                    dynamic_prompts=False,
                    default="",
                    tooltip="What the picture shows, word for word as the trajectory was made with.",
                ),
                io.String.Input(
                    "edits",
                    multiline=True,
                    dynamic_prompts=False,
                    default="",
                    tooltip="What it is to show, one text a line; each line makes a picture. (word:2) makes a word "
                    "count double, (word:0) takes its effect away.",
                ),
                io.Float.Input(
                    "cross_steps",
                    default=0.8,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.01,
                    tooltip="Fraction of the steps in which words keep their places. More keeps the layout, less gives "
                    "freedom. Sane: 0.2 to 0.9.",
                ),
                io.Float.Input(
                    "self_steps",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.01,
                    tooltip="Fraction of the steps in which shapes stay. Lower changes outlines. Sane: 0 to 0.8.",
                ),
                *_place_inputs(),
                io.Conditioning.Input(
                    "source_negative",
                    optional=True,
                    tooltip="Brings the source back where no Trajectory Anchor holds it: from NullText Optimize or "
                    "Negative-Prompt Inversion. For the source's row alone; its edits get the negative.",
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="Of the edits. Left open, the empty prompt, which edits best."
                ),
                advanced(
                    io.Combo,
                    "pairing",
                    "How words are matched. By phrase: a head becomes a head, and what one text has alone is new or "
                    "gone. From the right: for other languages than English.",
                    options=list(METHODS),
                    default=METHODS[0],
                ),
                advanced(
                    io.Boolean,
                    "auto_blend",
                    "On: where blend_words is empty, the things that a text changes are its blend words, by their "
                    "nouns. Off: the whole picture may change then.",
                    default=False,
                ),
                *_published_inputs(),
            ],
            outputs=[
                io.Model.Output("model", tooltip="Sample with it a batch of one picture more than there are edits."),
                io.Conditioning.Output("positive", tooltip="A row a text, the source first: the positive prompt."),
                io.String.Output("report", tooltip="How the texts were matched, a line a picture."),
                io.Conditioning.Output("negative", tooltip="A row a text: the negative prompt that goes with it."),
                io.Int.Output("rows", tooltip="How many pictures to sample, the source among them."),
            ],
        )

    @classmethod
    @with_presets(PROMPT_TO_PROMPT, PROMPT_TO_PROMPT_SAMPLING)
    def execute(
        cls,
        model,
        clip,
        source,
        edits,
        cross_steps=0.8,
        self_steps=0.5,
        blend_words="",
        blend_threshold=0.4,
        blend_start=0.2,
        self_layers=next(iter(WHERE)),
        keep_words="",
        source_negative=None,
        negative=None,
        pairing=METHODS[0],
        auto_blend=False,
        word_steps="",
        replaced_word=next(iter(REPLACED)),
    ) -> io.NodeOutput:
        texts = [source, *(line.strip() for line in edits.splitlines() if line.strip())]
        read = [read_prompt(clip, text) for text in texts]
        windows = [WordWindow(read_prompt(clip, word)[0], *span) for word, *span in parse_windows(word_steps)]

        def planned(prompts) -> EditPlan:
            blend = _blend(clip, prompts, blend_words, keep_words, blend_start, blend_threshold)
            settings = {
                "cross_steps": cross_steps, "self_steps": self_steps, "blend": blend, "pairing": pairing,
                "word_steps": windows, "own_maps": REPLACED[replaced_word],
            }  # fmt: skip
            return plan_edits(prompts[0], prompts[1:], **settings, **WHERE[self_layers])

        plan = planned([prompt for prompt, _ in read])
        _require_covered(plan, blend_words)
        with_prompt_to_prompt(model, plan)  # a model that is not served is refused before anything is encoded
        encoded, padding = _encoded(clip, [tokens for _, tokens in read], plan), padding_of(model)
        if padding is not None:
            plan = planned([in_context(prompt, one, model) for (prompt, _), one in zip(read, encoded)])
        named = []
        if auto_blend and not blend_words.strip():
            plan, named = _by_itself(plan, pairing, blend_start, blend_threshold)
        patched, positive = with_prompt_to_prompt(model, plan), marked(as_rows(encoded, padding), plan)
        require_prompt_of(model, positive, FROM_CLIP)
        negative = encode_tokens(clip, clip.tokenize("")) if negative is None else negative
        rows = negative_rows(source_negative, negative, len(plan.edits), padding)
        for warning in plan.warnings():
            notify(warning)
        report = "\n".join([plan.report(), *named])
        return io.NodeOutput(patched, positive, report, rows, plan.rows, ui=ui.PreviewText(report))


def _encoded(clip, tokens: list, plan: EditPlan) -> list[list]:
    """A CONDITIONING a text. Emphasis of an edit acts on the attention and not, as elsewhere, on the embedding; the
    source's own stays as it was."""
    edits = [reweighted(clip, one, a.encoded.tolist()) for one, a in zip(tokens[1:], plan.alignments)]
    return [encode_tokens(clip, one) for one in (tokens[0], *edits)]


def _blend(clip, prompts, blend_words: str, keep_words: str, start: float, threshold: float) -> LocalBlend | None:
    """The local blend that the chosen words make; None without any."""
    words, kept = listed_phrases(clip, blend_words), listed_phrases(clip, keep_words)
    if not (words or kept):
        return None
    columns, kept = chosen_columns(prompts, words), chosen_columns(prompts, kept, name="The words to keep")
    return LocalBlend(columns, start, threshold, kept)


def _by_itself(plan: EditPlan, method: str, start: float, threshold: float) -> tuple[EditPlan, list[str]]:
    """The plan with a blend at the things that its edits change, and a line a picture that names them."""
    pairs = [changed_things(plan.source, edit, found, method) for edit, found in zip(plan.edits, plan.alignments)]
    old, new = ([columns_of(words) for words in side] for side in zip(*pairs))
    columns = (tuple(dict.fromkeys(column for one in old for column in one)), *new)
    kept = plan.blend.kept if plan.blend else ()
    blend = LocalBlend(columns, start, threshold, kept, sources=tuple(old))
    things = [", ".join(dict.fromkeys(word.text for side in both for word in side)) for both in pairs]
    return replace(plan, blend=blend), [f"row {i}, may change: {thing}" for i, thing in enumerate(things, 1)]


def _require_covered(plan, blend_words: str) -> None:
    if blend_words.strip() and uncovered(plan):
        raise ValueError(
            f"The blend words stand neither in the source nor in edited text {uncovered(plan)[0]}: name the thing that "
            "changes there as well."
        )


NODES = (PromptToPrompt,)
