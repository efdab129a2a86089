"""MODEL and CONDITIONING -> `denoise(x, sigma, cond) -> x0`, inside the host's own sampling set-up.

A loop of ours runs where the host's sampler would: LoRA, ControlNet, hooks, areas, masks, timestep ranges, wrappers,
the memory manager and the clean-up stay the host's. Latents are in the host's scaled form, x = x0 + sigma * eps
(flow models: x = (1 - sigma) * x0 + sigma * eps).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import comfy.model_patcher
import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from ..inversion.diffusion import append_dims
from .conds import Keyframes, active_at, asks_for_gradients, row_groups
from .gradients import detached, differentiable_options, gradients_in_run, plain, require_one_device
from .memory import with_room_for_gradients
from .network_calls import SKIPPED, NetworkCalls, is_compiled, leave_out, require_graph, wrappers_of
from .progress import LatentProgress, check_interrupt
from .recompute import checkpointed

T = TypeVar("T")
KEY = "palimpsest"


class Session:
    """The model as one run of a node sees it; made by `with_denoiser` and `BodySampler`, dead when they return.

    latent, sigmas: float32 on the device, the latent (B, C, h, w) in the host's scaled form. mask: the noise mask as
    the host prepared it, or None; predictions are not blended with it. guider: the host's, at work.
    """

    def __init__(
        self,
        guider,
        extra_args: dict,
        callback,
        *,
        sigmas,
        noise,
        latent,
        mask,
        calls: NetworkCalls,
        own: bool,
    ):
        self.guider, self._extra_args, self._callback = guider, extra_args, callback
        self._calls, self._own = calls, own
        self.sigmas, self.noise, self.latent, self.mask = sigmas, noise, latent, mask
        self.device = latent.device
        self._keyframes = Keyframes(guider.conds.values(), float(sigmas.max()))

    @property
    def model(self):
        """The host's model (`BaseModel`): `.diffusion_model`, `.model_sampling`, `.latent_format`."""
        return self.guider.inner_model

    @property
    def patcher(self):
        """The MODEL of this run, for `family.prediction(session.patcher)` and the like."""
        return self.guider.model_patcher

    @property
    def conds(self) -> tuple[str, ...]:
        """The names under which conditionings are known."""
        return tuple(self.guider.conds)

    def entries(self, cond: str) -> list[dict]:
        """The entries of a conditioning as the host has prepared them, this run's own: values may be replaced."""
        return self._cond(cond)

    def denoise(self, x: Tensor, sigma: float | Tensor, cond: str = "positive") -> Tensor:
        """x: (B, C, h, w); sigma: a number or (B,), rows may differ. Returns x0 (B, C, h, w)."""
        return self.denoise_each(x, sigma, [cond])[0]

    def denoise_each(self, x: Tensor, sigma: float | Tensor, conds: Sequence[str]) -> list[Tensor]:
        """One x0 for each named conditioning, in one batched call where memory allows. No CFG, no CFG hooks."""
        wanted = [self._cond(name) for name in conds]
        options = self._extra_args["model_options"]

        def evaluate(levels: Tensor) -> list[Tensor]:
            return comfy.samplers.calc_cond_batch(self.model, wanted, x, levels, options)

        return self._by_rows(x, sigma, wanted, evaluate)

    def guided(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """x0 by the guider's own CFG, every hook honoured; with cfg 1 the host skips the negative."""
        # Guiders of other packs may ask for a negative at their own numbers.
        idle = "negative" if self._own and self.guider.cfg == 1 else None
        used = [entries for name, entries in self.guider.conds.items() if entries and name != idle]

        def evaluate(levels: Tensor) -> list[Tensor]:
            return [self.guider(x, levels, **self._extra_args)]

        return self._by_rows(x, sigma, used, evaluate)[0]

    def guided_by(self, x: Tensor, sigma: float | Tensor, cond: str, negative: str, cfg: float) -> Tensor:
        """x0 by CFG between two named conditionings, its hooks honoured; with cfg 1 the negative is skipped."""
        if cfg == 1:
            return self.denoise(x, sigma, cond)
        found = self.denoise_each(x, sigma, [cond, negative])
        levels, options = self.levels(x, sigma), self._extra_args["model_options"]
        ends = {"model_options": options, "cond": self.entries(cond), "uncond": self.entries(negative)}
        return comfy.samplers.cfg_function(self.model, *found, cfg, x, levels, **ends)

    def checkpointed(self):
        """Context manager for gradient runs: backward in less memory and a third more time."""
        return checkpointed(self.model.diffusion_model)

    def report(self, step: int, total: int, x0: Tensor | None = None, x: Tensor | None = None) -> None:
        """Step (0-based) of total is done: progress bar, latent preview of x0, and the host's interruption."""
        if self._callback is not None:
            self._callback(step, total, x0, x)
        check_interrupt()

    def start(
        self, picture: Tensor | None = None, *, noise: Tensor | None = None, sigmas: Tensor | None = None
    ) -> Tensor:
        """(B, C, h, w) where a stock sampler starts: noise and picture mixed for the first of `sigmas`.

        All three are the run's own where they are not given.
        """
        sigmas = self.sigmas if sigmas is None else sigmas
        noise, picture = (self.noise if noise is None else noise), (self.latent if picture is None else picture)
        full = comfy.samplers.Sampler().max_denoise(self.guider, sigmas)
        return self.model.model_sampling.noise_scaling(sigmas[0], noise, picture, full)

    def to_raw(self, x: Tensor) -> Tensor:
        """Scaled latents -> LATENT values, float32 on the CPU."""
        return self.model.process_latent_out(x.detach().to(torch.float32)).cpu()

    def levels(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """sigma as (B,) float32 on the device."""
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device)
        return plain(sigma.expand(x.shape[0]) if sigma.ndim == 0 or sigma.numel() == 1 else sigma).contiguous()

    def _cond(self, name: str) -> list[dict]:
        if name not in self.guider.conds:
            raise KeyError(f"No conditioning {name!r} here; there are {', '.join(self.guider.conds)}.")
        return self.guider.conds[name]

    def _by_rows(self, x: Tensor, sigma, conds: list, evaluate: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
        """The host decides by row 0 alone which entries are active; rows that differ in it go in calls of their
        own, of which only their rows are kept."""
        levels = self.levels(x, sigma)
        groups = row_groups(levels, conds)
        results: list[Tensor] = []
        for rows in groups:
            mine = levels.clone()
            if 0 not in rows:
                mine[0] = levels[rows[0]]
            if self._keyframes.groups:
                self._keyframes.visit(float(mine[0]), self.patcher)
            outputs = self._evaluated(evaluate, mine, x, conds)
            if len(groups) == 1:
                return outputs
            chosen = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
            chosen[rows] = True
            chosen = append_dims(chosen, x.ndim)
            results = outputs if not results else [torch.where(chosen, new, old) for new, old in zip(outputs, results)]
        return results

    def _evaluated(self, evaluate: Callable[[Tensor], list[Tensor]], levels: Tensor, x: Tensor, conds: list):
        """`evaluate(levels)`. Raises ValueError where a prompt is silent at this level (the host would predict zeros),
        where a call reached no network, and where a gradient was lost on the way."""
        active = active_at(conds, float(levels[0]), all_of_them=self._own)
        reached = self._calls.reached
        outputs = evaluate(levels)
        if self._calls.reached == reached and active:
            raise ValueError(SKIPPED)
        if x.requires_grad or any(map(asks_for_gradients, conds)):
            require_graph(*outputs)
        return outputs


class BodySampler(comfy.samplers.Sampler):
    """A host SAMPLER whose loop is `body(session)`. Step caches and compiled networks take no part in it.

    ends: whether the body's value is the sampled latent (scaled form); else it stays on `value`, and the host gets its
    own latent back. report: as `Session.report` wants it; without it the host's callback serves.
    """

    def __init__(self, body: Callable[[Session], Any], *, gradients: bool, ends: bool, report: Callable | None = None):
        self.body, self.gradients, self.ends, self.report = body, gradients, ends, report
        self.value = None

    def sample(
        self,
        model_wrap,
        sigmas,
        extra_args,
        callback,
        noise,
        latent_image=None,
        denoise_mask=None,
        disable_pbar=False,
    ):
        latent = latent_image if latent_image is not None else torch.zeros_like(noise)
        report = self.report or _reporter(callback, latent)
        options = comfy.model_patcher.create_model_options_clone(extra_args["model_options"])
        # The guider takes the wrappers round a prediction from its own options, which are this run's too.
        leave_out(wrappers_of(options), wrappers_of(model_wrap.model_options))
        calls = NetworkCalls(model_wrap.inner_model.diffusion_model, gradients=self.gradients)
        with gradients_in_run(model_wrap) if self.gradients else nullcontext(), calls.counted(options):
            if self.gradients:
                options = differentiable_options(options)
                sigmas, noise, latent = plain(sigmas), plain(noise), plain(latent)
                denoise_mask = plain(denoise_mask) if denoise_mask is not None else None
            run = {"sigmas": sigmas, "noise": noise, "latent": latent, "mask": denoise_mask, "calls": calls}
            options = {**extra_args, "model_options": options}
            session = Session(model_wrap, options, report, own=not self.ends, **run)
            value = detached(self.body(session))
        if self.ends:
            return value
        self.value = value
        return latent


def _reporter(callback, latent: Tensor) -> Callable | None:
    """The callback that a stock sampling node passes to its sampler, in the form of `Session.report`."""
    if callback is None:
        return None

    def report(step: int, total: int, x0: Tensor | None, x: Tensor | None) -> None:
        shown, noisy = (latent if one is None else one for one in (x0, x))
        with torch.no_grad():
            callback(step, shown.detach(), noisy.detach(), total)

    return report


class _Guider(comfy.samplers.CFGGuider):
    """The host's guider; it also tidies up after an interruption."""

    def outer_sample(self, *args: Any, **kwargs: Any):
        try:
            return super().outer_sample(*args, **kwargs)
        finally:
            # The host does this on success only: a ControlNet would keep the hint of the interrupted run.
            if hasattr(self, "loaded_models"):
                comfy.sampler_helpers.cleanup_models(self.conds, self.loaded_models)
                del self.inner_model, self.loaded_models


def with_denoiser(
    model,
    conds: Mapping[str, list],
    latent: Tensor,
    sigmas: Tensor,
    body: Callable[[Session], T],
    *,
    cfg: float = 1.0,
    gradients: bool = False,
    graphs: int | None = None,
    noise_mask: Tensor | None = None,
    seed: int = 0,
) -> T:
    """Runs `body(session)` with `model` loaded and `conds` prepared as for sampling; returns its value, detached.

    conds: CONDITIONINGs by name; `guided` uses "positive" and "negative". latent: raw LATENT samples (B, C, h, w).
    sigmas: the levels that the body visits, at least one: keyframed patches read them. gradients: inside the body
    gradients flow to `x` and to whatever else asks for them (weights never do); tensors made outside, in inference
    mode, enter a graph as `gradients.plain(tensor)`. graphs: rows that must go through a backward pass at once (None:
    all); the host makes room for so many. noise_mask: (B, h, w) or (B, 1, h, w), for inpainting models. What the body
    returns in tuples, lists and dicts is detached.

    The nodes have checked what is connected (nodes/_checked.py) and that the latent is one of this model. Raises
    ValueError where a CFG has no negative, or the model lies on several devices and gradients are wanted.
    """
    if cfg != 1.0 and "negative" not in conds:
        raise ValueError("A CFG other than 1 needs a negative conditioning: connect one, or set CFG to 1.")
    if gradients:
        require_one_device(model)
    latent = comfy.sample.fix_empty_latent_channels(model, latent)
    patcher = model.clone()
    leave_out(patcher.wrappers)
    if is_compiled(patcher):
        patcher.object_patches.pop("diffusion_model")
    if gradients:
        with_room_for_gradients(patcher, KEY, graphs)
    guider = _Guider(patcher)
    guider.inner_set_conds({name: list(entries) for name, entries in conds.items()})
    guider.set_cfg(cfg)
    progress = LatentProgress(patcher, len(sigmas) - 1)
    report = lambda step, total, x0, x: progress.step(step, total, x0)
    sampler = BodySampler(body, gradients=gradients, ends=False, report=report)
    # Copies: the host hands them to the body as they are where no device or dtype differs.
    latent, sigmas = latent.clone(), sigmas.clone()
    guider.sample(
        torch.zeros_like(latent), latent, sampler, sigmas, denoise_mask=noise_mask, disable_pbar=True, seed=seed
    )
    return sampler.value
