"""How each technique edits a case: a template of the pack with what the case says set in it, or a plain baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...tools.examples import example, set_widgets
from ...tools.own_model import with_checkpoint
from ...tools.steps import Problem
from ...tools.workflow import read, to_prompt
from .cases import Case

SEED = 0
STEPS, CFG, MEGAPIXELS = 50, 7.5, 0.25
"""Of the baselines, as the templates have them."""


@dataclass(frozen=True)
class Settings:
    """checkpoint: the file's name; None leaves a technique's own number as it is."""

    checkpoint: str
    steps: int | None = None
    cfg: float | None = None
    megapixels: float | None = None


@dataclass(frozen=True)
class Values:
    """What a prompt is made from: the case's words, the host's name of its picture, and the settings."""

    picture: str
    source: str
    target: str
    blend: str
    drag: str
    settings: Settings

    @classmethod
    def of(cls, case: Case, picture: str, settings: Settings) -> "Values":
        words = dict.fromkeys(word for word in case.blend if word)
        return cls(picture, escaped(case.source), escaped(case.target), ", ".join(words), case.drag, settings)

    def named(self) -> dict[str, Any]:
        steps, cfg = self.settings.steps, self.settings.cfg
        return {name: getattr(self, name) for name in ("picture", "source", "target", "blend", "drag")} | {
            "steps": steps,
            "cfg": cfg,
        }


def escaped(prompt: str) -> str:
    """Brackets of a set's prompts are no weights."""
    return prompt.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)").replace("\n", " ")


Prompt = dict[str, dict]
Builder = Callable[[Values, Mapping[str, dict]], tuple[Prompt, str]]


@dataclass(frozen=True)
class Template:
    """sets: node -> widget -> name of a value; fixed: node -> widget -> a value; shows: the node of the edit."""

    workflow: str
    sets: Mapping[str, Mapping[str, str]]
    shows: str
    fixed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __call__(self, values: Values, info: Mapping[str, dict]) -> tuple[Prompt, str]:
        """The prompt, in which nothing is computed but the edit, and the node that shows it."""
        settings = values.settings
        workflow = with_checkpoint(read(example(self.workflow)), info, settings.checkpoint, settings.megapixels)
        known = {name: value for name, value in values.named().items() if value is not None}
        for node in workflow["nodes"]:
            named = self.sets.get(str(node["id"]), {})
            chosen = {widget: known[name] for widget, name in named.items() if name in known}
            set_widgets(node, {**chosen, **self.fixed.get(str(node["id"]), {})}, info)
        return shown_alone(to_prompt(workflow, info), self.shows, info), self.shows


def shown_alone(prompt: Prompt, node: str, info: Mapping[str, dict]) -> Prompt:
    """The prompt with `node` as its only output, which leaves no file behind."""
    kept = {key: one for key, one in prompt.items() if key == node or not info[one["class_type"]].get("output_node")}
    return {**kept, node: preview(prompt[node]["inputs"]["images"])}


def preview(images: list) -> dict:
    return {"class_type": "PreviewImage", "inputs": {"images": images}}


def beginning(values: Values) -> Prompt:
    """What the baselines share: model, picture at the model's size, its latent, both prompts."""
    settings = values.settings
    text = lambda words: {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": words}}
    size = {"upscale_method": "area", "megapixels": settings.megapixels or MEGAPIXELS, "resolution_steps": 8}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": settings.checkpoint}},
        "2": {"class_type": "LoadImage", "inputs": {"image": values.picture}},
        "3": {"class_type": "ImageScaleToTotalPixels", "inputs": {"image": ["2", 0], **size}},
        "4": {"class_type": "VAEEncode", "inputs": {"pixels": ["3", 0], "vae": ["1", 2]}},
        "5": text(values.target),
        "6": text(""),
        "20": {"class_type": "VAEDecode", "inputs": {"samples": ["12", 0], "vae": ["1", 2]}},
        "21": preview(["20", 0]),
    }


def sdedit(depth: float) -> Builder:
    """SDEdit (arXiv 2108.01073): the picture noised to `depth` and sampled with the target prompt."""

    def build(values: Values, info: Mapping[str, dict]) -> tuple[Prompt, str]:
        sampling = {
            "model": ["1", 0], "positive": ["5", 0], "negative": ["6", 0], "latent_image": ["4", 0], "seed": SEED,
            "steps": values.settings.steps or STEPS, "cfg": values.settings.cfg or CFG, "sampler_name": "euler",
            "scheduler": "normal", "denoise": depth,
        }  # fmt: skip
        return {**beginning(values), "12": {"class_type": "KSampler", "inputs": sampling}}, "21"

    return build


