"""Key pictures that are no frames of the morph, sampled along with the frames and dropped at the end.

A part of a morph, or alphas that step over a key picture, still read it: its row joins the batch for the length of the
run, with its own inverted noise, its own prompt and (by the plan of the rows) its own LoRA.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from ...inversion.trajectory import Trajectory
from ...morphing.schedule import Alphas
from ..inversion.anchor import noise_for_start
from .conditioning import KEYS, OF_ROWS


class ExtraKeys:
    """alphas: of the frames; keys: the inverted key pictures, needed only if one of them is read but no frame.

    missing: the numbers of those. Raises ValueError if there are some and no `keys` of all pictures.
    """

    def __init__(self, alphas: Alphas, keys: Trajectory | None):
        self.frames = len(alphas)
        self.missing = tuple(key for key in alphas.needed() if alphas.frame_of(key) is None)
        self.keys = keys
        if self.missing and keys is None:
            pictures = " and ".join(str(key) for key in self.missing)
            raise ValueError(
                f"The frames read key picture {pictures} without being it: connect the inverted key pictures to `keys` "
                "of Attention Blend, or choose frames that contain it."
            )
        if self.missing and keys.rows != alphas.keyframes:
            raise ValueError(
                f"`keys` of Attention Blend holds {keys.rows} inverted pictures, but the morph has {alphas.keyframes} "
                "key pictures: invert all of them in one batch."
            )

    def outer_sample(
        self, executor, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, *args, **kwargs
    ):
        """The host's whole sampling run, with the extra rows in it, and without them in what it shows and returns."""
        if noise.shape[0] != self.frames:
            raise ValueError(
                f"Attention Blend was given ALPHAS of {self.frames} frames, but {noise.shape[0]} pictures are to be "
                "sampled: give Morph Latents and this node the same ALPHAS."
            )
        if not self.missing:
            return executor(noise, latent_image, sampler, sigmas, denoise_mask, callback, *args, **kwargs)
        guider = executor.class_obj
        guider.conds = {name: [self._with_rows(entry) for entry in entries] for name, entries in guider.conds.items()}
        added = self._noise(guider, noise, latent_image, sampler, sigmas)
        pictures = latent_image[:1].expand(len(self.missing), *latent_image.shape[1:])
        if denoise_mask is not None and denoise_mask.shape[0] == self.frames:
            denoise_mask = torch.cat([denoise_mask, torch.ones_like(denoise_mask[:1]).expand_as(pictures[:, :1])])
        noise, latent_image = torch.cat([noise, added]), torch.cat([latent_image, pictures])
        if "latent_shapes" in kwargs:
            kwargs["latent_shapes"] = [latent_image.shape]
        callback = callback and self._shown(callback)
        samples = executor(noise, latent_image, sampler, sigmas, denoise_mask, callback, *args, **kwargs)
        return samples[: self.frames]

    def _noise(self, guider, noise: Tensor, latent_image: Tensor, sampler, sigmas: Tensor) -> Tensor:
        """Noise by which the extra rows start at their inverted latents."""
        patcher = guider.model_patcher
        sampling = patcher.get_model_object("model_sampling")
        start = self.keys.at(float(sigmas[0]))[list(self.missing)].to(noise)
        if start.shape[1:] != noise.shape[1:]:
            raise ValueError("`keys` of Attention Blend are of another size than the frames: connect one inversion.")
        picture = latent_image[:1].to(noise)
        if torch.count_nonzero(latent_image) > 0:  # the host leaves an empty latent as it is, too
            picture = patcher.model.process_latent_in(picture)
        wrapped = SimpleNamespace(inner_model=SimpleNamespace(model_sampling=sampling))
        full = bool(sampler.max_denoise(wrapped, sigmas.cpu()))
        return noise_for_start(sampling, start, sigmas[0].to(noise), picture.expand_as(start), full)

    def _with_rows(self, entry: dict) -> dict:
        """A prepared conditioning entry whose frames' rows are followed by the extra key pictures'."""
        tokens, keys = entry.get("cross_attn"), entry.get(KEYS)
        # One row is one prompt for all frames, unless it is the mixed prompt of a single one.
        if not isinstance(tokens, Tensor) or (keys is None and tokens.shape[0] == 1):
            return entry
        if keys is None or tokens.shape[0] != self.frames or keys["cross_attn"].shape[1:] != tokens.shape[1:]:
            raise ValueError(
                "Attention Blend carries key pictures that are no frames, and the prompt does not know theirs: make it "
                "with Morph Conditioning from the same ALPHAS, or use one prompt for all frames."
            )
        rows = list(self.missing)
        entry = {**entry, "cross_attn": torch.cat([tokens, keys["cross_attn"][rows].to(tokens)])}
        for name in OF_ROWS:
            if isinstance(entry.get(name), Tensor) and name in keys:
                entry[name] = torch.cat([entry[name], keys[name][rows].to(entry[name])])
        return entry

    def _shown(self, callback):
        return lambda step, x0, x, total: callback(step, x0[: self.frames], x[: self.frames], total)
