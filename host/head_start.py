"""A MODEL whose sampling runs start some way along a change of their picture, with any sampler and guider."""

from __future__ import annotations

from comfy.patcher_extension import WrappersMP
from torch import Tensor

KEY = "palimpsest_head_start"


def with_head_start(model, change: Tensor, times: float):
    """A clone of the MODEL that adds `times` the change to the noise of every run; nothing of `model` is changed.

    change: (T, C, h, w) as noise, see `guidance.diffedit.change`; T is 1 or the batch size. With `times` 0 it is the
    plain clone.
    """
    clone = model.clone()
    if times == 0:
        return clone

    def sampler_sample(executor, guider, sigmas, extra_args, callback, noise, latent_image, *args, **kwargs):
        moved = noise + times * _for_batch(change, noise)
        return executor(guider, sigmas, extra_args, callback, moved, latent_image, *args, **kwargs)

    clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, sampler_sample)
    return clone


def _for_batch(change: Tensor, noise: Tensor) -> Tensor:
    """The change for a run of noise (B, C, h, w), or a sentence."""
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
