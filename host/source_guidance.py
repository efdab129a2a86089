"""Source guidance as a patch of the host's MODEL, and as its GUIDER."""

from __future__ import annotations

import comfy.samplers
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..guidance.anchor import shrink_mask
from ..guidance.source_guidance import SourceGuidance, guided_from_source
from .network_calls import require_every_call
from .sampler_traits import replay_kind, sampler_name

KEY, TECHNIQUE = "palimpsest_source_guidance", "Source Guidance"
NO_SOURCE = (
    "Source Guidance needs the source prompt as the sampler's negative: connect what the picture shows there, or the "
    "GUIDER of the node to Sampler Custom Advanced."
)
# How far a mask's sides may be from those of the latent's picture, as a fraction: a VAE crops up to a cell.
CROPPED = 0.15


def with_source_guidance(model, recipe: SourceGuidance, mask: Tensor | None = None):
    """A clone of the MODEL that any sampler guides from its negative, the source prompt, to its positive.

    mask: MASK (M, H, W) in 0..1, in place of the found weight. The sampler's CFG counts for nothing. Raises ValueError
    at the start of a run whose sampler draws fresh noise, that has no source prompt, or that the mask does not fit.
    """
    clone, run = model.clone(), _Run(recipe, mask)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, run.outer_sample)
    later = clone.model_options.get("sampler_post_cfg_function", [])
    # Not in the place of guidance: what is returned there is taken from x and back, which costs the last bits.
    clone.set_model_sampler_post_cfg_function(run.guide, disable_cfg1_optimization=True)
    clone.model_options["sampler_post_cfg_function"] = [run.guide, *later]
    return clone


def source_guider(model, positive: list, negative: list) -> comfy.samplers.CFGGuider:
    """The GUIDER for a MODEL of `with_source_guidance`; CONDITIONINGs: of the target and of the source."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(SourceGuidance().correction)
    return guider


class _Run:
    """Keeps nothing between calls."""

    def __init__(self, recipe: SourceGuidance, mask: Tensor | None):
        self.recipe, self.mask = recipe, mask

    def outer_sample(self, executor, noise, latent_image, sampler, *args, **kwargs):
        """Before anything is loaded."""
        guider = executor.class_obj
        require_every_call(guider, TECHNIQUE)
        if not guider.conds.get("negative"):
            raise ValueError(NO_SOURCE)
        if replay_kind(sampler) == "fresh noise":
            raise ValueError(
                f"The sampler '{sampler_name(sampler)}' draws fresh noise at its steps and would cover the picture "
                "that Source Guidance edits: choose 'euler' or 'ddim'."
            )
        if self.mask is not None:
            require_mask_of(self.mask, noise)
        return executor(noise, latent_image, sampler, *args, **kwargs)

    def guide(self, args: dict) -> Tensor:
        """D, whatever the sampler's own guidance has made."""
        target, source = args["cond_denoised"], args["uncond_denoised"]
        mask = self.mask
        if mask is not None:
            cells = shrink_mask(mask.to(source), *source.shape[-2:])
            mask = cells.reshape(len(cells), *[1] * (source.ndim - 3), *cells.shape[1:])
        weight = self.recipe.weight(target, source, mask)
        in_its_place = args["model_options"].get("sampler_cfg_function")
        if in_its_place is None:
            return guided_from_source(target, source, weight)
        # Another node's, such as RescaleCFG: it takes the weights as its scale.
        x = args["input"]
        ends = {"cond": x - target, "uncond": x - source, "cond_scale": weight, "timestep": args["sigma"]}
        return x - in_its_place({**args, **ends})


def require_mask_of(mask: Tensor, latent: Tensor) -> None:
    """Raises ValueError where a MASK (M, H, W) belongs to another picture or batch than a latent (B, C, h, w)."""
    batch, (height, width) = latent.shape[0], latent.shape[-2:]
    if mask.shape[0] not in (1, batch):
        raise ValueError(
            f"The mask of Source Guidance is a batch of {mask.shape[0]}, but {batch} pictures are sampled: connect one "
            "mask, or one for each picture."
        )
    relation = mask.shape[-2] * width / (mask.shape[-1] * height)
    if abs(relation - 1) > CROPPED:
        raise ValueError(
            f"The mask of Source Guidance is {mask.shape[-1]} x {mask.shape[-2]}, of another shape than the picture "
            f"(its latent is {width} x {height}): paint it on the picture that is edited."
        )
