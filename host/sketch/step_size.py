"""What a shift of the prediction x0 does in a sampler's own steps, and the shift that does as much as in Euler's.

Samplers of the k-diffusion kind are linear in what the model answers: a step leads to

    x_{i+1} = a_i x_i + sum_{k <= i} b_ik x0_k + noise.

Euler has a_i = sigma_{i+1} / sigma_i and b_ii = 1 - a_i alone. Ancestral and SDE samplers go below the next level and
come back by fresh noise, so that b_ii is larger; multistep samplers (DPM++ 2M, LMS, DEIS ...) take more of this answer
than they keep and take a part back in the following steps (b_ik < 0); CFG++ samplers add the whole of x0. The b_ik are
measured on the sampler's own function, once a run, in a few milliseconds: it samples a single pixel from a model that
answers 1 at one step and 0 at all others, a row of the batch for each step.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from ..notify import notify
from ..sampler_traits import sampler_name

SAME = 1e-4
"""Two noise levels are one if they differ by this fraction."""
LEAST = 0.005
"""Effects on later steps are left out below this fraction of the step's own."""
LEAST_OWN = 0.1
"""A step's own effect, in units of Euler's, is taken as no smaller: no shift grows more than tenfold."""


@dataclass(frozen=True, eq=False)
class StepResponse:
    """calls: for each call of the model in turn its noise level and the step (0-based) that it belongs to.

    effects: (N, N) float64; [i, k] is b_ik, in units of Euler's b_ii: what a shift of x0 at step k changes in step i.
    """

    calls: list[tuple[float, int]]
    effects: Tensor


def step_response(sampler, patcher, sigmas: Tensor) -> StepResponse | None:
    """Of a SAMPLER on a falling schedule (N+1,); patcher: the MODEL of the run.

    None, with a warning, where the sampler does not keep to the schedule or cannot be run on a pixel.
    """
    name = sampler_name(sampler)
    try:
        calls, effects = _measured(sampler, patcher, sigmas.detach().cpu().float())
    except Exception as error:
        # Another pack's sampler may want more of its model than this one has.
        _warn(f"How far the sampler {name} steps could not be measured ({error})")
        return None
    if calls is None:
        _warn(f"The sampler {name} chooses steps of its own, which cannot be measured beforehand")
        return None
    if not bool(torch.isfinite(effects).all()) or float(effects.diagonal().max()) < LEAST_OWN:
        _warn(f"The sampler {name} makes steps that do not follow the model's prediction")
        return None
    return StepResponse(calls, effects)


def _warn(why: str) -> None:
    notify(f"{why}: Edge Predictor Guidance shifts the prediction as for Euler, and may pull more or less than set.")


def _measured(sampler, patcher, sigmas: Tensor) -> tuple[list[tuple[float, int]] | None, Tensor]:
    """The steps of all calls (None: they are not those of the schedule), and the effects; see `StepResponse`."""
    plain, end = _run(sampler, patcher, sigmas, None)
    starts = _starts([level for level, _ in plain], sigmas)
    if starts is None:
        return None, torch.zeros(0)
    steps = [sum(start <= call for start in starts) - 1 for call in range(len(plain))]
    moved, moved_end = _run(sampler, patcher, sigmas, steps)
    seen = [moved[start][1] - plain[start][1] for start in starts] + [moved_end - end]
    states = torch.stack(seen).double().flatten(1)  # (N+1 levels, N steps and the start)
    kept = torch.where(states[:-1, -1] == 0, 0.0, states[1:, -1] / states[:-1, -1])
    euler = 1 - sigmas[1:].double() / sigmas[:-1]
    effects = (states[1:, :-1] - kept[:, None] * states[:-1, :-1]) / euler[:, None]
    return list(zip([level for level, _ in plain], steps)), effects


