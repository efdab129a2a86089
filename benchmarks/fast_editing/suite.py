"""Edits in few model calls beside anchored Prompt-to-Prompt and SDEdit, in the manner of PIE-Bench.

Papercut's validation scenes; the settings were chosen on the first FIRST of them, and the rows are of those after them.
Structure is SSIM inside the true mask to the scene as it is drawn with the edit. SDEdit runs at several depths, so that
its success at another editor's background is read off the line between two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..context import every_core
from ..diffedit.cost import costs
from ..prompt_to_prompt.cases import word_edits
from ..prompt_to_prompt.fixtures import (
    CFG,
    GROUP,
    Case,
    Fixtures,
    autocast,
    background,
    by_prompt_to_prompt,
    decoded,
    edits_of,
    encode,
    group_of_cases,
    known,
    load_fixtures,
    succeeded,
)
from ..results import Row, error_of_mean, mean

TECHNIQUE = "Fast editing"
TECHNIQUES = (TECHNIQUE,)
TEST_SPLIT = False
FIRST, EDITS = 28, 56
# Source Guidance: the low 9 of 15 steps, up to the ratio of noise to picture that Flux and SD3 have there, whose
# schedules are shifted by 3. The strength is of 0.2 to 1; the published 1 overshoots on Papercut, whose usual CFG is 4.
STEPS, DEPTH, STRENGTH = 9, 0.78, 0.4
SDEDIT_DEPTHS = (0.6, 0.7, 0.8)
# Inversion-Free Edit: (steps, depth) of its two guiders, of depths 0.67 and 0.8 and of a target's CFG of 1.5 to 4.
FREE_RUN, DUAL_RUN = (12, 0.8), (10, 0.67)
P2P, SOURCE_GUIDANCE = "Prompt-to-Prompt, anchored source", "Source Guidance"
FREE, FREE_DUAL = "Inversion-Free Edit, CFG 1", "Inversion-Free Edit, Dual CFG 3 and 1"
SDEDIT = "SDEdit, depth {:g}"


class Judged(NamedTuple):
    """success in per cent; structure: SSIM; background: PSNR in dB, None where there is none."""

    success: float
    structure: float
    background: float | None


class Editing(NamedTuple):
    """Several edits at a time. latents: (B, 4, h, w) raw; the prompts hold a row for each."""

    fixtures: Fixtures
    cases: Sequence[Case]
    latents: Tensor
    source: list
    target: list
    empty: list

    def schedule(self, steps: int, depth: float) -> Tensor:
        from comfy_extras.nodes_custom_sampler import BasicScheduler

        return BasicScheduler.execute(self.fixtures.model, "normal", steps, depth).args[0]

    def sampled(self, guider, sampler, sigmas: Tensor, noise: Tensor, latent: Tensor) -> Tensor:
        """Pictures (B, 256, 256, 3)."""
        with autocast():
            made = guider.sample(noise, latent, sampler, sigmas, disable_pbar=True, seed=0)
        return torch.cat([decoded(self.fixtures, some) for some in made.split(2)])


def editing(fixtures: Fixtures, cases: Sequence[Case]) -> Editing:
    from ...host.prompt_to_prompt.tokens import as_rows

    latents = torch.cat([fixtures.model.model.process_latent_out(case.trajectory.latents[0]) for case in cases])
    targets = as_rows([encode(fixtures, case.edit.after.caption) for case in cases])
    return Editing(fixtures, cases, latents, as_rows([one.positive for one in cases]), targets, encode(fixtures, ""))


def by_source_guidance(run: Editing) -> Tensor:
    """Inverted with the empty prompt, part of the way, and edited by the node."""
    import comfy.samplers

    from ...nodes.inversion import DDIMInvert
    from ...nodes.source_guidance import SourceGuidanceNode

    sigmas, model = run.schedule(STEPS, DEPTH), run.fixtures.model
    options = {"positive": run.empty, "pairing": "held"}
    start = DDIMInvert.execute(model, {"samples": run.latents}, sigmas, **options).args[1]["samples"]
    guider = SourceGuidanceNode.execute(model, run.target, run.source, strength=STRENGTH).args[0]
    return run.sampled(guider, comfy.samplers.sampler_object("euler"), sigmas, torch.zeros_like(start), start)


def by_inversion_free(run: Editing, dual: bool) -> Tensor:
    from comfy_extras.nodes_custom_sampler import CFGGuider, DualCFGGuider

    from ...nodes.inversion_free import InversionFreeEdit

    model, sigmas = run.fixtures.model, run.schedule(*(DUAL_RUN if dual else FREE_RUN))
    if dual:
        guider = DualCFGGuider.execute(model, run.target, run.source, run.empty, 3.0, 1.0, "regular").args[0]
    else:
        guider = CFGGuider.execute(model, run.target, run.source, 1.0).args[0]
    sampler = InversionFreeEdit.execute().args[0]
    return run.sampled(guider, sampler, sigmas, torch.zeros_like(run.latents), run.latents)


def by_sdedit(run: Editing, depth: float) -> Tensor:
    """Noise, and sampling with the new caption (arXiv 2108.01073); a noise of its own for each edit."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import CFGGuider

    from ...guidance.diffedit.heat_map import item_noises

    guider = CFGGuider.execute(run.fixtures.model, run.target, run.empty, CFG).args[0]
    noise = item_noises(run.latents.shape[1:], 1, 0, range(len(run.cases)))[0]
    sigmas = run.schedule(round(15 * depth), depth)
    return run.sampled(guider, comfy.samplers.sampler_object("euler"), sigmas, noise, run.latents)


