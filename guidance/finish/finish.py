"""From a source and what an editor made of it to the source with nothing but the edit: all steps, in their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..morphology import dilate
from .alignment import Alignment, Box, resized, size_of, warp, within
from .changes import find, without_rings
from .colour import Cast, Colour, fit
from .composite import compose, enlarged as scaled, opacity
from .registration import FULL, Registered, register

Registration = Literal["automatic", "on", "off"]

ROUGH, LEFT = 2**14, 0.2
"""The size of the copies on which edits are looked for at first, and the fraction that has to remain for a cast."""
VISIBLE = 1 / 255
"""Less of the edit than this shows in no picture of 8 bits but by rounding, where its mask would be nothing."""
STILL = 0.15
"""Moves of less than this many pixels of the edited picture are none: to undo them would only soften the picture."""
SAME_PICTURE = 0.2
"""Where less of the source's texture is found again, the two are different pictures."""
MOST = 0.6
"""From this fraction on, the two may be different pictures whose texture agrees by chance."""
SMALL = 32
"""Edits narrower than this, in pixels of the source, may be accidents; in smaller pictures no move can be told."""
DIFFERENT = (
    "Nothing of 'source' is found again in 'edited' ({0:.0f} % of its texture): connect the picture that was made from "
    "this very source; or, if the edit was to change everything, paint a 'mask' and set 'registration' to off."
)
CHANGED = (
    "Most of the picture has changed ({0:.0f} %): if 'edited' was not made from this very source, connect the picture "
    "that was; else connect a 'mask' of what may change."
)
NOTHING = (
    "No change was found, and the source comes back as it was: connect a 'mask', if there is one too faint to find."
)
EMPTY = "The mask marks nothing, and the source comes back as it was: paint what may change, or disconnect 'mask'."
PLAIN = "The source is too plain or too small to find out whether the edited picture has moved; it is taken as it lies."
TINY = "The largest change is no more than {0:.0f} pixels wide, and may be an accident: check the mask."
UNSEEN = "{0:.0f} % of the mask lie where the edited picture shows nothing of the source; there the source stays."


@dataclass(frozen=True, kw_only=True)
class FinishRecipe:
    """registration: whether moves are looked for; automatic leaves out those too small to see. colour: which cast is
    undone. grow, feather: pixels of the copy on which pictures are compared, a megapixel at most. grain: the source's
    noise is added to what is smoother. detail: 0..1, the source's fine structure where the edit has the same.
    """

    registration: Registration = "automatic"
    colour: Colour = "gain and offset"
    grow: float = 1.0
    feather: float = 1.0
    grain: bool = False
    detail: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Finished:
    """picture (3 or 4, H, W); alpha (H, W), how much of the edit is seen: where it is 0 the picture is the source's to
    the bit. fraction: of the picture that has changed. outside: pixels that differ from the source where alpha is 0,
    counted. warnings: sentences."""

    picture: Tensor
    alpha: Tensor
    alignment: Alignment
    cast: Cast
    fraction: float
    outside: int
    warnings: tuple[str, ...]


def finish(
    source: Tensor,
    edited: Tensor,
    mask: Tensor | None = None,
    recipe: FinishRecipe = FinishRecipe(),
    *,
    larger: Tensor | None = None,
    place: Box | None = None,
    step: Callable[[], None] = lambda: None,
) -> Finished:
    """source (3 or 4, H, W), edited (3, h, w), mask (H, W) of what may change, in 0..1, or None: it is found.

    larger: the edited picture enlarged by other means, (3, h', w'), of its proportions; its pixels are used. place: the
    part of the source that the edited picture shows. step: called after each part of the work. Raises ValueError where
    the edited picture is another one.
    """
    if place is not None:
        return _within(source, edited, mask, recipe, place, larger, step)
    return _whole(source, edited, mask, recipe, Alignment.lying(size_of(source), size_of(edited)), larger, step)


