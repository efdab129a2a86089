"""What the suites of editing by words have in common: Papercut's model and judge, inverted pictures, editors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...guidance.morphology import dilate
from ...papercut.classifier import ANSWERS, FILE as JUDGE_FILE, truth
from ...papercut.data import autocast
from ...papercut.networks import FILE
from .cases import WordEdit, WordWeight

STEPS, CFG, GROUP = 12, 4.0, 15
# cross_steps and self_steps, for every kind of edit: the node's defaults.
FRACTIONS = (0.8, 0.5)
# How many pixels larger than the thing one paints a mask.
GROWN = 12


class Fixtures(NamedTuple):
    """The shipped model as stock nodes give it, and the judge."""

    model: object
    clip: object
    vae: object
    sigmas: Tensor
    judge: object


class Negative(NamedTuple):
    """What stands in the negative prompt's place. kind: "" (the empty prompt), "source", "null text" or "fitted" (the
    case's own), which bring the source back; every_row: given to the edits as well, as the papers have it, and not to
    the source's row alone; proximal: with Proximal Guidance, at its defaults.

    self_steps: the fraction of the steps in which the edits keep shapes, with it.
    """

    kind: str = ""
    every_row: bool = False
    proximal: bool = False
    self_steps: float = FRACTIONS[1]


class Case(NamedTuple):
    """One edit with its picture (256, 256, 3), the trajectory and the source's prompt. fit: what `fitted` found."""

    edit: WordEdit | WordWeight
    picture: Tensor
    trajectory: object
    positive: list
    fit: list | None = None


def known() -> bool:
    """Whether Papercut's networks lie here."""
    return FILE.exists() and JUDGE_FILE.exists()


def load_fixtures() -> Fixtures:
    from comfy.samplers import calculate_sigmas

    from ...papercut.classifier import load_classifier
    from ...papercut.shipped import load_shipped

    model, clip, vae = load_shipped()
    sigmas = calculate_sigmas(model.get_model_object("model_sampling"), "normal", STEPS).cpu()
    return Fixtures(model, clip, vae, sigmas, load_classifier())


def encode(fixtures: Fixtures, text: str) -> list:
    return fixtures.clip.encode_from_tokens_scheduled(fixtures.clip.tokenize(text))


def cases(fixtures: Fixtures, edits: Sequence[WordEdit | WordWeight], *, refinement: int = 0) -> Iterator[Case]:
    """Every edit's picture, inverted with its caption; several at a time."""
    for first in range(0, len(edits), GROUP):
        yield from group_of_cases(fixtures, edits[first : first + GROUP], refinement=refinement)


def group_of_cases(fixtures: Fixtures, edits: Sequence[WordEdit | WordWeight], *, refinement: int = 0) -> list[Case]:
    """All at a time."""
    from ...host.prompt_to_prompt.tokens import as_rows
    from ...nodes.inversion import DDIMInvert

    pictures = torch.stack([edit.before.render().movedim(0, -1) for edit in edits])
    prompts = [encode(fixtures, edit.caption) for edit in edits]
    made = DDIMInvert.execute(
        fixtures.model,
        {"samples": fixtures.vae.encode(pictures)},
        fixtures.sigmas,
        refinement=refinement,
        positive=as_rows(prompts),
    ).args[0]
    found = []
    for i, edit in enumerate(edits):
        alone = replace(made.part(slice(i, i + 1)), prompt=edit.caption)
        found.append(Case(edit, pictures[i], alone, prompts[i]))
    return found


def fitted(fixtures: Fixtures, group: Sequence[Case], cfg: float) -> list[Case]:
    """The cases with a faithful null text each, fitted side by side, which changes no row of a fit."""
    from ...host.inversion.null_text import fit_null_text
    from ...host.prompt_to_prompt.tokens import as_rows
    from ...inversion.null_text_run import NullTextRecipe

    latents = torch.cat([case.trajectory.latents for case in group], dim=1)
    together = replace(group[0].trajectory, latents=latents, evaluated=None)
    positive, empty = as_rows([case.positive for case in group]), encode(fixtures, "")
    found = fit_null_text(fixtures.model, together, positive, empty, NullTextRecipe(cfg=cfg, mode="faithful"))[0]
    rows = range(len(group))
    return [group[i]._replace(fit=[[entry[0][i : i + 1], entry[1]] for entry in found]) for i in rows]


def decoded(fixtures: Fixtures, latents: Tensor) -> Tensor:
    """(B, 256, 256, 3) on the CPU."""
    return fixtures.vae.decode(latents)[..., :3].float().cpu()


def through_vae(fixtures: Fixtures, case: Case) -> Tensor:
    """What the VAE alone makes of the case's picture: nothing that is kept can come nearer to it."""
    return decoded(fixtures, fixtures.model.model.process_latent_out(case.trajectory.latents[0]))[0]


# Editing


def sampled(
    fixtures: Fixtures, model, case: Case, positive: list, negative: list, rows: int, cfg: float = CFG
) -> Tensor:
    """(rows, 4, h, w) LATENT samples of a stock Euler run from the inverted noise."""
    import comfy.sample
    import comfy.samplers

    start = fixtures.model.model.process_latent_out(case.trajectory.latents[-1]).expand(rows, -1, -1, -1).contiguous()
    # For the network alone: levels, anchors and the fit stay in float32.
    with autocast():
        return comfy.sample.sample_custom(
            model,
            torch.zeros_like(start),
            cfg,
            comfy.samplers.sampler_object("euler"),
            fixtures.sigmas,
            positive,
            negative,
            start,
            disable_pbar=True,
            seed=0,
        )


