"""Null-text embeddings between the host's CONDITIONING and the optimiser in `inversion/null_text.py`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import NamedTuple

import comfy.conds
import torch
from torch import Tensor

from ...inversion.null_text import optimise
from ...inversion.null_text_run import NullText, NullTextRecipe, all_at_once
from ...inversion.trajectory import Trajectory
from ..compatibility import require_same_model
from ..conds import has_row_hints, pick_rows
from ..family import latent_format
from ..guidance_patches import patches_guidance
from ..memory import is_out_of_memory
from ..notify import notify
from ..session import Session, with_denoiser
from ..validation import require_conditioning, require_latent_of, require_unconditional
from .backward_chunks import RowsInMemory, bytes_kept, rows_that_fit

TECHNIQUE = "NullText Optimize"
NULL = "negative"
CROSS = "c_crossattn"
RANGE_KEYS = (
    "start_percent",
    "end_percent",
    "timestep_start",
    "timestep_end",
    "clip_start_percent",
    "clip_end_percent",
)
# More levels at once gain nothing: the network is busy, and the levels have come apart.
MOST_LEVELS = 10


def fit_null_text(
    model, trajectory: Trajectory, positive: list, negative: list, recipe: NullTextRecipe, *, levels_at_once: int = 0
) -> tuple[list, NullText]:
    """The unconditional CONDITIONING with which guided sampling follows the trajectory, and what its making was like.

    positive: the prompt of the inversion; negative: the empty prompt, or another. Fast mode starts from the positive's
    entry, the others from the negative's; that must be a single entry without a range of its own.
    levels_at_once: of fast mode's teacher forcing; 0 takes what memory allows on a GPU, and 1 on a CPU. Where memory
    does not hold the rows of a backward pass at once, they go through the network in parts, to the same result.
    Where patches act on the model's guidance (RescaleCFG, perturbed-attention guidance), the fit goes through them, at
    twice the cost. Raises ValueError for what cannot work, before anything is loaded where it can be known.
    """
    require_unconditional(model, TECHNIQUE)
    require_same_model(trajectory, model)
    require_latent_of(model, trajectory.latents[0], "The trajectory")
    positive = require_conditioning(positive, "The positive prompt")
    fast = recipe.mode == "fast"
    name = "positive" if fast else "negative"
    base = single_entry(positive if fast else negative, f"The {name} prompt", trajectory.rows)
    base = with_control_of(positive[0][1], base)
    if trajectory.cfg != 1:
        notify(
            f"The trajectory was inverted at CFG {trajectory.cfg:g}: the fit has more to make up for than after an "
            "inversion at CFG 1, which is what the method is made for."
        )
    guided = patches_guidance(model)

    def body(session: Session) -> NullText:
        predictor = GuidedPredictor(session) if guided else Predictor(session)
        return _fitted(session, predictor, trajectory, base[0], recipe, levels_at_once if fast and not guided else 1)

    # One graph is enough to begin with; how many more there is room for, the plan finds out.
    found = with_denoiser(
        model,
        {"positive": positive, NULL: [list(base)]},
        latent_format(model).process_out(trajectory.latents[0]),
        trajectory.sigmas.flip(0),
        body,
        cfg=recipe.cfg,
        gradients=True,
        graphs=1,
        noise_mask=trajectory.noise_mask,
    )
    return per_level(base, found.embeddings, trajectory.sigmas), found


def _fitted(
    session: Session, predictor: Predictor, trajectory: Trajectory, start: Tensor, recipe: NullTextRecipe, levels: int
) -> NullText:
    """The fit inside a session. start: (1 or B, T, D); levels: at once, 0 for what fits into memory."""
    latents, start = trajectory.latents.to(session.device), start.to(session.device)
    start = predictor.checked_start(latents[-1], start)
    plan = Plan.of(session, predictor, latents, start, levels)
    chunks = RowsInMemory(session, plan.rows, "The fit") if plan.apart else nullcontext(all_at_once)
    with chunks as in_chunks:
        found = optimise(
            predictor,
            trajectory.sigmas,
            latents,
            start,
            replace(recipe, levels_at_once=plan.levels),
            flow=trajectory.flow,
            on_step=lambda step, total, x0: session.report(step, total, x0),
            in_chunks=in_chunks,
        )
    found.cost.forwards = (found.cost.forwards + plan.cost) * predictor.halves
    found.cost.backwards *= predictor.halves
    return found


class Predictor:
    """The two predictions that the optimiser asks for; the rows it asks for may be any of the batch's pictures."""

    guided, halves = False, 1

    def __init__(self, session: Session):
        self.session, self.batch = session, session.latent.shape[0]
        self.known = {cond: list(session.entries(cond)) for cond in ("positive", NULL)}

    def checked_start(self, x: Tensor, start: Tensor) -> Tensor:
        """Where the fit may begin. x: (B, C, h, w) at the first level; start: (1 or B, T, D), what it is to begin with.
        Raises ValueError where nothing can be fitted to these predictions."""
        return start

    def conditional(self, x: Tensor, sigma: Tensor, pictures: Tensor) -> Tensor:
        with self._entries(pictures):
            return self.session.denoise(x, sigma, "positive")

    def unconditional(self, x: Tensor, sigma: Tensor, embedding: Tensor, pictures: Tensor) -> Tensor:
        with self._entries(pictures, embedding):
            return self.session.denoise(x, sigma, NULL)

    @contextmanager
    def _entries(self, pictures: Tensor, embedding: Tensor | None = None) -> Iterator[None]:
        """Inside, the session's conditionings are those of these pictures, the negative with this embedding."""
        prepared = {cond: self.session.entries(cond) for cond in self.known}
        try:
            for cond, entries in prepared.items():
                entries[:] = self._of(self.known[cond], pictures)
            if embedding is not None:
                prepared[NULL][:] = [
                    {**entry, "model_conds": {**entry["model_conds"], CROSS: comfy.conds.CONDCrossAttn(embedding)}}
                    for entry in prepared[NULL]
                ]
            yield
        finally:
            for cond, entries in prepared.items():
                entries[:] = self.known[cond]

    def _of(self, entries: list[dict], pictures: Tensor) -> list[dict]:
        """The entries with the conditions of these pictures, where they differ from picture to picture."""
        if self.batch == 1:
            return entries
        return [{**entry, "model_conds": pick_rows(entry["model_conds"], pictures)} for entry in entries]