def by_anchored_prompt_to_prompt(run: Editing) -> Tensor:
    return torch.cat([edits_of(run.fixtures, by_prompt_to_prompt(run.fixtures, case)) for case in run.cases])


EDITORS: dict[str, Callable[[Editing], Tensor]] = {
    P2P: by_anchored_prompt_to_prompt,
    SOURCE_GUIDANCE: by_source_guidance,
    FREE: lambda run: by_inversion_free(run, False),
    FREE_DUAL: lambda run: by_inversion_free(run, True),
    **{SDEDIT.format(depth): (lambda run, depth=depth: by_sdedit(run, depth)) for depth in SDEDIT_DEPTHS},
}


def judged(run: Editing, pictures: Tensor) -> Iterator[Judged]:
    from ...inversion.quality import ssim

    for case, made in zip(run.cases, pictures):
        wanted, mask = case.edit.after.render().movedim(0, -1), case.edit.mask[None].float()
        structure = float(ssim(made[None], wanted[None], mask=mask))
        yield Judged(100.0 * succeeded(run.fixtures, made, case.edit), structure, background(made, case))


def measured(count: int, first: int = FIRST) -> dict[str, list[Judged]]:
    """Every editor's pictures of `count` validation edits after the `first` ones."""
    found: dict[str, list[Judged]] = {name: [] for name in EDITORS}
    edits = word_edits(first + count, "validation")[first:]
    with torch.inference_mode(), every_core():
        fixtures = load_fixtures()
        for place in range(0, count, GROUP):
            run = editing(fixtures, group_of_cases(fixtures, edits[place : place + GROUP]))
            for name, edit in EDITORS.items():
                found[name] += judged(run, edit(run))
    return found


def gains(found: dict[str, list[Judged]], name: str, beside: str) -> list[float]:
    """Points of success that an editor has above another, edit by edit."""
    return [one.success - other.success for one, other in zip(found[name], found[beside])]


def at_equal_background(found: dict[str, list[Judged]], name: str) -> list[float]:
    """Points of success above SDEdit's at the depth where it keeps the background as well, edit by edit: between two
    depths both count by how near they are; beyond all of them the nearest one stands."""
    kept = mean(one.background for one in found[name])
    curve = [(mean(one.background for one in found[key]), key) for key in map(SDEDIT.format, SDEDIT_DEPTHS)]
    if kept is None:
        return []
    # Deeper runs keep less.
    weights = {curve[0][1]: 1.0} if kept >= curve[0][0] else {curve[-1][1]: 1.0}
    for (more, shallow), (less, deep) in pairwise(curve):
        if less <= kept <= more:
            part = (more - kept) / (more - less)
            weights = {shallow: 1 - part, deep: part}
    theirs = zip(*([weight * one.success for one in found[key]] for key, weight in weights.items()))
    return [one.success - sum(values) for one, values in zip(found[name], theirs)]


def cost_rows(row: Callable[..., Row]) -> Iterator[Row]:
    """Samples of the network and time for one edit, Prompt-to-Prompt's inversion among them."""
    with torch.inference_mode(), every_core():
        fixtures = load_fixtures()
        again = lambda: editing(fixtures, group_of_cases(fixtures, word_edits(1, "validation")))
        run, network = again(), fixtures.model.model.diffusion_model
        editors = {**EDITORS, P2P: lambda _: by_anchored_prompt_to_prompt(again())}
        taken = costs([(lambda edit=edit: edit(run), network) for edit in editors.values()], 1)
    for name, cost in zip(editors, taken):
        yield row(
            "samples of the network, one edit", name, cost.samples, "", "<= 28" if name == SOURCE_GUIDANCE else ""
        )
        yield row("time, one edit", name, cost.seconds, "s")


def rows(context) -> Iterable[Row]:
    found = measured(EDITS) if known() else {name: [] for name in EDITORS}
    row = partial(context.row, TECHNIQUE)
    for name, values in found.items():
        successes = [one.success for one in values]
        yield row(f"edit success, {EDITS} validation edits", name, mean(successes), "%")
        yield row("edit success: standard error", name, error_of_mean(successes), "points")
        yield row("structure inside the true mask, SSIM", name, mean(one.structure for one in values), "")
        yield row("background outside the true mask", name, mean(one.background for one in values), "dB")
    above = gains(found, SOURCE_GUIDANCE, P2P)
    measure = "success above anchored Prompt-to-Prompt, paired"
    yield row(measure, SOURCE_GUIDANCE, mean(above), "points", ">= -5")
    yield row(f"{measure}: standard error", SOURCE_GUIDANCE, error_of_mean(above), "points", "<= 2.5")
    measure = "success above SDEdit at equal background, paired"
    for name in (SOURCE_GUIDANCE, FREE, FREE_DUAL):
        above, target = at_equal_background(found, name), ">= 2" if name != SOURCE_GUIDANCE else ""
        error = error_of_mean(above)
        yield row(measure, name, mean(above), "points")
        yield row(f"{measure}: standard error", name, error, "points")
        yield row(f"{measure}: in standard errors", name, mean(above) / error if error else None, "", target)
    if known():
        yield from cost_rows(row)
