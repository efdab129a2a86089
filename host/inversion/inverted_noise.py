"""NOISE that makes the host's stock samplers start at exactly the inverted latent.

A sampler makes its first latent from noise and picture, each parametrisation in its own way (x = sigma * noise +
picture, sqrt(1 + sigma^2) * noise + picture at the top, sigma * noise + (1 - sigma) * picture for flow models). That is
undone here, so that whatever picture is connected, an empty one included, sampling starts on the trajectory.
"""

from __future__ import annotations

from types import SimpleNamespace

import comfy.samplers
import torch
from torch import Tensor

from ...inversion.trajectory import Trajectory
from ..compatibility import require_same_kind
from ..notify import notify
from ..sampler_traits import replay_kind, sampler_name
from .anchor import noise_for_start
from .sampling_call import SamplingCall, sampling_call


class InvertedNoise:
    """The host's NOISE protocol: `seed`, and `generate_noise(LATENT) -> (B, C, h, w)`.

    A trajectory of one picture serves a batch of any length. Where the schedule starts below the trajectory's top,
    sampling starts at the trajectory's latent of that level; `sampling_call.py` says how that is known.
    Raises ValueError for a latent of another size, a sampler that draws fresh noise, another kind of model, and a
    schedule that starts outside the trajectory. A schedule or sampler that can only come close is named on the node.
    """

    seed = 0

    def __init__(self, trajectory: Trajectory, model):
        """model: the MODEL of the inversion; kept are only its sampling and its latent format."""
        self.trajectory = trajectory
        self._sampling = model.get_model_object("model_sampling")
        self._process_in = model.get_model_object("latent_format").process_in

    def generate_noise(self, input_latent: dict) -> Tensor:
        picture = input_latent["samples"]
        _require_fit(self.trajectory, picture)
        run = sampling_call()
        sigma = self._start_level(run)
        if sigma is None:
            return torch.zeros(picture.shape, dtype=torch.float32)
        sampling, process_in = self._sampling, self._process_in
        if run.guider is not None:
            patcher = run.guider.model_patcher
            require_same_kind(self.trajectory, patcher, "The inverted noise")
            sampling, process_in = patcher.get_model_object("model_sampling"), patcher.model.process_latent_in
        picture = picture.detach().to("cpu", torch.float32)
        if torch.count_nonzero(picture) > 0:  # the host leaves an empty latent as it is, too
            picture = process_in(picture)
        level = torch.tensor(sigma)
        start = self.trajectory.at(sigma).expand(picture.shape)
        noise = noise_for_start(sampling, start, level, picture, _is_full(run, sampling, sigma))
        if not bool(torch.isfinite(noise).all()):
            raise ValueError(
                "This model does not start from noise, so that no NOISE can lead it to the inverted latent: connect "
                "the inverted LATENT to the sampler in its place."
            )
        return noise

    def _start_level(self, run: SamplingCall) -> float | None:
        """The noise level that sampling starts at; None for an empty schedule, which samples nothing."""
        top = float(self.trajectory.sigmas[-1])
        if run.sigmas is None:
            notify(f"The schedule cannot be seen from here; the inverted noise assumes that it starts at {top:.4g}.")
            return top
        if run.sampler is None:
            raise ValueError(
                "The inverted NOISE is made for Sampler Custom Advanced: connect it there, or use the inverted LATENT, "
                "which needs no noise."
            )
        if len(run.sigmas) == 0:
            return None
        _require_replay(run.sampler)
        sigma = float(run.sigmas[0])
        self.trajectory.at(sigma)
        _name_differences(self.trajectory, run)
        return sigma


def _is_full(run: SamplingCall, sampling, sigma: float) -> bool:
    """Whether the sampler takes the run for one from pure noise, which some parametrisations scale differently."""
    wrapped = SimpleNamespace(inner_model=SimpleNamespace(model_sampling=sampling))
    sampler = run.sampler or comfy.samplers.Sampler()
    return bool(sampler.max_denoise(wrapped, torch.tensor([sigma])))


def _require_fit(trajectory: Trajectory, picture: Tensor) -> None:
    if getattr(picture, "is_nested", False) or picture.ndim != 4:
        raise ValueError("The latent to sample is not a picture's: connect the latent that DDIM Invert was given.")
    batch, wanted = picture.shape[0], trajectory.latents.shape[1:]
    if picture.shape[1:] != wanted[1:]:
        has, needs = ("x".join(str(n) for n in shape[1:]) for shape in (picture.shape, wanted))
        raise ValueError(
            f"The latent to sample is {has} (channels x height x width) and the inverted noise {needs}: connect the "
            "latent that DDIM Invert was given, or an empty one of its size."
        )
    if trajectory.rows not in (1, batch):
        raise ValueError(
            f"The latent to sample holds {batch} pictures and the inverted noise {trajectory.rows}: connect the "
            "latent that DDIM Invert was given, or invert a single picture, which serves for all rows."
        )


def _require_replay(sampler) -> None:
    if replay_kind(sampler) == "fresh noise":
        raise ValueError(
            f"The sampler '{sampler_name(sampler)}' draws fresh noise at its steps and would cover the inverted "
            "picture: choose 'euler' or 'ddim' in KSamplerSelect, or connect Random Noise in place of the inverted one."
        )


def _name_differences(trajectory: Trajectory, run: SamplingCall) -> None:
    """Warns on the running node of what keeps the replay from being exact."""
    if replay_kind(run.sampler) == "close":
        notify(f"The sampler '{sampler_name(run.sampler)}' replays the inversion nearly; 'euler' does it exactly.")
    if not trajectory.covers(run.sigmas):
        notify("The schedule visits other noise levels than the inversion did: the picture will come back nearly.")