def ddim(values: Values, info: Mapping[str, dict]) -> tuple[Prompt, str]:
    """Inverted with the source prompt, and sampled with the target's and nothing else."""
    steps, cfg = values.settings.steps or STEPS, values.settings.cfg or CFG
    text = {"clip": ["1", 1], "text": values.source}
    levels = {"model": ["1", 0], "scheduler": "normal", "steps": steps, "denoise": 1.0}
    invert = {"model": ["1", 0], "latent": ["4", 0], "sigmas": ["8", 0], "positive": ["7", 0], "cfg": 1.0,
              "refinement": 0, "pairing": "extrapolated"}  # fmt: skip
    guider = {"model": ["1", 0], "positive": ["5", 0], "negative": ["6", 0], "cfg": cfg}
    sampling = {"noise": ["9", 2], "guider": ["10", 0], "sampler": ["11", 0], "sigmas": ["8", 0],
                "latent_image": ["4", 0]}  # fmt: skip
    return {
        **beginning(values),
        "7": {"class_type": "CLIPTextEncode", "inputs": text},
        "8": {"class_type": "BasicScheduler", "inputs": levels},
        "9": {"class_type": "PalimpsestDDIMInvert", "inputs": invert},
        "10": {"class_type": "CFGGuider", "inputs": guider},
        "11": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "12": {"class_type": "SamplerCustomAdvanced", "inputs": sampling},
    }, "21"


@dataclass(frozen=True)
class Technique:
    """build: the prompt of a case. needs_source: without a source prompt it has nothing to go by; drags: it moves
    things, and is for sets of drags alone."""

    name: str
    title: str
    build: Builder
    needs_source: bool = True
    drags: bool = False


PICTURE = {"2": {"image": "picture"}}
# Of the graphs of Prompt-to-Prompt: captions, schedule, guidance; one row beside the source's.
CAPTIONS = {
    **PICTURE,
    "3": {"value": "source"},
    "4": {"value": "target"},
    "8": {"steps": "steps"},
    "13": {"cfg": "cfg"},
}
PAIR = {**PICTURE, "4": {"value": "source"}, "5": {"value": "target"}}
FACE = {"caption": "source", "edits": "target", "steps": "steps", "cfg": "cfg"}
DIFFEDIT = {"what_it_shows": "source", "what_it_becomes": "target", "steps": "steps", "cfg": "cfg"}
DRAWN, MOVE = {"canvas": "drag"}, {"caption": "source", "steps": "steps", "cfg": "cfg"}
ONE_EDIT = {"15": {"amount": 2}}
TECHNIQUES = {
    one.name: one
    for one in (
        Technique("edit-by-words", "Edit by Words", Template("Edit by words", {**PICTURE, "3": FACE}, "5")),
        Technique(
            "prompt-to-prompt",
            "Prompt-to-Prompt, anchored source",
            Template("Replace a word", CAPTIONS, "20", ONE_EDIT),
        ),
        Technique(
            "local-blend",
            "Prompt-to-Prompt, anchored source, local blend",
            Template("Change one thing of two", {**CAPTIONS, "11": {"blend_words": "blend"}}, "20"),
        ),
        Technique(
            "null-text",
            "Prompt-to-Prompt, null text",
            Template("Null text", {**CAPTIONS, "12": {"cfg": "cfg"}}, "22"),
        ),
        Technique(
            "change-only-that", "Change Only That", Template("Change only that", {**PICTURE, "3": DIFFEDIT}, "5")
        ),
        Technique("source-guidance", "Source Guidance", Template("Edit in few steps", PAIR, "18"), False),
        Technique("inversion-free", "Inversion-Free Edit", Template("Edit without inversion", PAIR, "17"), False),
        Technique("move-it", "Move It", Template("Move it", {**PICTURE, "3": DRAWN, "4": MOVE}, "6"), drags=True),
        Technique("ddim", "DDIM and the target prompt", ddim, False),
        Technique("sdedit", "SDEdit, depth 0.7", sdedit(0.7), False),
    )
}
USUAL = ("edit-by-words", "prompt-to-prompt", "change-only-that", "move-it", "ddim", "sdedit")


def chosen(names: str) -> list[Technique]:
    """The techniques of TECHNIQUES=a,b; the usual ones where none is named. Raises Problem for an unknown one."""
    wanted = names.replace(",", " ").split() or list(USUAL)
    unknown = [name for name in wanted if name not in TECHNIQUES]
    if unknown:
        raise Problem(f"TECHNIQUES={unknown[0]} is unknown: choose from {', '.join(TECHNIQUES)}.")
    return [TECHNIQUES[name] for name in dict.fromkeys(wanted)]
