"""Prompt-to-Prompt on Papercut's test split: does the recogniser find what a new caption says, and is the rest kept?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...papercut.export import FILE
from ...papercut.recogniser import FILE as JUDGE_FILE
from ..context import every_core
from ..rows import Row
from ..word_edits import KINDS, WordEdit, word_edits

TECHNIQUE = "Prompt-to-Prompt"
TECHNIQUES = (TECHNIQUE,)
EDITS, STEPS, CFG, GROUP = 105, 10, 7.5, 15
SUCCESS, BACKGROUND = ">= 80", ">= 30"
# cross_steps and self_steps, for every kind of edit: the node's defaults.
SHARES = (0.8, 0.4)
# A mask as one paints it, so many pixels larger than the thing; and the distance from it at which a decoder no longer
# mixes in what has changed.
GROWN, REACH = 16, 24


class World(NamedTuple):
    """The shipped model as stock nodes give it, and the judge."""

    model: object
    clip: object
    vae: object
    sigmas: Tensor
    judge: object


class Case(NamedTuple):
    """One edit with its picture (256, 256, 3), the trajectory and the source's prompt."""

    edit: WordEdit
    picture: Tensor
    trajectory: object
    positive: list


def load_world() -> World:
    import comfy.sd
    from comfy.samplers import calculate_sigmas

    from ...papercut.companion.model import register
    from ...papercut.recogniser import load_recogniser

    register()
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(FILE))
    sigmas = calculate_sigmas(model.get_model_object("model_sampling"), "normal", STEPS).cpu()
    return World(model, clip, vae, sigmas, load_recogniser())


def encode(world: World, text: str) -> list:
    return world.clip.encode_from_tokens_scheduled(world.clip.tokenize(text))


def cases(world: World, edits: Sequence[WordEdit]) -> Iterator[Case]:
    """Every edit's picture, inverted with its caption; several at a time."""
    from ...host.words import as_rows
    from ...inversion.trajectory import Trajectory
    from ...nodes.inversion import DDIMInvert

    for first in range(0, len(edits), GROUP):
        group = edits[first : first + GROUP]
        pictures = torch.stack([edit.before.render().movedim(0, -1) for edit in group])
        prompts = [encode(world, edit.caption) for edit in group]
        made = DDIMInvert.execute(
            world.model, {"samples": world.vae.encode(pictures)}, world.sigmas, positive=as_rows(prompts)
        ).args[0]  # fmt: skip
        for i, edit in enumerate(group):
            latents = made.latents[:, i : i + 1].contiguous()
            facts = (edit.caption, made.cfg, made.fingerprint, made.prediction, made.latent_format)
            yield Case(edit, pictures[i], Trajectory(made.sigmas, latents, *facts), prompts[i])


# Editors: each makes the edited picture (256, 256, 3) of a case


def sampled(world: World, model, case: Case, positive: list, negative: list, rows: int) -> Tensor:
    """The last row's picture of a stock Euler run from the inverted noise."""
    import comfy.sample
    import comfy.samplers

    start = world.model.model.process_latent_out(case.trajectory.latents[-1]).expand(rows, -1, -1, -1).contiguous()
    latents = comfy.sample.sample_custom(
        model, torch.zeros_like(start), CFG, comfy.samplers.sampler_object("euler"), world.sigmas, positive, negative,
        start, disable_pbar=True, seed=0,
    )  # fmt: skip
    return world.vae.decode(latents[-1:])[0, ..., :3].float().cpu()


def by_prompt(world: World, case: Case) -> Tensor:
    """The new caption and nothing else."""
    return sampled(world, world.model, case, encode(world, case.edit.edited), encode(world, ""), 1)


def by_words(
    world: World, case: Case, *, negative: str = "", anchor: bool = True, mask: Tensor | None = None,
    blend: bool = False,
) -> Tensor:  # fmt: skip
    """Prompt-to-Prompt. negative: "", "source" or "null text"; anchor: whether the source's row is held to its
    trajectory, and with a mask (1, 256, 256) the edit's row outside of it; blend: by the edit's words."""
    from ...guidance.anchor import Anchor
    from ...host.anchor import anchored
    from ...nodes.prompt_to_prompt import PromptToPrompt

    edit = case.edit
    model, positive, _ = PromptToPrompt.execute(
        world.model, world.clip, edit.caption, edit.edited, *SHARES, edit.words if blend else ""
    ).args
    if anchor:
        model = anchored(model, Anchor(case.trajectory, mask, rows=(0,)))
    return sampled(world, model, case, positive, negative_for(world, case, negative), 2)


