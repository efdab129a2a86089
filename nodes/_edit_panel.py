"""What Edit Report measures and shows: pictures that fit each other, and the panel's tiles."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..guidance.edit_measures import OUTSIDE, WHOLE, EditMeasures
from ..host.images import is_crop, middle
from ..host.notify import notify
from ..host.validation import require_picture, require_same_batch, require_same_size
from ..inversion.quality import PSNR_EQUAL
from ._panel import BACKGROUND, error_map, panel

# A colour that photographs hardly have.
MASKED = (1.0, 0.0, 0.8)


def as_encoded(source: Tensor, mask: Tensor | None, edit: Tensor) -> tuple[Tensor, Tensor | None]:
    """Source and mask cropped as VAE Encode crops pictures whose sides are no multiples of its cells, like the edit."""
    require_picture(source, "The source", multiple=1)
    require_picture(edit, "The edit", multiple=1)
    whole, size = tuple(source.shape[1:3]), tuple(edit.shape[1:3])
    if not is_crop(size, whole):
        return source, mask
    notify(f"The source is measured in its middle, {size[1]} x {size[0]}, which is what VAE Encode kept of it.")
    mask = middle(mask, size) if mask is not None and tuple(mask.shape[1:]) == whole else mask
    return middle(source, size), mask


def prepared(source: Tensor, edit: Tensor) -> tuple[Tensor, Tensor]:
    """Both as (B, H, W, 3) float32 on the CPU, a source for every edit."""
    require_same_size(source, edit, "The source", "the edit")
    require_same_batch(source, edit, "The source", "the edit")
    rows = max(len(source), len(edit))
    return tuple(image[..., :3].float().cpu().expand(rows, -1, -1, -1) for image in (source, edit))


def tiles(
    source: Tensor, edit: Tensor, mask: Tensor | None, row: int, found: EditMeasures, notes: Sequence[str] = ()
) -> Tensor:
    """The panel of one picture; notes: lines above the numbers."""
    difference = error_map(source[None], edit[None])[0]
    shown = [("source", source), ("edit", edit), ("difference (white: a quarter or more)", difference)]
    if mask is not None:
        shown.append(("mask (magenta), over the source", overlaid(source, mask[row])))
    return panel(shown, [*notes, *found.lines()])


def overlaid(picture: Tensor, mask: Tensor) -> Tensor:
    """picture: (H, W, 3), mask: (H, W), in 0..1 -> the picture, grey and dark but for the mask, which is tinted."""
    grey = 0.6 * picture.mean(-1, keepdim=True).expand_as(picture)
    return torch.lerp(grey, torch.lerp(picture, picture.new_tensor(MASKED), 0.5), mask.unsqueeze(-1).to(picture))


def stacked(panels: Sequence[Tensor]) -> Tensor:
    """(1, H_i, W, 3) of a width, one a picture -> (B, H, W, 3): panels with fewer lines get ground at their foot."""
    height = max(one.shape[1] for one in panels)
    ground = torch.tensor(BACKGROUND) / 255
    rows = []
    for one in panels:
        foot = ground.expand(1, height - one.shape[1], one.shape[2], 3)
        rows.append(torch.cat([one, foot], 1))
    return torch.cat(rows)


def report_means(found: Sequence[EditMeasures]) -> tuple[float, float, float]:
    """PSNR and SSIM outside the mask (of all, where there is no mask) and the changed fraction, means of the batch.

    A picture that is masked wholly has no outside, and is left out; where all are, nothing has changed there.
    """
    regions = [one.region(OUTSIDE if one.masked else WHOLE) for one in found]
    kept = [(one.psnr, one.ssim) for one in regions if one is not None] or [(PSNR_EQUAL, 1.0)]
    psnr, ssim = (sum(values) / len(kept) for values in zip(*kept))
    return psnr, ssim, sum(one.changed for one in found) / len(found)
