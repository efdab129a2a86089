"""How far neighbouring frames lie apart to the eye: by the VAE's latents, the host's CLIP Vision, or LPIPS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import comfy.model_management
import torch
from torch import Tensor

from ...morphing.frame_distance import pairs, plain_between, table, token_between
from ...morphing.lpips_network import lpips_network
from ..memory import chunked_cat
from ..progress import check_interrupt

Measure = Literal["latents", "clip vision", "lpips"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
OTHERS = "or choose `latents` or `clip vision`."
# Frames (N, ...) twice, or one of them alone the first time -> their distances (N,).
Between = Callable[[Tensor, Tensor], Tensor]


def frame_distances(
    measure: Measure, *, cyclic: bool, images: Tensor | None = None, latents: Tensor | None = None, vae=None, clip=None
) -> Tensor:
    """(N-1,) distances of neighbours, or (N,) around a cycle, float32 on the CPU.

    images: (N, H, W, C) in 0..1; latents: (N, C, h, w), which serve `latents` without a VAE. vae: the host's VAE, a
    small preview decoder's included; clip: its CLIP_VISION. Raises ValueError for what is missing.
    """
    frames, between = _seen_by(measure, images, latents, vae, clip)
    return between(*pairs(frames, cyclic)).cpu()


def distance_table(
    measure: Measure, *, images: Tensor | None = None, latents: Tensor | None = None, vae=None, clip=None
) -> Tensor:
    """(N, N), the distances of any two frames; all else as `frame_distances`."""
    return table(*_seen_by(measure, images, latents, vae, clip))


def _seen_by(measure: Measure, images: Tensor | None, latents: Tensor | None, vae, clip) -> tuple[Tensor, Between]:
    """The frames as a measure sees them, and how far two of them lie apart."""
    if measure == "latents":
        return _latents(images, latents, vae), plain_between
    if images is None:
        raise ValueError(f"The measure `{measure}` compares pictures: connect the decoded frames to `images`.")
    if measure == "clip vision":
        if clip is None:
            raise ValueError("The measure `clip vision` needs CLIP_VISION: connect a Load CLIP Vision node.")
        return chunked_cat(lambda rows: _tokens(clip, images[rows]), len(images)), token_between
    if measure == "lpips":
        # Pictures in -1..1, as the authors of LPIPS have them.
        return images[..., :3].movedim(-1, 1) * 2.0 - 1.0, _lpips()
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


def _lpips() -> Between:
    device = comfy.model_management.get_torch_device()
    network = lpips_network("alex", "The measure `lpips`", OTHERS).to(device)

    def between(before: Tensor, after: Tensor) -> Tensor:
        before = before.expand_as(after)

        def some(rows: slice) -> Tensor:
            check_interrupt()
            return network(before[rows].to(device), after[rows].to(device)).flatten().cpu()

        return chunked_cat(some, len(before)) if len(before) else torch.zeros(0)

    return between
