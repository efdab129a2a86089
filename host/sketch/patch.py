"""Sketch guidance as a patch of the host's MODEL, which every stock sampler and guider then honours.

At a guided step the conditional half of the call runs by itself and with gradients. The features that the predictor
reads are taken from it, so that no second forward pass is needed; the graph ends behind the last of them. The other
half, the layers behind, ControlNets and text have no gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from ...guidance.sketch.guidance import (
    OLD_GRADIENT,
    SketchRecipe,
    SketchTarget,
    blur_at,
    guided_shift,
    next_gain,
    next_level,
    renewed,
    sketch_loss,
    sketch_target,
)
from ...guidance.sketch.predictor import EdgePredictor
from ...guidance.sketch.prepare import Strokes, fit_lines
from ..gradients import plain
from ..memory import with_room_for_gradients
from ..network_calls import require_every_call, run_uncompiled
from ..notify import notify
from ..progress import check_interrupt
from ..sampler_traits import sampler_name
from ..validation import require_same_batch
from .edge_gradient import EdgeGradient, gradient_options
from .step_size import FittedShifts, step_response

KEY = "palimpsest_sketch"
CFG_PP = "cfg_pp"
"""In the name of samplers that add the whole of x0 to the noise left over, not just a part of it."""
ASPECT = 0.02
"""Sketch and picture may differ by this fraction in the ratio of their sides before the sketch is refused."""


@dataclass(frozen=True, eq=False)
class Sketch:
    """What is drawn, as the node has checked it. strokes: at any size, none of them blank; region: (M, H, W) in 0..1,
    where the sketch acts, None for everywhere, none of them empty; encode: (S, H, W, 3) picture -> raw latent, which
    only predictors of latents need."""

    strokes: Strokes
    region: Tensor | None = None
    encode: Callable[[Tensor], Tensor] | None = None


def sketch_guided(model, predictor: EdgePredictor, sketch: Sketch, recipe: SketchRecipe, *, on_loss=None):
    """A clone of the MODEL whose sampling is drawn towards the sketch; nothing of `model` is changed.

    predictor: one for this model (`require_predictor_of`). A strength of 0 gives the plain clone. on_loss(step, losses
    (B,)): called with the loss before each guided step.
    """
    clone = model.clone()
    if recipe.strength == 0:
        return clone
    guide = _Guide(predictor, sketch, recipe, on_loss)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, guide.outer_sample)
    with_room_for_gradients(clone, KEY)
    return clone


def latent_target(predictor: EdgePredictor, sketch: Sketch, model, size: tuple[int, int], one_sided: float):
    """(SketchTarget, region) for latents of `size` (h, w) of the host's `model` (BaseModel).

    region: (M, 1, h, w) or None. Raises ValueError where the sketch has other proportions than the picture.
    """
    lines, weight = fitted_lines(sketch.strokes, size)
    region = None
    if sketch.region is not None:
        region = torch.nn.functional.interpolate(sketch.region[:, None].float().cpu(), size=size, mode="area")[:, 0]
    encoded = None
    if predictor.spec.target == "latent":
        encoded = model.process_latent_in(sketch.encode(lines.float()[..., None].expand(-1, -1, -1, 3)))
    target = sketch_target(predictor.spec, lines, weight, size, one_sided=one_sided, region=region, latent=encoded)
    return target, None if region is None else region[:, None]


def fitted_lines(strokes: Strokes, size: tuple[int, int], ratio: int = 8) -> tuple[Tensor, Tensor]:
    """The strokes at the size of the picture that a latent of `size` (h, w) decodes to."""
    height, width = size[0] * ratio, size[1] * ratio
    h, w = strokes.lines.shape[-2:]
    if abs((w / h) / (width / height) - 1) > ASPECT:
        raise ValueError(
            f"The sketch is {w} x {h} and the picture {width} x {height}, which has other proportions: put Sketch "
            f"Prepare with the size {width} x {height} before the guidance."
        )
    return fit_lines(strokes.lines, strokes.weight, height, width, "stretch", check_interrupt)


class _Guide:
    """What the patched MODEL carries: settings alone. Each sampling run gets a `_Run` of its own."""

    def __init__(self, predictor: EdgePredictor, sketch: Sketch, recipe: SketchRecipe, on_loss):
        self.predictor, self.sketch, self.recipe, self.on_loss = predictor, sketch, recipe, on_loss

    def outer_sample(self, executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        """Before anything is loaded: does the sketch fit? Then the run, with the guidance inside all other patches."""
        guider = executor.class_obj
        run = self._new_run(guider, latent_image, sampler, sigmas)
        if run is None:
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        require_every_call(guider, "Edge Predictor Guidance")
        run_uncompiled(guider, "Edge Predictor Guidance")
        # Added for the run alone and last, so that it is the innermost: an anchor's exactness stays exact.
        options = guider.model_options
        add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, run.predict_noise, options, is_model_options=True)
        try:
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        finally:
            options["transformer_options"]["wrappers"][WrappersMP.PREDICT_NOISE][KEY].remove(run.predict_noise)

    def _new_run(self, guider, latent_image: Tensor, sampler, sigmas: Tensor) -> "_Run | None":
        if len(sigmas) < 2 or float(sigmas[0]) <= float(sigmas[-1]):
            notify("Edge Predictor Guidance leaves inversions alone: noise levels that rise are not guided.")
            return None
        _require_picture(latent_image)
        steps = guided_steps(guider.model_patcher, self.predictor, self.recipe, sigmas.tolist())
        if not steps:
            return None
        size = tuple(latent_image.shape[-2:])
        target, region = latent_target(
            self.predictor, self.sketch, guider.model_patcher.model, size, self.recipe.one_sided
        )
        for part, name in ((target.weight, "the sketch"), (region, "its mask")):
            if part is not None and part.shape[0] != 1:
                require_same_batch(part, latent_image, f"Edge Predictor Guidance: {name}", "the latent")
        run = _Run(self, guider, target, region, sigmas, steps)
        run.whole_shift = CFG_PP in sampler_name(sampler)
        response = step_response(sampler, guider.model_patcher, sigmas) if self.recipe.scale == "sampler" else None
        run.fitted = None if response is None else FittedShifts(response)
        return run


class Anew(NamedTuple):
    """What a guided step computes: a new gradient, and what the negative prompt changes."""

    gradient: bool
    negative: bool


def guided_steps(patcher, predictor: EdgePredictor, recipe: SketchRecipe, sigmas: list[float]) -> dict[int, Anew]:
    """The numbers of the steps to guide in a falling schedule, and what is computed there."""
    sampling = patcher.get_model_object("model_sampling")
    high, low = (float(sampling.percent_to_sigma(fraction)) for fraction in (recipe.start, recipe.end))
    within = [i for i, sigma in enumerate(sigmas[:-1]) if low <= sigma <= high * (1 + 1e-4)]
    known = [i for i in within if predictor.covers(sigmas[i])]
    if not within:
        notify("Edge Predictor Guidance does nothing here: no step of this schedule lies in its window.")
    elif len(known) < len(within):
        notify(
            f"{len(within) - len(known)} of {len(within)} steps in the window of Edge Predictor Guidance lie at "
            "noise levels that the predictor was not trained on; they are not guided."
        )
    chosen = known[:: recipe.every]
    fractions = [fraction_at_sigma(sampling, sigmas[i]) for i in chosen]
    return dict(zip(chosen, map(Anew, renewed(fractions, recipe.renew), renewed(fractions, recipe.hold))))


def fraction_at_sigma(sampling, sigma: float) -> float:
    """The fraction of a run at a noise level, 0 = pure noise. sampling: the host's model_sampling."""
    last = float(sampling.timestep(sampling.sigma_max))
    return 1.0 - float(sampling.timestep(torch.tensor(sigma))) / max(last, 1e-6)