def _starts(levels: list[float], sigmas: Tensor) -> list[int] | None:
    """For each step the call that it begins with: the last one at its level, since steps may look ahead."""
    starts = []
    for sigma in sigmas[:-1].tolist():
        at = [call for call, level in enumerate(levels) if abs(level / sigma - 1) < SAME]
        if not at or (starts and at[-1] <= starts[-1]):
            return None
        starts.append(at[-1])
    return starts if starts[0] == 0 else None


def _run(sampler, patcher, sigmas: Tensor, steps: list[int] | None) -> tuple[list[tuple[float, Tensor]], Tensor]:
    """Level and latent (rows,) at each call, and the end. steps: of each call, whose row is answered 1; None: 0 always.

    The last row starts at 1 in place of 0, and is always answered 0. Both runs draw the same noise.
    """
    rows = len(sigmas)
    pixel = _Pixel(patcher, steps, sigmas)
    options = dict(sampler.extra_options)
    if "noise_sampler" in inspect.signature(sampler.sampler_function).parameters:
        options["noise_sampler"] = lambda *_: torch.zeros(rows, 1, 1, 1)
    x = torch.zeros(rows, 1, 1, 1)
    x[-1] = 0.0 if steps is None else 1.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        extra = {"model_options": {}, "seed": 0}
        end = sampler.sampler_function(
            pixel, x, sigmas.clone(), extra_args=extra, callback=lambda _: None, disable=True, **options
        )
    return pixel.calls, end.flatten()


class _Pixel:
    """A model as samplers see it, of a latent of one pixel."""

    def __init__(self, patcher, steps: list[int] | None, sigmas: Tensor):
        sampling = patcher.get_model_object("model_sampling")
        inner = SimpleNamespace(model_sampling=sampling, scale_latent_inpaint=None)
        self.inner_model = SimpleNamespace(model_patcher=patcher, inner_model=inner)
        self.sigmas, self.steps = sigmas, steps
        self.calls: list[tuple[float, Tensor]] = []

    def __call__(self, x: Tensor, sigma: Tensor, model_options=None, seed=None, **_) -> Tensor:
        self.calls.append((float(sigma.max()), x.detach().flatten().clone()))
        answer, nothing = torch.zeros_like(x), torch.zeros_like(x)
        if self.steps is not None:
            answer[self.steps[len(self.calls) - 1]] = 1.0
        for function in (model_options or {}).get("sampler_post_cfg_function", ()):
            # What is shifted is the guided prediction: the unconditional one, which CFG++ samplers ask for, is not.
            both = {"denoised": answer, "cond_denoised": answer, "uncond_denoised": nothing}
            function({**both, "input": x, "sigma": sigma, "model": None, "model_options": model_options})
        return answer


class FittedShifts:
    """The shifts of one run, made to do in this sampler's steps what they do in Euler's."""

    def __init__(self, response: StepResponse):
        self.response, self.calls = response, 0
        self.past: dict[int, Tensor] = {}

    def step(self, sigma: float) -> int | None:
        """The step that a model call at this noise level belongs to; None where the run has left the measured steps."""
        for call in (self.calls, self.calls - 1, *range(self.calls + 1, len(self.response.calls))):
            if 0 <= call < len(self.response.calls) and abs(self.response.calls[call][0] / sigma - 1) < 10 * SAME:
                self.calls = call + 1
                return self.response.calls[call][1]
        return None

    def shift(self, step: int, euler: Tensor | None) -> Tensor | None:
        """What to subtract from x0. euler: the shift that is wanted, as for Euler; None: none, after guided steps
        whose effects the sampler remembers. None where there is nothing to do."""
        own = max(float(self.response.effects[step, step]), LEAST_OWN)
        total = None if euler is None else euler / own
        for k, shift in list(self.past.items()):
            effects = self.response.effects[:, k] / own
            if k < step and abs(remembered := float(effects[step])) > LEAST:
                total = -remembered * shift if total is None else total - remembered * shift
            elif k < step and not bool((effects[step:].abs() > LEAST).any()):
                del self.past[k]
        if total is not None:
            self.past[step] = total
        return total