class GuidedPredictor(Predictor):
    """The guided prediction as a sampler gets it, every patch honoured; both halves are asked for in each call."""

    guided, halves = True, 2

    def unconditional(self, x: Tensor, sigma: Tensor, embedding: Tensor, pictures: Tensor) -> Tensor:
        with self._entries(pictures, embedding):
            return self.session.guided(x, sigma)

    def checked_start(self, x: Tensor, start: Tensor) -> Tensor:
        """The start, or a thousandth beside it where a patch has no derivative there: at equal prompts some divide by
        the size of a guidance that is 0 (Adaptive Projected Guidance).

        Raises ValueError where a patch answers otherwise when it is asked again: it remembers other steps, and the fit
        asks for the same step many times.
        """
        rows = torch.arange(self.batch, device=x.device)
        sigma, embedding = self.session.sigmas[:1].expand(self.batch), start.expand(self.batch, -1, -1)
        with torch.no_grad():
            # Another question lies between, so that a memory has something else to remember.
            first, _, again = (self.unconditional(x, sigma, sign * embedding, rows) for sign in (0.0, -1.0, 0.0))
        if not torch.allclose(first, again, rtol=1e-3, atol=1e-3 * float(first.abs().max())):
            raise ValueError(
                f"A patch on guidance remembers the steps before (as Adaptive Projected Guidance with momentum does), "
                f"so that {TECHNIQUE} cannot fit to it: take it off the model, or set its momentum to 0."
            )
        leaf = embedding.detach().clone().requires_grad_(True)
        # Before it is known what memory holds.
        with self.session.checkpointed():
            prediction = self.unconditional(x, sigma, leaf, rows)
            finite = not prediction.requires_grad or torch.autograd.grad(prediction.sum(), leaf)[0].isfinite().all()
        return start if finite else 1.001 * start