def _require_picture(latent: Tensor) -> None:
    if latent.ndim != 4 or getattr(latent, "is_nested", False):
        raise ValueError("Edge Predictor Guidance draws pictures: sample a latent of pictures, not of video or sound.")


class _Run:
    """One sampling run: the target at its size, the predictor on its device, and which steps are guided."""

    def __init__(self, guide: _Guide, guider, target: SketchTarget, region, sigmas: Tensor, steps: dict[int, Anew]):
        self.recipe, self.on_loss, self.guider = guide.recipe, guide.on_loss, guider
        self.predictor, self.target, self.region = guide.predictor, target, region
        self.schedule, self.steps = sigmas.detach().cpu().float(), steps
        self.device, self.sparing, self.whole_shift = None, False, False
        self.gradient: Tensor | None = None
        self.shortfalls: list[Tensor | None] | None = None
        self.gain: Tensor | float = 1.0
        self.fitted: FittedShifts | None = None

    def predict_noise(self, executor, x, timestep, model_options={}, seed=None):
        """A model call: plain, or with its prediction moved towards the sketch."""
        sigma = float(timestep.max())
        step = None if self.fitted is None else self.fitted.step(sigma)
        where = next_level(sigma, self.schedule)
        if where is None or float(timestep.min()) < sigma * (1 - 1e-4):
            return executor(x, timestep, model_options, seed)
        at = where[0] if step is None else step
        if at in self.steps:
            x0, shift = self._guided(executor, x, timestep, model_options, seed, at, where[1])
        else:
            x0, shift = executor(x, timestep, model_options, seed), None
        if step is not None:
            shift = self.fitted.shift(step, shift)
        elif shift is not None and self.whole_shift:
            shift = shift * (1 - where[1] / sigma)
        return x0 if shift is None else x0 - shift

    def _guided(self, executor, x, timestep, model_options, seed, step: int, after: float) -> tuple[Tensor, Tensor]:
        """The plain prediction x0, and its shift for Euler's step to the level `after`."""
        self._move_to(x.device)
        strength = self.recipe.strength
        if self.steps[step].gradient or self.gradient is None:
            x0 = self._renewed(executor, x, timestep, model_options, seed, step)
        else:
            x0, strength = executor(x, timestep, model_options, seed), strength * OLD_GRADIENT
        return x0, guided_shift(x, x0, self.gradient, timestep, after, strength * self.gain, self.region)

    def _renewed(self, executor, x: Tensor, timestep: Tensor, model_options: dict, seed, step: int) -> Tensor:
        """The plain prediction x0; its call also gives the gradient."""
        sampling = self.guider.model_patcher.get_model_object("model_sampling")
        std = blur_at(self.recipe, fraction_at_sigma(sampling, float(timestep.max())))
        gradient = EdgeGradient(
            self.guider, self.predictor, lambda out: sketch_loss(out, self.target, std=std), x.shape
        )
        gradient.sparing, gradient.shortfalls = self.sparing, None if self.steps[step].negative else self.shortfalls
        x0 = executor(x, timestep, gradient_options(gradient, model_options), seed)
        before, self.gradient, self.sparing, self.shortfalls = (
            self.gradient,
            gradient.result(),
            gradient.sparing,
            gradient.shortfalls,
        )
        self.gain = next_gain(self.gain, self.gradient, before, self.recipe.adapt, self.region)
        if self.on_loss is not None:
            self.on_loss(step, gradient.loss)
        return x0

    def _move_to(self, device: torch.device) -> None:
        if device == self.device:
            return
        with torch.inference_mode(False):
            t = self.target
            self.target = SketchTarget(t.kind, plain(t.values).to(device), plain(t.weight).to(device), t.detail)
            self.region = None if self.region is None else plain(self.region).to(device)
            if next(self.predictor.network.parameters()).device != device:
                network = copy.deepcopy(self.predictor.network).to(device)
                self.predictor = EdgePredictor(self.predictor.spec, network)
        self.device = device
