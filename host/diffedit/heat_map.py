"""DiffEdit's heat map on a MODEL of the host: predictions for both texts in few calls; the reference's are cached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from ...guidance.diffedit.heat_map import change, differences, flow_level, item_noises
from ...inversion.diffusion import guided, noised
from ..content_cache import RESULTS, content_key, model_key
from ..memory import call_bytes, chunked, free_bytes
from ..session import Session, with_denoiser
from ..validation import prediction


@dataclass(frozen=True)
class MapRecipe:
    """noises: how many are averaged. strength: of the noise, above 0 and below 1. cfg: used only with two negatives."""

    noises: int = 10
    strength: float = 0.5
    seed: int = 0
    cfg: float = 7.5


@dataclass(frozen=True)
class Prompts:
    """CONDITIONINGs; with both negatives given and unequal, either text is guided away from its own."""

    reference: list
    query: list
    reference_negative: list | None = None
    query_negative: list | None = None

    def half(self, name: str) -> dict[str, list]:
        """The conditionings that the prediction of "query" or "reference" takes."""
        conds = {name: getattr(self, name)}
        if self.guided:
            conds[f"{name}_negative"] = getattr(self, f"{name}_negative")
        return conds

    @property
    def guided(self) -> bool:
        """With one negative for both texts, guidance would scale all differences alike, so it is left out."""
        one, other = self.reference_negative, self.query_negative
        return one is not None and other is not None and not same_content(one, other)


def same_content(one: list, other: list) -> bool:
    """Whether two CONDITIONINGs are the same to the last bit."""
    if one is other:
        return True
    key = content_key(one)
    return key is not None and key == content_key(other)


def noise_level(model, strength: float) -> float:
    """The model's own sigma at a noise strength (0 to 1), with the ratio of noise to picture of Stable Diffusion."""
    if prediction(model) == "flow":
        return flow_level(strength)
    sampling = model.get_model_object("model_sampling")
    steps = getattr(sampling, "num_timesteps", None)
    if steps is not None:
        # On a step of the schedule: between two, the host would give the network one level and scale by another.
        return float(sampling.sigma(torch.tensor(float(round(strength * (steps - 1))))))
    return float(sampling.percent_to_sigma(1.0 - strength))


class Compared(NamedTuple):
    """maps: of the single noises (n, B, h, w); change: (B, C, h, w), as noise; both float32 on the CPU. cost: in
    samples of the network."""

    maps: Tensor
    change: Tensor
    cost: int


def compare(
    model, prompts: Prompts, latent: Tensor, recipe: MapRecipe, items: list[int], noise_mask: Tensor | None = None
) -> Compared:
    """The predictions for both texts, and their differences.

    latent: (B, C, h, w) raw; items: the B pictures' numbers, which choose their noises. noise_mask: for inpainting
    models, as `with_denoiser` takes it.
    """
    sigma, flow = noise_level(model, recipe.strength), prediction(model) == "flow"
    half = prompts.half("reference")
    key = _reference_key(model, half, [latent, noise_mask], recipe, items, sigma)
    # A known prediction for the reference text: another query on the same picture costs its own half alone.
    known = RESULTS.get(key)
    # Each half in calls of its own: in one call the query's last bits would depend on whether a reference was known.
    halves = [half, prompts.half("query")] if known is None else [prompts.half("query")]
    conds = {name: cond for one in halves for name, cond in one.items()}
    noises = item_noises(latent.shape[1:], recipe.noises, recipe.seed, items)

    def predict(session: Session) -> dict[str, Tensor]:
        parts = [_predict(session, list(one), noises, sigma, flow) for one in halves]
        return {name: value for part in parts for name, value in part.items()}

    found = with_denoiser(model, conds, latent, torch.tensor([sigma]), predict, noise_mask=noise_mask)
    if known is None:
        known = _combine(found, "reference", recipe.cfg)
        RESULTS.put(model, key, known.detach().to("cpu", copy=True))
    query = _combine(found, "query", recipe.cfg)
    maps = differences(query, known, sigma)
    cost = len(conds) * maps.shape[0] * maps.shape[1]
    return Compared(maps, change(query, known, sigma / (1 - sigma) if flow else sigma), cost)


def _combine(found: Mapping[str, Tensor], name: str, cfg: float) -> Tensor:
    negative = found.get(f"{name}_negative")
    return found[name] if negative is None else guided(found[name], negative, cfg)


def _predict(session: Session, names: list[str], noises: Tensor, sigma: float, flow: bool) -> dict[str, Tensor]:
    """For each conditioning the predictions (n, B, C, h, w) float32 on the CPU.

    Rows go noise by noise, each with the whole batch: the host repeats prompts of a batch in this order.
    """
    count, batch = noises.shape[:2]

    def some(part: slice) -> list[Tensor]:
        x = noised(session.latent, noises[part].to(session.device), sigma, flow=flow)
        found = session.denoise_each(rearrange(x, "n b c h w -> (n b) c h w"), sigma, names)
        session.report(part.stop - 1, count)
        return [rearrange(one.float().cpu(), "(n b) c h w -> n b c h w", b=batch) for one in found]

    size = _noises_a_call(session, len(names) * batch)
    pieces = chunked(some, count, size=size, what="The noisy batch of DiffEdit Mask")
    return {name: torch.cat(parts) for name, parts in zip(names, zip(*pieces))}


def _noises_a_call(session: Session, rows: int) -> int:
    """How many noises of `rows` rows each the free memory holds, by the host's own estimate."""
    need = call_bytes(session.model, (rows, *session.latent.shape[1:]))
    return max(1, int(free_bytes(session.model, session.device) / max(need, 1)))


def _reference_key(model, half: dict, latent: list, recipe: MapRecipe, items: list[int], sigma: float) -> str | None:
    parts = [model_key(model), content_key(half), content_key(latent)]
    if None in parts:
        return None
    cfg = recipe.cfg if len(half) > 1 else 1.0
    return content_key([parts, recipe.noises, recipe.seed, cfg, sigma, items])
