"""Motion Guidance (Geng and Owens, ICLR 2024, arXiv 2401.18085): DDIM whose clean estimate is pulled by a flow.

Noise levels are the host's sigma = sqrt(1 - alpha_bar) / sqrt(alpha_bar); x = x0 + sigma * eps (flow models:
x = (1 - sigma) * x0 + sigma * eps). In this form the released change of epsilon, -s * g with s = sqrt(1 - alpha_bar)
and g = -w dL/dz for the variance-preserving z = x * sqrt(alpha_bar), is + w * sigma * dL/dx, and x0 changes by -sigma
times it.

Faithful: equation 2 with the gradient through model, decoder and flow network, and K recursive steps a level (section
3.4). Fast: the gradient is taken at the clean estimate (MPGD, arXiv 2311.16424) through the decoder alone, in several
updates of Polyak's length, so the model is evaluated once a level and never differentiated. The first guess of every
pull lies on the way to the moved source's own latent (as MotionDiff blends it in), without what has left
(`ghost_removal`); that costs nothing. Without updates it is all that guides, and nothing is differentiated.

Differs from the paper: sizes scale the numbers (`step_size`). Where the recipe asks for damping, which *faithful* does
not, a loss that grows within a level damps the pull.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ...inversion.diffusion import append_dims, ddim_step, step_up
from .cropped_loss import CroppedLoss
from .ghost_removal import GhostRemoval
from .loss import Decode, FlowNet, Objective, Terms
from .recipe import MotionRecipe, Record, StepRecord
from .step_size import Damper, clipped, polyak_step, scaled_clip, scaled_weight


class Setting(Protocol):
    """What a run needs of a model and its source; the host's side implements it."""

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """x0 (B, C, h, w); differentiable in x where gradients are on."""

    def kept(self, sigma: float, like: Tensor) -> Tensor:
        """(B, C, h, w) the source at a noise level; at 0 the clean source."""

    def noised(self, x0: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """A clean latent at a noise level."""

    def noise(self, index: int, like: Tensor) -> Tensor:
        """Fresh Gaussian noise, the same for the same index."""

    def gradients(self):
        """A context in which gradients flow."""

    def report(self, step: int, x0: Tensor, x: Tensor) -> None:
        """A level is done; may raise to stop the run."""


# The noisiest level of the paper's model (Stable Diffusion 1), sqrt(1 - alpha_bar) / sqrt(alpha_bar).
NOISIEST = 14.6146


@dataclass(frozen=True)
class Guide:
    """The pull itself. free: (B, 1, h, w) 1 where the latent may change. floor: the least that the losses can be.

    cropped_loss: the windows that the colour loss is read through, None for the whole picture. moved: (B, C, h, w) the
    moved source's latent, and settled: (B, 1, h, w) how far that is to be trusted, in 0..1. ghost_removal: what is not
    to be seen. cheap: whether the decoder is small enough to look at a result for the plot alone.
    """

    objective: Objective
    decode: Decode
    flow_net: FlowNet | None
    free: Tensor
    floor: Terms | None = None
    cropped_loss: CroppedLoss | None = None
    moved: Tensor | None = None
    settled: Tensor | None = None
    ghost_removal: GhostRemoval | None = None
    cheap: bool = True

    def counted_by(self, record: Record) -> Guide:
        """The same guide, whose decoder and flow network report every call to a record."""

        def counted(function: Callable[[Tensor], Tensor], name: str) -> Callable[[Tensor], Tensor]:
            def call(values: Tensor) -> Tensor:
                setattr(record, name, getattr(record, name) + 1)
                return function(values)

            return call

        network = self.flow_net and counted(self.flow_net, "flow_calls")
        return replace(self, decode=counted(self.decode, "decodes"), flow_net=network)

    def terms(self, latent: Tensor, network: FlowNet | None) -> Terms:
        """The losses of a clean latent, differentiable in it."""
        if network is None and self.cropped_loss is not None:
            colour = self.cropped_loss.colour(latent, self.decode)
            return Terms(colour, torch.zeros_like(colour))
        return self.objective.by_target(self.decode(latent), network)

    def least(self, network: FlowNet | None) -> Tensor | float:
        """(B,) the least weighted sum."""
        if self.floor is None:
            return 0.0
        return self.objective.total(Terms(self.floor.colour, self.floor.flow * (network is not None)))

    def followed(self, clean: Tensor, fraction: float, firmness: float = 1.0) -> Tensor:
        """The clean estimate, a fraction of the way to where the source's own latent has moved, and where that is bare
        without what left it; firmness 0..1."""
        if self.moved is not None and self.settled is not None and fraction > 0:
            clean = torch.lerp(clean, self.moved, fraction * self.settled * self.free)
        if self.ghost_removal is not None and firmness > 0:
            clean = torch.where(self.free > 0, self.ghost_removal.cut(clean, firmness), clean)
        return clean.clone()


def guided_ddim(
    x: Tensor,
    sigmas: Tensor,
    setting: Setting,
    guide: Guide,
    recipe: MotionRecipe,
    record: Record,
    *,
    flow_model: bool = False,
) -> Tensor:
    """From x (B, C, h, w) at sigmas[0] down to sigmas[-1]; what is not free is the source at every level and at last.

    Works for any number of levels >= 1 step. `record` is filled as the run goes.
    """
    levels, damper = sigmas.tolist(), Damper(active=recipe.damping)
    steps, drawn = len(levels) - 1, 0
    for step, (sigma, lower) in enumerate(itertools.pairwise(levels)):
        strength, here = recipe.window.at(step, steps), recipe.at(step, steps)
        rounds = recipe.recursion if strength > 0 else 1
        damper.next_level()
        for k in range(rounds):
            fixed = torch.where(guide.free > 0, x, setting.kept(sigma, x))
            reach = sigma_reach(sigma, flow=flow_model and recipe.faithful)
            clean = _pulled(fixed, sigma, step, strength, setting, guide, here, damper, record, reach, last=lower == 0)
            clean = torch.where(guide.free > 0, clean, setting.kept(0.0, x))
            x = ddim_step(fixed, clean, sigma, lower)
            if k < rounds - 1:
                drawn += 1
                x = step_up(x, lower, sigma, setting.noise(drawn, x), flow=flow_model)
        record.damped = damper.caught
        setting.report(step, clean, x)
    return torch.where(guide.free > 0, x, setting.kept(levels[-1], x))


def _pulled(
    x: Tensor,
    sigma: float,
    step: int,
    strength: float,
    setting: Setting,
    guide: Guide,
    recipe: MotionRecipe,
    damper: Damper,
    record: Record,
    reach: float,
    *,
    last: bool,
) -> Tensor:
    """The clean estimate at x after the pull; the last one is the result. reach: `sigma_reach` of the level."""
    record.model_calls += 1
    if strength <= 0:
        return setting.denoise(x, sigma)
    terms: Terms | None
    if recipe.faithful:
        clean, terms, change = _through_model(x, sigma, strength, setting, guide, recipe, damper, record)
    else:
        clean = setting.denoise(x, sigma)
        with setting.gradients():
            terms, change = _at_estimate(clean, sigma, step, strength, guide, recipe, damper, record, last=last)
    asked = guide.flow_net is not None and (recipe.faithful or _asks_flow(step, guide, recipe))
    record.steps.append(
        StepRecord(
            sigma,
            None if terms is None else float(terms.colour.mean()),
            float(terms.flow.mean()) if terms is not None and asked else None,
            float((reach * change).square().mean().sqrt()),
        )
    )
    return clean - reach * change


def sigma_reach(sigma: float, *, flow: bool) -> float:
    """How far x0 goes back for a change of epsilon: sigma, and sigma / (1 - sigma) for flow models.

    Near pure noise it ends at the noisiest level of the paper's model: no flow model knows anything of x0 there.
    """
    return sigma / (1 - min(sigma, NOISIEST / (1 + NOISIEST))) if flow else sigma


def _through_model(
    x: Tensor,
    sigma: float,
    strength: float,
    setting: Setting,
    guide: Guide,
    recipe: MotionRecipe,
    damper: Damper,
    record: Record,
) -> tuple[Tensor, Terms, Tensor]:
    """Steps 2 to 5 of the released loop: x0, the losses, and the clipped change of epsilon."""
    with setting.gradients():
        variable = x.detach().clone().requires_grad_()
        clean = setting.denoise(variable, sigma)
        terms = guide.objective.by_estimate(guide.decode(clean), guide.flow_net)
        loss = guide.objective.total(terms)
        (gradient,) = torch.autograd.grad(loss.sum(), variable)
    record.model_gradients += 1
    record.decoder_gradients += 1
    record.flow_gradients += guide.flow_net is not None
    record.not_finite += _not_finite(loss, gradient)
    weight = scaled_weight(recipe.guidance, *guide.objective.source.shape[-2:])
    change = weight * strength * sigma * append_dims(damper(loss.detach()), 4) * gradient
    return clean.detach(), _detached(terms), clipped(change, scaled_clip(recipe.clip, x[0].numel()))


def _at_estimate(
    clean: Tensor,
    sigma: float,
    step: int,
    strength: float,
    guide: Guide,
    recipe: MotionRecipe,
    damper: Damper,
    record: Record,
    *,
    last: bool,
) -> tuple[Terms | None, Tensor]:
    """The change of epsilon that several Polyak steps from `clean` amount to; a step that worsens is halved, and the
    last step of all is taken only where it does not worsen. Without updates the result alone is looked at, if that is
    cheap."""
    asks, pull = _asks_flow(step, guide, recipe), strength * recipe.guidance / 300.0
    limit = scaled_clip(recipe.clip, clean[0].numel()) * strength
    best = start = clean.detach().clone()
    firmness = min(pull, 1.0)
    change = clipped((start - guide.followed(start, recipe.follow * firmness, firmness)) / sigma, limit)
    if recipe.inner == 0:
        with torch.no_grad():
            return guide.terms(start - sigma * change, None) if last and guide.cheap else None, change
    first, length, lowest, best_gradient = None, None, None, None
    for update in range(recipe.inner):
        network = guide.flow_net if asks and update == 0 else None
        terms, loss, gradient = _loss_and_gradient(start - sigma * change, guide, network, record)
        if length is None:
            first, length = terms, damper(loss, network is not None) * pull
        # Losses of different make-up are never compared.
        fresh = lowest is None or (asks and update == 1)
        better = torch.ones_like(loss, dtype=torch.bool)
        if lowest is not None and not fresh:
            better = (loss < lowest) | ~torch.isfinite(lowest)
        length = torch.where(better, length, length * 0.5)
        best = torch.where(append_dims(better, 4), start - sigma * change, best)
        best_gradient = (
            torch.where(append_dims(better, 4), gradient, best_gradient) if best_gradient is not None else gradient
        )
        lowest = torch.where(better, loss, lowest) if lowest is not None else loss
        goal = best - append_dims(length * polyak_step(lowest, guide.least(network), best_gradient), 4) * best_gradient
        change = clipped((start - goal) / sigma, limit)
    if last and lowest is not None:
        with torch.no_grad():
            good = guide.objective.total(guide.terms(start - sigma * change, network)) <= lowest
        change = torch.where(append_dims(good, 4), change, clipped((start - best) / sigma, limit))
    return first, change


def _loss_and_gradient(
    latent: Tensor, guide: Guide, network: FlowNet | None, record: Record
) -> tuple[Terms, Tensor, Tensor]:
    """The losses, their weighted sum (B,) and its gradient in a clean latent, where that may change."""
    variable = latent.requires_grad_()
    terms = guide.terms(variable, network)
    loss = guide.objective.total(terms)
    (gradient,) = torch.autograd.grad(loss.sum(), variable)
    record.decoder_gradients += 1
    record.flow_gradients += network is not None
    record.not_finite += _not_finite(loss, gradient)
    return _detached(terms), loss.detach(), gradient * guide.free


def _not_finite(loss: Tensor, gradient: Tensor) -> int:
    """The rows whose loss or gradient is not finite, as in half precision; they are not pulled."""
    return int((~torch.isfinite(loss.detach()) | ~torch.isfinite(gradient).flatten(1).all(dim=1)).sum())


def _asks_flow(step: int, guide: Guide, recipe: MotionRecipe) -> bool:
    """Whether the network judges a level: not the very first, where nothing is to be seen yet, unless all are asked."""
    every = recipe.flow_every if recipe.inner > 0 and guide.flow_net is not None else 0
    return every > 0 and step % every == every // 2


def _detached(terms: Terms) -> Terms:
    return Terms(terms.colour.detach(), terms.flow.detach())
