"""An `Anchor` as a patch of the host's MODEL, which every stock sampler and guider then honours."""

from __future__ import annotations

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...guidance.anchor import Anchor, mix_by_weight
from ..compatibility import is_same_model, require_same_kind
from ..notify import notify

KEY = "palimpsest_anchor"


def anchored(model, anchor: Anchor, *, start_from_source: bool = False):
    """A clone of the MODEL whose sampling keeps to the anchor; nothing of `model` is changed.

    start_from_source: the run starts at the trajectory's latent at its first noise level, whatever the NOISE.
    A strength of 0 gives the plain clone.
    """
    clone = model.clone()
    if anchor.strength <= 0:
        return clone
    hold = Hold(anchor, start_from_source)
    clone.set_attachments(KEY, (*holds_of(model), hold))
    # Wrappers, and not a post-CFG function: those belong to one guider, and later ones would run after ours.
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, hold.outer_sample)
    clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, hold.sampler_sample)
    clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, hold.predict_noise)
    return clone


def holds_of(model) -> tuple["Hold", ...]:
    """The anchors of a MODEL, in the order of their nodes."""
    return model.get_attachment(KEY) or ()


def require_fit(trajectory, model) -> None:
    """The trajectory's latents and noise levels mean the same to this MODEL; raises ValueError where they do not.

    Other weights (a LoRA, a fine-tune) are only named on the running node: what is kept is kept all the same.
    """
    require_same_kind(trajectory, model)
    if trajectory.fingerprint and not is_same_model(trajectory, model):
        notify(
            "The trajectory was made with other weights than this model's: what is kept stays exact, but the rest "
            "blends in better if the picture is inverted with this model."
        )


class Hold:
    """The three places of a sampling run where the anchor takes hold. Keeps nothing between calls."""

    def __init__(self, anchor: Anchor, start_from_source: bool):
        self.anchor = anchor
        self.start_from_source = start_from_source

    def outer_sample(self, executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        """Before anything is loaded: does the trajectory fit? After the last step: exactness."""
        self.anchor.check(latent_image, float(sigmas[0]))
        last = sigmas[-1].clone()  # UniPC writes into the schedule
        samples = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        kept = self._raw_source(executor.class_obj.model_patcher, samples, latent_image, last)
        # Values between are already blended by the predictions; blending them again would count the mask twice.
        weight = (self.anchor.weight(samples) > 0).to(samples)
        return mix_by_weight(kept, samples, weight)

    def sampler_sample(self, executor, guider, sigmas, extra_args, callback, noise, latent_image, *args, **kwargs):
        """The noise that makes the run start where it is to start."""
        if self.start_from_source:
            start = self.anchor.at(sigmas[0], noise)
            full = executor.class_obj.max_denoise(guider, sigmas)
            noise = noise_for_start(guider.inner_model.model_sampling, start, sigmas[0], latent_image, full)
        return executor(guider, sigmas, extra_args, callback, noise, latent_image, *args, **kwargs)

    def predict_noise(self, executor, x, timestep, model_options={}, seed=None):
        """Each model call. `x` may be the sampler's own tensor, so it is replaced and not written into."""
        weight = self._shaped(self.anchor.weight(x), timestep, executor.class_obj, model_options)
        denoised = executor(self.anchor.enter(x, timestep, weight), timestep, model_options, seed)
        return self.anchor.leave(denoised, weight)

    def _shaped(self, weight: Tensor, timestep: Tensor, guider, model_options: dict) -> Tensor:
        """The weight as the host's Differential Diffusion shapes masks over the run; what is kept stays kept."""
        function = model_options.get("denoise_mask_function")
        if function is None:
            return weight
        sigmas = model_options.get("transformer_options", {}).get("sample_sigmas")
        shaped = function(timestep, weight, extra_options={"model": guider, "sigmas": sigmas})
        return torch.where(weight <= 0, weight, shaped)

    def _raw_source(self, patcher, samples: Tensor, latent_image: Tensor, sigma: Tensor) -> Tensor:
        """What the kept part of the run's result, a raw latent, has to be."""
        model, sampling = patcher.model, patcher.get_model_object("model_sampling")
        scaled = self.anchor.at(float(sigma), samples)
        clean = torch.equal(scaled, self.anchor.source(samples))
        raw = model.process_latent_out(sampling.inverse_noise_scaling(sigma.to(samples), scaled))
        if clean and latent_image.shape == samples.shape:
            # Scaling there and back may cost the last bit; where the very source was sampled, that bit is known.
            latent_image = latent_image.to(samples)
            raw = torch.where(model.process_latent_in(latent_image) == scaled, latent_image, raw)
        return raw


def noise_for_start(model_sampling, start: Tensor, sigma: Tensor, latent_image: Tensor, max_denoise: bool) -> Tensor:
    """The noise from which the host's own scaling makes `start`; all are (B, C, h, w) in the host's scaled form.

    Every parametrisation scales noise to a * noise + b(latent), so two probes give a and b.
    """
    zero, one = torch.zeros_like(start), torch.ones_like(start)
    shift = model_sampling.noise_scaling(sigma, zero.clone(), latent_image, max_denoise)
    scale = model_sampling.noise_scaling(sigma, one, zero, max_denoise)
    return (start - shift) / scale
