"""How far neighbouring frames lie apart to the eye: by the VAE's latents, the host's CLIP Vision, or LPIPS."""

from __future__ import annotations

from typing import Literal, get_args

import comfy.model_management
import torch
from torch import Tensor

from ..morphing.distances import pairs, plain_steps, token_steps
from .memory import chunked_cat
from .progress import check_interrupt

Measure = Literal["latents", "clip vision", "lpips"]
MEASURES: tuple[Measure, ...] = get_args(Measure)


def frame_distances(
    measure: Measure, *, cyclic: bool, images: Tensor | None = None, latents: Tensor | None = None, vae=None, clip=None
) -> Tensor:
    """(N-1,) distances of neighbours, or (N,) around a cycle, float32 on the CPU.

    images: (N, H, W, C) in 0..1; latents: (N, C, h, w), which serve `latents` without a VAE. vae: the host's VAE, a
    small preview decoder's included; clip: its CLIP_VISION. Raises ValueError with a sentence for what is missing.
    """
    if measure == "latents":
        return plain_steps(_latents(images, latents, vae), cyclic).cpu()
    if images is None:
        raise ValueError(f"The measure `{measure}` looks at pictures: connect the decoded frames to `images`.")
    if measure == "clip vision":
        if clip is None:
            raise ValueError("The measure `clip vision` needs CLIP_VISION: connect a Load CLIP Vision node.")
        return token_steps(chunked_cat(lambda rows: _tokens(clip, images[rows]), len(images)), cyclic).cpu()
    if measure == "lpips":
        return _lpips(images, cyclic)
    raise ValueError(f"The measure '{measure}' is unknown: choose one of {', '.join(MEASURES)}.")


def _latents(images: Tensor | None, latents: Tensor | None, vae) -> Tensor:
    if latents is not None:
        return latents
    if images is None or vae is None:
        raise ValueError(
            "The measure `latents` needs the latents of the frames: connect the sampler's latent to `latent`, or the "
            "decoded frames and a VAE."
        )
    return vae.encode(images[..., :3])


def _tokens(clip, images: Tensor) -> Tensor:
    """(N, T, D) features of places; the whole picture, not its middle square."""
    check_interrupt()
    output = clip.encode_image(images[..., :3], crop=False)
    tokens = output["penultimate_hidden_states"]
    return tokens if isinstance(tokens, Tensor) and tokens.ndim == 3 else output["last_hidden_state"]


def _lpips(images: Tensor, cyclic: bool) -> Tensor:
    """LPIPS (arXiv 1801.03924) with AlexNet, pictures in -1..1 as its authors have them."""
    try:
        import lpips

        network = lpips.LPIPS(net="alex", verbose=False)
    except Exception as error:
        raise ValueError(
            "The measure `lpips` needs the Python package lpips with its weights, which this ComfyUI does not have: "
            "install it, or choose `latents` or `clip vision`."
        ) from error
    device = comfy.model_management.get_torch_device()
    network = network.to(device).eval().requires_grad_(False)
    before, after = pairs(images[..., :3].movedim(-1, 1) * 2.0 - 1.0, cyclic)

    def some(rows: slice) -> Tensor:
        check_interrupt()
        return network(before[rows].to(device), after[rows].to(device)).flatten().cpu()

    return chunked_cat(some, len(before)) if len(before) else torch.zeros(0)
