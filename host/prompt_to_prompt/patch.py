"""Prompt-to-Prompt as a patch of the host's MODEL: row 0 of the batch is the source, the other rows are its edits.

A run's own state lives in the run's options, so that nothing stays on the model but the records of the last runs. Edits
are made in the conditional part alone. The blend takes hold in two places: what the model sees (innermost, where an
anchor has put the trajectory in place already) and what the sampler gets (outermost, after the anchor's exact answer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...guidance.prompt_to_prompt.attention_control import (
    Roles,
    cross_attention,
    early,
    edited_maps,
    self_attention,
    step_of,
    word_maps,
)
from ...guidance.prompt_to_prompt.local_blend import keep_source_outside, map_factor
from ...guidance.prompt_to_prompt.plan import EditPlan
from ..attention.blocks import Block, attention_blocks
from ..attention.patching import cells, conditional_rows, plain_attention, wrap_attention
from ..conds import pick_rows
from ..family import diffusion_model
from ..inversion.anchor import KEY as ANCHOR
from ..validation import require_unet
from .attention_record import Record, Recording

KEY = "palimpsest_prompt_to_prompt"
TECHNIQUE = "Prompt-to-Prompt"
# Entries that carry any of these are evaluated as the host would: their parts cannot be cut row by row.
UNCUT = ("control", "hooks", "area", "mask", "gligen", "default")


@dataclass
class EditRun:
    """One sampling run. step: of the model call under way; positive: which of the conditionings asked for in it is the
    edits' own, None where it is none of them; sums: maps so far, row by row."""

    plan: EditPlan
    schedule: list[float]
    size: tuple[int, int]
    factor: int
    guider: object = None
    step: int = 0
    positive: int | None = 0
    cross: bool = False
    self_: bool = False
    blends: bool = False
    sums: list[Tensor] = field(default_factory=list)
    calls: int = 0
    mask: Tensor | None = None

    def begin(self, sigma: float, conds: Sequence[list | None]) -> None:
        plan = self.plan
        self.positive = _place_of_positive(self.guider, conds)
        self.step = step_of(sigma, self.schedule)
        self.cross = early(sigma, self.schedule, plan.cross_steps)
        self.self_ = early(sigma, self.schedule, plan.self_steps)
        steps = len(self.schedule) - 1
        self.blends = plan.blend is not None and self.step >= int(steps * plan.blend.start + 1e-6)

    def roles(self, rows: int) -> Roles:
        return Roles.of(rows, self.plan.rows)

    def remember(self, maps: Sequence[Tensor]) -> None:
        if not self.sums:
            self.sums = [m.clone() for m in maps]
        elif len(maps) == len(self.sums) and maps[0].shape[-2:] == self.sums[0].shape[-2:]:
            for total, one in zip(self.sums, maps):
                total += one
        self.calls += 1


def with_prompt_to_prompt(model, plan: EditPlan):
    """A clone of the MODEL that edits as the plan says, and keeps a `Recording` under `recording(model)`.

    With both shares of steps at 0 and no blend the results are the plain host's to the last bit.
    """
    require_unet(model, TECHNIQUE)
    clone = model.clone()
    blocks = attention_blocks(diffusion_model(model))
    patch = _PromptToPrompt(plan, blocks)
    clone.set_attachments(KEY, patch.recording)
    wrap_attention(clone, "attn1", [b for b, factor in blocks.items() if factor >= plan.self_reduction], patch.attn1)
    wrap_attention(clone, "attn2", list(blocks), patch.attn2)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, patch.outer_sample)
    clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, patch.calc_cond_batch)
    clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, patch.predict_noise)
    # The first wrapper is the outermost, whatever order the nodes stand in.
    wrappers = clone.wrappers[WrappersMP.PREDICT_NOISE]
    clone.wrappers[WrappersMP.PREDICT_NOISE] = {KEY: wrappers.pop(KEY), **wrappers}
    return clone