def by_prompt(fixtures: Fixtures, case: Case) -> Tensor:
    """The new caption and nothing else, (1, 256, 256, 3)."""
    return decoded(
        fixtures, sampled(fixtures, fixtures.model, case, encode(fixtures, case.edit.edited), encode(fixtures, ""), 1)
    )


def edits_of(fixtures: Fixtures, latents: Tensor) -> Tensor:
    """The pictures (B, 256, 256, 3) of all rows but the source's."""
    return decoded(fixtures, latents[1:])


def by_prompt_to_prompt(
    fixtures: Fixtures,
    case: Case,
    *,
    negative: Negative = Negative(),
    anchor: bool = True,
    masks: Sequence[Tensor | None] = (None,),
    blend: bool = False,
    cfg: float = CFG,
    texts: Sequence[str] = (),
    exact: bool = False,
) -> Tensor:
    """The LATENT samples of Prompt-to-Prompt: the source's row, and one for each of the masks, or of the texts where
    there are any.

    anchor: whether the source's row is anchored to its trajectory, and an edit's row outside of its mask (256, 256),
    if it has one; blend: by the edit's words; exact: whether the anchor replays exactly.
    """
    from ...guidance.anchor import Anchor
    from ...host.inversion.anchor import anchored
    from ...host.inversion.exact_replay import replayed_exactly
    from ...nodes.inversion_null_text import ProximalGuidance
    from ...nodes.prompt_to_prompt import PromptToPrompt

    edit = case.edit
    blend_inputs = {"blend_words": edit.words, "keep_words": edit.kept} if blend else {}
    masks = masks if not texts else [None] * len(texts)
    lines = "\n".join(texts or [edit.edited] * len(masks))
    of_source = negative_for(fixtures, case, negative.kind, cfg)
    model, positive, _, by_row = PromptToPrompt.execute(
        fixtures.model,
        fixtures.clip,
        edit.caption,
        lines,
        FRACTIONS[0],
        negative.self_steps,
        **blend_inputs,
        source_negative=of_source,
    ).args[:4]
    if negative.proximal:
        (model,) = ProximalGuidance.execute(model, trajectory=case.trajectory).args
    if anchor:
        everywhere = torch.ones_like(case.picture[..., 0])
        free = torch.stack([everywhere] + [everywhere if mask is None else mask for mask in masks])
        model = anchored(model, Anchor(case.trajectory, free, rows=(0,)))
    if exact:
        model = replayed_exactly(model, case.trajectory)
    against = of_source if negative.every_row else by_row
    return sampled(fixtures, model, case, positive, against, 1 + len(masks), cfg)


def negative_for(fixtures: Fixtures, case: Case, kind: str, cfg: float) -> list:
    from ...host.inversion.null_text import fit_null_text
    from ...inversion.null_text_run import NullTextRecipe

    if kind == "fitted":
        return case.fit
    if kind == "source":
        return case.positive
    empty = encode(fixtures, "")
    return (
        fit_null_text(fixtures.model, case.trajectory, case.positive, empty, NullTextRecipe(cfg))[0] if kind else empty
    )


def largest_difference(fixtures: Fixtures, case: Case, latent: Tensor, mask: Tensor) -> float:
    """The largest difference of a latent (4, h, w) to the source in the cells that an anchor outside `mask` (256, 256)
    keeps wholly."""
    from ...guidance.anchor import shrink_mask

    source = fixtures.model.model.process_latent_out(case.trajectory.latents[0])[0].cpu()
    kept = shrink_mask(mask[None], *latent.shape[-2:])[0] <= 0
    return float(torch.where(kept, (latent.cpu() - source).abs(), 0.0).max())


def grown(mask: Tensor, pixels: int) -> Tensor:
    """(256, 256) bool -> (256, 256) of 0 and 1, larger by `pixels` on every side."""
    return dilate(mask[None], pixels, "square")[0].float()


def painted(edit: WordEdit) -> Tensor:
    """(256, 256), 1 = edit: of one who paints the thing a little too large, and turns the mask round for a ground."""
    return 1 - grown(~edit.mask, GROWN) if edit.kept else grown(edit.mask, GROWN)


# Judging


def succeeded(fixtures: Fixtures, made: Tensor, edit: WordEdit) -> bool:
    """Whether the judge reads off the picture what the new caption says."""
    (reading,) = fixtures.judge.read(made.movedim(-1, 0)[None])
    return all(getattr(reading, name) == word for name, word in edit.answers.items())


def sureness(fixtures: Fixtures, made: Tensor, weighed: WordWeight) -> float:
    """The judge's log-odds of all that the phrase says, summed."""
    said, scores = truth(weighed.before), fixtures.judge(made.movedim(-1, 0)[None])
    known = [scores[name][0].double().log_softmax(0)[ANSWERS[name].index(said[name])] for name in weighed.answers]
    return float(sum(one - torch.log1p(-one.exp().clamp_max(1 - 1e-12)) for one in known))


def background(made: Tensor, case: Case, reach: int = 0) -> float | None:
    """PSNR outside the true mask, or `reach` pixels outside of it; None where nothing of the picture lies there."""
    from ...inversion.quality import psnr

    outside = 1 - grown(case.edit.mask, reach)[None]
    return float(psnr(made[None], case.picture[None], mask=outside)) if bool(outside.any()) else None


class Found(NamedTuple):
    """One picture, judged: success in per cent, and the background's PSNR, close to the edit and away from it."""

    kind: str
    success: float
    background: float
    away: float | None


def judged(fixtures: Fixtures, case: Case, made: Tensor, reach: int = 0) -> Found:
    success = 100.0 * succeeded(fixtures, made, case.edit)
    return Found(case.edit.kind, success, background(made, case), background(made, case, reach))
