"""Progress, preview and interruption for loops of our own; the host merges what comes too fast."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
import latent_preview
import torch
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

PREVIEW_SIZE = 512


def check_interrupt() -> None:
    """Raises the host's interruption (a BaseException) where the user has asked for it."""
    comfy.model_management.throw_exception_if_processing_interrupted()


class Interruptible(TorchFunctionMode):
    """Inside, the host's interruption is raised between any two operations of torch: for work on pictures, masks and
    flows, which has no loop of its own to ask in. A model's layers ask by themselves."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        check_interrupt()
        return function(*args, **(kwargs or {}))


def as_picture(image: Tensor) -> Image.Image:
    """image: (H, W, C) or (B, H, W, C) in 0..1, of which the first is shown."""
    image = image[0] if image.ndim == 4 else image
    pixels = image.detach().clamp(0, 1).mul(255).round().byte().cpu().numpy()
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)


class Progress:
    """The progress bar of the node that runs. total: number of steps; `step(i)` counts from 0."""

    def __init__(self, total: int):
        self.total = max(1, int(total))
        self._bar = comfy.utils.ProgressBar(self.total)

    def step(self, i: int, preview: Tensor | Image.Image | None = None) -> None:
        """Step i (0-based) is done. preview: a PIL picture, or IMAGE values (H, W, C) in 0..1.

        Raises the host's interruption where the user has asked for it.
        """
        picture = as_picture(preview) if isinstance(preview, Tensor) else preview
        shown = None if picture is None else ("JPEG", picture, PREVIEW_SIZE)
        self._bar.update_absolute(i + 1, self.total, shown)
        check_interrupt()


class LatentProgress:
    """Progress whose preview is a latent, decoded by the host's own previewer (the user's preview method).

    patcher: the MODEL whose latent format the preview follows.
    """

    def __init__(self, patcher, total: int):
        self.total = max(1, int(total))
        self._bar = comfy.utils.ProgressBar(self.total)
        self._previewer = latent_preview.get_previewer(patcher.load_device, patcher.model.latent_format)

    def step(self, i: int, total: int | None = None, x0: Tensor | None = None) -> None:
        """Step i (0-based) of total is done. x0: (B, C, h, w) in the host's scaled form; without it only the bar moves.

        Raises the host's interruption where the user has asked for it.
        """
        shown = None
        if x0 is not None and self._previewer is not None:
            with torch.no_grad():
                shown = self._previewer.decode_latent_to_preview_image("JPEG", x0.detach())
        self._bar.update_absolute(i + 1, total, shown)
        check_interrupt()