def single_entry(conditioning: list, name: str, rows: int) -> tuple[Tensor, dict]:
    """The one entry of a CONDITIONING as (embedding, options). Raises ValueError where there is not one to fit."""
    entries = require_conditioning(conditioning, name)
    if len(entries) != 1:
        raise ValueError(
            f"{name} has {len(entries)} parts (combined prompts, regions or time ranges), and {TECHNIQUE} fits one: "
            "connect a single CLIP Text Encode, or use Negative-Prompt Inversion."
        )
    embedding, options = entries[0]
    if not isinstance(embedding, Tensor) or embedding.ndim != 3:
        raise ValueError(f"{name} holds no text embedding to fit: connect a CLIP Text Encode node.")
    if embedding.shape[0] not in (1, rows):
        raise ValueError(
            f"{name} holds {embedding.shape[0]} rows and the trajectory {rows} pictures: give it one row, or as many."
        )
    if any(key in options for key in RANGE_KEYS):
        raise ValueError(
            f"{name} is limited to a part of the run, and {TECHNIQUE} covers all of it: take out the node that sets "
            "its range."
        )
    return embedding, options


def with_control_of(positive: dict, base: tuple[Tensor, dict]) -> tuple[Tensor, dict]:
    """The entry with the ControlNet that the host would lend to the first negative entry alone."""
    embedding, options = base
    if positive.get("control_apply_to_uncond") and positive.get("control") is not None and "control" not in options:
        return embedding, {**options, "control": positive["control"]}
    return base


class Plan(NamedTuple):
    """levels: of teacher forcing at once; rows: of a backward pass at once (None: all, 0: one, and that in parts);
    apart: whether rows may be evaluated without their neighbours; cost: forwards that the planning took."""

    levels: int
    rows: int | None
    apart: bool = True
    cost: int = 0

    @staticmethod
    def of(session: Session, predictor: "Predictor", latents: Tensor, embedding: Tensor, levels: int) -> "Plan":
        """latents: (N + 1, B, C, h, w), embedding: (1 or B, T, D), both on the device; levels: 0 for what fits."""
        count = latents.shape[1]
        if not rows_apart(session) or (predictor.guided and count > 1):
            return Plan(levels=1, rows=None, apart=False)
        if session.device.type == "cpu":
            return Plan(levels=levels or 1, rows=None)
        free = session.model.current_patcher.get_free_memory(session.device)
        fit = rows_that_fit(free, row_bytes(session, predictor, latents, embedding))
        return Plan(levels=levels or max(1, min(MOST_LEVELS, fit // count)), rows=fit, cost=1)


def row_bytes(session: Session, predictor: "Predictor", latents: Tensor, embedding: Tensor) -> float:
    """What the graph of one picture's prediction keeps, infinity where even that is too much; costs a forward."""
    leaf = embedding[:1].detach().clone().requires_grad_(True)
    sigma, first = session.sigmas[:1], torch.zeros(1, dtype=torch.int64, device=session.device)
    ask = lambda: predictor.unconditional(latents[-1, :1], sigma, leaf, first)
    try:
        return bytes_kept(ask, session.model.diffusion_model.parameters())
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return math.inf


def rows_apart(session: Session) -> bool:
    """Whether rows may be evaluated without their neighbours: a ControlNet with a hint for each picture forbids it."""
    return not any(has_row_hints(entry) for cond in session.conds for entry in session.entries(cond))


def per_level(base: tuple[Tensor, dict], embeddings: Tensor, sigmas: Tensor) -> list:
    """CONDITIONING with an entry for each noise level, which any stock sampler reads.

    embeddings: (N, B, T, D), [i] for the evaluation at sigmas[i + 1]; sigmas: (N + 1,) rising.
    """
    options = {key: value for key, value in base[1].items() if key not in RANGE_KEYS}
    bounds = level_bounds(sigmas)
    return [
        [embedding, {**options, "timestep_start": upper, "timestep_end": lower}]
        for embedding, (upper, lower) in zip(embeddings.flip(0), reversed(bounds))
    ]


def level_bounds(sigmas: Tensor) -> list[tuple[float, float]]:
    """(upper, lower) noise level of each evaluation, at sigmas[1], sigmas[2], ...; together they cover every level.

    The bounds lie midway between two levels. The host counts both as inside, so the lower range begins one float
    beneath the upper one's end: a level that is exactly midway would otherwise get the mean of two embeddings.
    """
    levels = sigmas[1:].float()
    middles = (levels[1:] + levels[:-1]) / 2
    uppers = [float(torch.nextafter(m, torch.tensor(-math.inf))) for m in middles] + [1e9]
    return list(zip(uppers, [0.0, *middles.tolist()]))
