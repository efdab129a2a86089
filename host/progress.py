"""Progress, preview and interruption for loops of our own; the host merges what comes too fast."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.utils
from PIL import Image
from torch import Tensor

PREVIEW_SIZE = 512


def check_interrupt() -> None:
    """Raises the host's interruption (a BaseException) where the user has asked for it."""
    comfy.model_management.throw_exception_if_processing_interrupted()


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
        import latent_preview

        self._callback: Callable = latent_preview.prepare_callback(patcher, max(1, int(total)))

    def step(self, i: int, total: int, x0: Tensor | None = None, x: Tensor | None = None) -> None:
        """x0, x: (B, C, h, w) in the host's scaled form; without x0 only the bar moves."""
        self._callback(i, x0.detach() if x0 is not None else None, x.detach() if x is not None else None, total)
        check_interrupt()
