"""A MODEL whose sampling runs start some way along a change of their picture, with any sampler and guider.

Where a shape is to change, what is left of the old picture wins over the words: a disc that shows through the noise
stays a disc. So new shapes are drafted before the run. The model predicts the picture at the first level, and the run
starts from that prediction under new noise, as if it were the source.
"""

from __future__ import annotations

import comfy.sample
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...guidance.diffedit.heat_map import ShapeChanges, new_shape
from ...inversion.diffusion import append_dims
from ..inversion.anchor import noise_for_start

KEY = "palimpsest_head_start"


def with_head_start(model, change: Tensor, times: float, *, drafts: int = 0, shape: ShapeChanges = "detect"):
    """A clone of the MODEL that adds `times` the change to the noise of every run; nothing of `model` is changed.

    change: (T, C, h, w) as noise, see `guidance.diffedit.change`; T is 1 or the batch size. drafts: how often a new
    shape is drafted before the run, a call of the guider each; shape: whether it is one. With `times` 0 it is the
    plain clone.
    """
    clone = model.clone()
    if times == 0:
        return clone
    shapes = append_dims(new_shape(change, shape), 4)

    def sampler_sample(executor, guider, sigmas, extra_args, callback, noise, latent_image, *args, **kwargs):
        moved = noise + times * _for_batch(change, noise)
        # An inversion starts at the picture, which is not to be drafted, and a single level is no run.
        falling = float(sigmas[0]) > float(sigmas[-1])
        for number in range(drafts if falling and shapes.any() else 0):
            full = executor.class_obj.max_denoise(guider, sigmas)
            again = _drafted(guider, sigmas[0], extra_args, moved, latent_image, full, number)
            moved = torch.where(shapes.to(moved.device), again, moved)
        return executor(guider, sigmas, extra_args, callback, moved, latent_image, *args, **kwargs)

    clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, sampler_sample)
    return clone


def _drafted(
    guider, sigma: Tensor, extra_args: dict, noise: Tensor, latent_image: Tensor, full: bool, number: int
) -> Tensor:
    """The noise (B, C, h, w) with which a run on `latent_image` starts from the guider's prediction of its start, under
    new noise. All patches of the model take part, so that a draft keeps what an anchor keeps."""
    sampling = guider.inner_model.model_sampling
    start = sampling.noise_scaling(sigma, noise.clone(), latent_image, full)
    made = guider(start, sigma.expand(len(start)), **extra_args)
    # Another seed than the run's, whose noise the start may have been made with; the greatest is followed by 0.
    seed = ((extra_args.get("seed") or 0) + 1 + number) % 2**64
    fresh = comfy.sample.prepare_noise(made, seed).to(made)
    return noise_for_start(sampling, sampling.noise_scaling(sigma, fresh, made, full), sigma, latent_image, full)


def _for_batch(change: Tensor, noise: Tensor) -> Tensor:
    """The change for a run of noise (B, C, h, w). Raises ValueError where sizes or numbers of pictures differ."""
    if change.shape[1:] != noise.shape[1:]:
        has, needs = ("x".join(str(size) for size in shape[1:]) for shape in (change.shape, noise.shape))
        raise ValueError(
            f"The change was found on a latent of {has} (channels x height x width), but {needs} is sampled: connect "
            "the same picture to DiffEdit Mask and to the sampler."
        )
    if change.shape[0] not in (1, noise.shape[0]):
        raise ValueError(
            f"The change is that of {change.shape[0]} pictures, but {noise.shape[0]} are sampled: give "
            "DiffEdit Mask and the sampler the same pictures, or DiffEdit Mask a single one."
        )
    return change.to(noise)
