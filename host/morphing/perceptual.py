"""How far neighbouring frames lie apart to the eye: by the VAE's latents, the host's CLIP Vision, or LPIPS."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args

import comfy.model_management
import torch
from torch import Tensor
from torchvision.models import AlexNet_Weights

from ...morphing.frame_distance import pairs, plain_between, table, token_between
from ..memory import chunked_cat
from ..progress import check_interrupt

Measure = Literal["latents", "clip vision", "lpips"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
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


def _lpips_network():
    """LPIPS (arXiv 1801.03924) with AlexNet, as its package makes it, which would download what is not here."""
    others = "or choose `latents` or `clip vision`."
    try:
        # No import statement: tests/needs.py takes those for packages that the tests of this module cannot do without.
        lpips = import_module("lpips")
    except ImportError as error:
        raise ValueError(
            "The measure `lpips` needs the Python package lpips, which this ComfyUI does not have: install it, "
            f"{others}"
        ) from error
    url = AlexNet_Weights.IMAGENET1K_V1.url
    file = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    if not file.is_file():
        raise ValueError(
            f"The measure `lpips` needs the weights of AlexNet, and nothing is downloaded for you: put {url} into "
            f"{file.parent}, {others}"
        )
    try:
        return lpips.LPIPS(net="alex", verbose=False)
    except Exception as error:
        raise ValueError(
            f"The measure `lpips` cannot be made from the installed package lpips and {file.name} ({error}): install "
            f"both anew, {others}"
        ) from error


def _lpips() -> Between:
    device = comfy.model_management.get_torch_device()
    network = _lpips_network().to(device).train(False).requires_grad_(False)

    def between(before: Tensor, after: Tensor) -> Tensor:
        before = before.expand_as(after)

        def some(rows: slice) -> Tensor:
            check_interrupt()
            return network(before[rows].to(device), after[rows].to(device)).flatten().cpu()

        return chunked_cat(some, len(before)) if len(before) else torch.zeros(0)

    return between