def recording(model) -> Recording | None:
    """The recording of a MODEL that Prompt-to-Prompt has patched; None for others."""
    return model.get_attachment(KEY)


class _PromptToPrompt:
    """The places of a sampling run where the edits happen. Keeps nothing between runs but the last record."""

    def __init__(self, plan: EditPlan, blocks: dict[Block, int]):
        self.plan, self.blocks, self.recording = plan, MappingProxyType(blocks), Recording()

    def outer_sample(self, executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        guider = executor.class_obj
        self._check(noise.shape[0], guider.conds.get("positive") or [])
        size = tuple(int(n) for n in noise.shape[-2:])
        run = EditRun(self.plan, sigmas.tolist(), size, map_factor(self.blocks.values(), *size), guider)
        # The guider's options are this run's own copy.
        guider.model_options.setdefault("transformer_options", {})[KEY] = run
        samples = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        if run.sums:
            self.recording.keep(self._record(run, samples))
        return samples

    def _record(self, run: EditRun, samples: Tensor) -> Record:
        rows, plan = samples.shape[0], self.plan
        maps = tuple((total / run.calls).cpu() for total in run.sums)
        columns = plan.blend.columns if plan.blend is not None else ((),) * plan.rows
        groups = rows // plan.rows
        mask = self._whole_mask(run, rows)
        return Record(plan.prompts * groups, maps, mask, columns * groups, samples.detach().float().cpu().clone())

    def predict_noise(self, executor, x, timestep, model_options={}, seed=None):
        """What the sampler gets: outside the blend's mask an edit is its source."""
        denoised = executor(x, timestep, model_options, seed)
        run = _run(model_options.get("transformer_options", {}))
        if run is None or not (run.blends and run.sums):
            return denoised
        roles = run.roles(x.shape[0])
        run.mask = self.plan.masks(run.sums, roles, run.size)
        return keep_source_outside(denoised, run.mask, roles.rows, roles.sources)

    def calc_cond_batch(self, executor, model, conds, x_in, timestep, model_options):
        """What the model sees, and which of the rows it is asked for."""
        run = _run(model_options.get("transformer_options", {}))
        if run is None:
            return executor(model, conds, x_in, timestep, model_options)
        run.begin(float(timestep[0]), conds)
        roles = run.roles(x_in.shape[0])
        if run.blends and run.mask is not None:
            x_in = keep_source_outside(x_in, run.mask, roles.rows, roles.sources)
        two = len(conds) == 2 and run.positive == 0 and conds[1]
        if two and _sources_kept(model, x_in, roles) and all(map(_can_cut, conds[1])):
            return _without_source_unconditional(executor, model, conds, x_in, timestep, model_options, roles)
        return executor(model, conds, x_in, timestep, model_options)

    def attn1(self, attend, q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        run = _run(options)
        if run is None or not run.self_:
            return attend(q, k, v)
        roles = self._roles(options, q.shape[0])
        return self_attention(q, k, v, roles, attend) if roles.rows else attend(q, k, v)

    def attn2(self, attend, q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        run = _run(options)
        roles = self._roles(options, q.shape[0]) if run is not None else None
        if roles is None or not roles.rows:
            return attend(q, k, v)
        if self.blocks.get(tuple(options["block"])) == run.factor:
            self._remember_maps(run, q, k, options)
        if not run.cross:
            return attend(q, k, v)
        return cross_attention(q, k, v, roles, self.plan.alignments, attend, plain_attention(options))

    def _remember_maps(self, run: EditRun, q: Tensor, k: Tensor, options: dict) -> None:
        """Adds this layer's maps to the run's."""
        starts, size = conditional_rows(options, q.shape[0], run.positive)
        height, width = cells(options)
        if height * width != q.shape[1]:
            return
        maps = []
        for row in range(size):
            place, prompt = starts[0] + row, self.plan.prompts[row % self.plan.rows]
            found = word_maps(q[place : place + 1], k[place : place + 1], options["n_heads"], len(prompt))
            maps.append(found[0].unflatten(-1, (height, width)))
        run.remember(edited_maps(maps, run.roles(size), self.plan.alignments) if run.cross else maps)

    def _roles(self, options: dict, rows: int) -> Roles:
        """The edits among the rows of this call; none in a call without the conditional half."""
        starts, size = conditional_rows(options, rows, _run(options).positive)
        if starts and size % self.plan.rows:
            raise ValueError(
                f"{TECHNIQUE} needs all {self.plan.rows} rows of the batch in one model call, and another node has cut "
                f"it to {size}: take that node off the model."
            )
        roles = Roles((), (), ())
        for start in starts:
            roles = roles.join(Roles.of(size, self.plan.rows, start))
        return roles

    def _check(self, rows: int, positive: list[dict]) -> None:
        if rows % self.plan.rows:
            raise ValueError(
                f"{TECHNIQUE} has {len(self.plan.edits)} edited texts and so needs a batch of {self.plan.rows} (the "
                f"source and its edits), but {rows} is sampled: repeat the latent with Repeat Latent Batch."
            )
        if not any(entry["cross_attn"].shape[0] == self.plan.rows for entry in positive if "cross_attn" in entry):
            raise ValueError(
                f"The positive prompt is not the one of {TECHNIQUE}, which has a row for each text: connect that "
                "node's CONDITIONING to the sampler or guider."
            )

    def _whole_mask(self, run: EditRun, rows: int) -> Tensor | None:
        """(B, H, W): the edits' masks in their rows, and in the source's row where any of its edits is."""
        if run.mask is None:
            return None
        roles, mask = run.roles(rows), torch.zeros(rows, *run.size)
        for place, (row, source) in enumerate(zip(roles.rows, roles.sources)):
            mask[row] = run.mask[place].cpu()
            mask[source] = torch.maximum(mask[source], mask[row])
        return mask


def _place_of_positive(guider, conds: Sequence[list | None]) -> int | None:
    """Which of the conditionings of a model call is the guider's positive one; guiders ask for them in any order.

    Where the call has none of the guider's own (a node in between may have copied them) it is the first, as usual.
    """
    known = getattr(guider, "conds", {})
    names = [next((name for name, one in known.items() if one is cond), None) for cond in conds]
    if "positive" in names:
        return names.index("positive")
    return None if any(name is not None for name in names) else 0


def _run(options: dict) -> EditRun | None:
    return options.get(KEY)


def _sources_kept(model, x: Tensor, roles: Roles) -> bool:
    """Whether an anchor holds every source row to its trajectory, so that its prediction is not asked for."""
    patcher = model.current_patcher
    holds = patcher.get_wrappers(WrappersMP.PREDICT_NOISE, ANCHOR) if patcher is not None else []
    sources = sorted(set(roles.sources))
    if not sources:
        return False
    anchors = [hold.__self__.anchor for hold in holds if hasattr(getattr(hold, "__self__", None), "anchor")]
    return any(not bool(anchor.weight(x)[sources].any()) for anchor in anchors)


def _can_cut(entry: dict) -> bool:
    return not any(entry.get(key) is not None for key in UNCUT)


def _without_source_unconditional(executor, model, conds, x_in, timestep, model_options, roles: Roles) -> list[Tensor]:
    """Both predictions, with the sources' unconditional one left out: their guided prediction is thrown away."""
    conditional = executor(model, [conds[0], None], x_in, timestep, model_options)[0]
    rows = torch.tensor(roles.rows, device=x_in.device)
    cut = [{**entry, "model_conds": pick_rows(entry["model_conds"], rows)} for entry in conds[1]]
    found = executor(model, [None, cut], x_in[rows], timestep[rows], model_options)[1]
    unconditional = conditional.clone()
    unconditional[rows] = found
    return [conditional, unconditional]