def negative_for(world: World, case: Case, kind: str) -> list:
    from ...host.null_text import fit_null_text
    from ...inversion.null_text import Recipe

    if kind == "source":
        return case.positive
    empty = encode(world, "")
    if kind != "null text":
        return empty
    return fit_null_text(world.model, case.trajectory, case.positive, empty, Recipe(CFG))[0]


def grown(mask: Tensor, pixels: int) -> Tensor:
    """(256, 256) bool -> (1, 256, 256) of 0 and 1, larger by `pixels` on every side."""
    return F.max_pool2d(mask[None].float(), 2 * pixels + 1, 1, pixels)


BLEND, MASK = "anchored source, local blend", "anchored outside a mask"
EDITORS: dict[str, Callable[[World, Case], Tensor]] = {
    "plain DDIM": by_prompt,
    "null text": lambda world, case: by_words(world, case, negative="null text", anchor=False),
    "negative-prompt": lambda world, case: by_words(world, case, negative="source", anchor=False),
    "anchored source": by_words,
    BLEND: lambda world, case: by_words(world, case, blend=True),
    MASK: lambda world, case: by_words(world, case, mask=grown(case.edit.mask, GROWN)),
}


# Judging


def succeeded(world: World, made: Tensor, edit: WordEdit) -> bool:
    """Whether the judge reads off the picture what the new caption says."""
    (reading,) = world.judge.read(made.movedim(-1, 0)[None])
    return all(getattr(reading, name) == word for name, word in edit.answers.items())


def background(made: Tensor, case: Case, reach: int = 0) -> float | None:
    """PSNR outside the true mask, or `reach` pixels outside of it; None where nothing of the picture lies there."""
    from ...inversion.quality import psnr

    outside = 1 - grown(case.edit.mask, reach)
    return float(psnr(made[None], case.picture[None], mask=outside)) if bool(outside.any()) else None


def mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


class Found(NamedTuple):
    """One picture, judged: success in per cent, and the background's PSNR, close to the edit and away from it."""

    kind: str
    success: float
    background: float
    away: float | None


def judged(world: World, case: Case, made: Tensor) -> Found:
    success = 100.0 * succeeded(world, made, case.edit)
    return Found(case.edit.kind, success, background(made, case), background(made, case, GROWN + REACH))


def measured(count: int, split: str = "test") -> dict[str, list[Found]]:
    """Every editor's pictures, judged; and those of the VAE alone."""
    found: dict[str, list[Found]] = {name: [] for name in (*EDITORS, "VAE alone")}
    with torch.inference_mode(), every_core():
        world = load_world()
        for case in cases(world, word_edits(count, split)):
            raw = world.model.model.process_latent_out(case.trajectory.latents[0])
            found["VAE alone"].append(judged(world, case, world.vae.decode(raw)[0, ..., :3].float().cpu()))
            for name, editor in EDITORS.items():
                found[name].append(judged(world, case, editor(world, case)))
    return found


def rows(context) -> Iterable[Row]:
    known = FILE.exists() and JUDGE_FILE.exists()
    found = measured(EDITS) if known else {name: [] for name in (*EDITORS, "VAE alone")}
    for name in EDITORS:
        target = "" if name == "plain DDIM" else SUCCESS
        value = mean(one.success for one in found[name])
        yield context.row(TECHNIQUE, f"edit success, {EDITS} edits", name, value, "%", target)
    for name in (BLEND, MASK):
        for kind in KINDS:
            value = mean(one.success for one in found[name] if one.kind == kind)
            yield context.row(TECHNIQUE, f"edit success, {kind}", name, value, "%")
    for name, pictures in found.items():
        target = BACKGROUND if name not in ("plain DDIM", "VAE alone") else ""
        value = mean(one.background for one in pictures)
        yield context.row(TECHNIQUE, "background outside the true mask", name, value, "dB", target)
    away = {name: mean(one.away for one in found[name]) for name in (MASK, "VAE alone")}
    behind = away["VAE alone"] - away[MASK] if known else None
    measure = f"background behind the VAE's bound, {REACH} pixels from the mask"
    yield context.row(TECHNIQUE, measure, MASK, behind, "dB", "<= 0.05")