def _whole(
    source: Tensor,
    edited: Tensor,
    mask: Tensor | None,
    recipe: FinishRecipe,
    lying: Alignment,
    larger: Tensor | None,
    step: Callable[[], None],
) -> Finished:
    """All of `finish` but for a place. lying: how both lie where nothing has moved."""
    size, small = size_of(source), within(size_of(source), FULL)
    before = resized(source[:3], small)
    after = resized(edited, within(size_of(edited), small[0] * small[1]))
    warnings: list[str] = []
    found = _aligned(before, after, lying.at(small, size_of(after)), recipe, warnings, must=mask is None)
    step()
    view, known = warp(after, found, "bicubic"), found.overlap().to(before.device)
    cast = _cast(before, view, known, recipe.colour)
    step()
    if mask is None:
        tinted = cast.laid_on(before)
        wanted = find(tinted, view, known)
        alpha = opacity(wanted.float(), recipe.grow, recipe.feather)
        # Who grows the mask wants what is faint as well.
        alpha = without_rings(alpha, wanted, tinted, view) if recipe.grow <= 1 else alpha
    else:
        # A connected mask is of the source's size, a found one of the copy's.
        pixels = mask.shape[0] / small[0]
        alpha = opacity(mask, recipe.grow * pixels, recipe.feather * pixels)
    alpha = scaled(alpha, size)
    alignment = found.at(size, size_of(edited))
    whole = scaled(known.float(), size) == 1
    warnings += _doubts(alpha, mask, whole)
    alpha = alpha * whole
    alpha = torch.where(alpha > VISIBLE, alpha, 0)
    step()
    shown = edited if larger is None else larger
    picture = compose(
        source, shown, alpha, alignment=alignment.at(size, size_of(shown)), cast=cast, grain=recipe.grain,
        detail=recipe.detail, step=step,
    )  # fmt: skip
    return Finished(
        picture=picture,
        alpha=alpha,
        alignment=alignment,
        cast=cast,
        **_counted(picture, source, alpha),
        warnings=tuple(warnings),
    )


def _counted(picture: Tensor, source: Tensor, alpha: Tensor) -> dict:
    """What `Finished` counts."""
    changed = alpha > 0
    outside = (picture != source).any(0) & ~changed
    return {"fraction": float(changed.float().mean()), "outside": int(outside.sum())}


def _within(
    source: Tensor,
    edited: Tensor,
    mask: Tensor | None,
    recipe: FinishRecipe,
    place: Box,
    larger: Tensor | None,
    step: Callable[[], None],
) -> Finished:
    """The same for a part of the source, of which all was brought to the edited size; around it nothing changes."""
    rows, columns = slice(place.top, place.bottom), slice(place.left, place.right)
    here, marked = source[:, rows, columns], None if mask is None else mask[rows, columns]
    lying = Alignment.stretched(size_of(here), size_of(edited))
    part = _whole(here, edited, marked, recipe, lying, larger, step)
    picture, alpha = source.clone(), source.new_zeros(size_of(source))
    picture[:, rows, columns], alpha[rows, columns] = part.picture, part.alpha
    return replace(part, picture=picture, alpha=alpha, **_counted(picture, source, alpha))


def _cast(before: Tensor, view: Tensor, known: Tensor, colour: Colour) -> Cast:
    """The cast, fitted twice: the second time without what seems to be edited after the first, on small copies."""
    size = within(size_of(before), ROUGH)
    cast = fit(before, view, known, colour)
    source, small = resized(before, size), resized(view, size)
    seen = resized(known[None].float(), size)[0] > 0.99
    kept = seen & ~dilate(find(cast.laid_on(source), small, seen)[None], 2)[0]
    return fit(source, small, kept, colour) if kept.sum() > LEFT * seen.sum() else cast


def _aligned(
    before: Tensor, after: Tensor, still: Alignment, recipe: FinishRecipe, warnings: list[str], must: bool
) -> Alignment:
    """still: how both lie where nothing has moved. must: there is no mask. Then, and with registration on, pictures
    that do not match raise ValueError; otherwise they are taken as they lie, with a warning."""
    if recipe.registration == "off":
        return still
    small = min(*before.shape[1:], *after.shape[1:]) < SMALL
    found: Registered | None = None if small else register(before, after)
    if found is None or found.plain:
        warnings.append(PLAIN)
        return still
    if found.matched < SAME_PICTURE:
        sentence = DIFFERENT.format(100 * found.matched)
        if must or recipe.registration == "on":
            raise ValueError(sentence)
        warnings.append(sentence)
        return still
    pixel = max(1.0, before.shape[2] / after.shape[2])
    moved = found.alignment.away(still) > STILL * pixel
    return found.alignment if moved or recipe.registration == "on" else still


def _doubts(alpha: Tensor, mask: Tensor | None, known: Tensor) -> list[str]:
    """Why the result may not be what was meant; known (H, W) bool: what the edited picture shows of the source."""
    changed = alpha > 0
    fraction = float(changed.float().mean())
    if not changed.any():
        return [NOTHING if mask is None else EMPTY]
    doubts = []
    unseen = float((changed & ~known).float().sum() / changed.float().sum())
    if mask is not None and unseen > 0.005:
        doubts.append(UNSEEN.format(100 * unseen))
    if mask is None and fraction > MOST:
        doubts.append(CHANGED.format(100 * fraction))
    side = float(changed.any(0).sum().minimum(changed.any(1).sum()))
    if mask is None and side < SMALL:
        doubts.append(TINY.format(side))
    return doubts
