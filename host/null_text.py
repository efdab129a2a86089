"""Null-text embeddings between the host's CONDITIONING and the optimiser in `inversion/null_text.py`."""

from __future__ import annotations

import math
from dataclasses import replace

import comfy.conds
import torch
from torch import Tensor

from ..inversion.null_text import NullText, Recipe, optimise
from ..inversion.trajectory import Trajectory
from .checks import require_conditioning, require_latent_of, require_unconditional
from .cond_rows import pick_rows
from .denoiser import GRADIENT_BATCHES, Session, with_denoiser
from .family import latent_format
from .fits import require_same_model

TECHNIQUE = "NullText Optimize"
NULL = "negative"
CROSS = "c_crossattn"
RANGE_KEYS = (
    "start_percent", "end_percent", "timestep_start", "timestep_end", "clip_start_percent", "clip_end_percent",
)  # fmt: skip
# More levels at once gain nothing: the network is busy, and the levels have come apart.
MOST_LEVELS = 10
MEMORY_MARGIN = 1.5


def fit_null_text(
    model, trajectory: Trajectory, positive: list, negative: list, recipe: Recipe, *, levels_at_once: int = 0
) -> tuple[list, NullText]:
    """The unconditional CONDITIONING with which guided sampling follows the trajectory, and what its making was like.

    positive: the prompt of the inversion; negative: the empty prompt, or another. Fast mode starts from the positive's
    entry, the others from the negative's; that must be a single entry without a range of its own.
    levels_at_once: of fast mode's teacher forcing; 0 takes what memory allows on a GPU, and 1 on a CPU.
    Raises ValueError with a sentence for what cannot work, before anything is loaded.
    """
    require_unconditional(model, TECHNIQUE)
    require_same_model(trajectory, model)
    require_latent_of(model, trajectory.latents[0], "The trajectory")
    positive = require_conditioning(positive, "The positive prompt")
    fast = recipe.mode == "fast"
    name = "positive" if fast else "negative"
    base = single_entry(positive if fast else negative, f"The {name} prompt", trajectory.rows)
    base = with_control_of(positive[0][1], base)
    raw = latent_format(model).process_out(trajectory.latents[0])

    def body(session: Session) -> NullText:
        at_once = levels_at_once or levels_that_fit(session)
        settings = replace(recipe, levels_at_once=at_once) if fast else recipe
        return optimise(
            Predictor(session), trajectory.sigmas, trajectory.latents.to(session.device), base[0].to(session.device),
            settings, flow=trajectory.flow, on_step=lambda step, total, x0: session.report(step, total, x0),
        )  # fmt: skip

    conds = {"positive": positive, NULL: [list(base)]}
    levels = trajectory.sigmas.flip(0)
    found = with_denoiser(model, conds, raw, levels, body, cfg=recipe.cfg, gradients=True)
    return per_level(base, found.embeddings, trajectory.sigmas), found


class Predictor:
    """The two predictions that the optimiser asks for; the rows it asks for may be any of the batch's pictures."""

    def __init__(self, session: Session):
        self.session, self.batch = session, session.latent.shape[0]
        self.known = {cond: list(session.entries(cond)) for cond in ("positive", NULL)}

    def conditional(self, x: Tensor, sigma: Tensor, pictures: Tensor) -> Tensor:
        return self._ask("positive", x, sigma, self._of(self.known["positive"], pictures))

    def unconditional(self, x: Tensor, sigma: Tensor, embedding: Tensor, pictures: Tensor) -> Tensor:
        entries = [
            {**entry, "model_conds": {**entry["model_conds"], CROSS: comfy.conds.CONDCrossAttn(embedding)}}
            for entry in self._of(self.known[NULL], pictures)
        ]
        return self._ask(NULL, x, sigma, entries)

    def _ask(self, cond: str, x: Tensor, sigma: Tensor, entries: list[dict]) -> Tensor:
        prepared = self.session.entries(cond)
        try:
            prepared[:] = entries
            return self.session.denoise(x, sigma, cond)
        finally:
            prepared[:] = self.known[cond]

    def _of(self, entries: list[dict], pictures: Tensor) -> list[dict]:
        """The entries with the conditions of these pictures, where they differ from picture to picture."""
        if self.batch == 1:
            return entries
        return [{**entry, "model_conds": pick_rows(entry["model_conds"], pictures)} for entry in entries]


def single_entry(conditioning: list, name: str, rows: int) -> tuple[Tensor, dict]:
    """The one entry of a CONDITIONING as (embedding, options), or a sentence."""
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


def levels_that_fit(session: Session) -> int:
    """How many levels a backward pass has memory for, by the host's own estimate; 1 where there is no accelerator."""
    if session.device.type == "cpu":
        return 1
    free = session.model.current_patcher.get_free_memory(session.device)
    shape = session.latent.shape
    for count in range(MOST_LEVELS, 1, -1):
        needed = session.model.memory_required([count * shape[0] * GRADIENT_BATCHES, *shape[1:]])
        if needed * MEMORY_MARGIN < free:
            return count
    return 1


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
    return list(zip(uppers, [0.0] + middles.tolist()))
