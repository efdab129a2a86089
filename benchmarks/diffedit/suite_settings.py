"""DiffEdit on the 200 Papercut edits of `diffedit.py` by what can be set: how many noises, how strong, an empty
reference; and, on the first of them, other methods to edit within the same masks.

Each setting is searched and edited anew, as an artist would who turns that one knob. Fewer noises are the first ones of
the many. The plain setting is measured again here, so that all that is compared comes from one run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ...guidance.diffedit.heat_map import SLIGHT, STEADY, heat_map, steadiness, strongest
from ..context import every_core
from ..results import Row
from .batch_edits import groups, inversions, judged, our_edits
from .fixtures import Fixtures, papercut
from .methods import NOISES, OURS, STRENGTH, our_masks, our_places, our_search, scored
from .tables import edit_rows, mask_rows_by

TECHNIQUE = "DiffEdit, other settings"
TECHNIQUES = (TECHNIQUE,)
COUNT, FIRST, TEXTS = 200, 80, 40
FEWER, STRENGTHS = (1, 2, 4), (0.3, 0.7)
PLAIN = f"{NOISES} noises, strength {STRENGTH}"


def rows(context) -> Iterable[Row]:
    with torch.inference_mode(), every_core():
        fixtures = papercut(COUNT)
        path = inversions(fixtures)
        plain = our_search(fixtures)
        yield from setting_rows(context, fixtures, PLAIN, plain, path)
        yield context.row(TECHNIQUE, "doubted where the texts differ in a word", "adaptive", doubted(plain[0]), "")
        for count in FEWER:
            name = f"{count} noise{'s' * (count > 1)}, strength {STRENGTH}"
            yield from setting_rows(context, fixtures, name, our_search(fixtures, noises=count), path)
        for strength in STRENGTHS:
            name = f"{NOISES} noises, strength {strength}"
            yield from setting_rows(context, fixtures, name, our_search(fixtures, strength), path)
        empty = our_search(fixtures, references=fixtures.empty)
        yield from setting_rows(context, fixtures, "empty reference", empty, path)
        yield from _doubt_rows(context, fixtures.part(slice(TEXTS)))
        yield from _method_rows(context, fixtures.part(slice(FIRST)), plain, path)


def setting_rows(context, fixtures: Fixtures, name: str, found: tuple, path) -> Iterator[Row]:
    """found: maps (n, B, 32, 32) and changes (B, 4, 32, 32); path: the inverted pictures."""
    maps, changes = found
    chosen = {"all": torch.ones_like(fixtures.grounds), **groups(fixtures)}
    parts = {f"{part}, {name}": chosen[part] for part in ("all", "objects", "grounds")}
    yield from mask_rows_by(context, TECHNIQUE, "adaptive", scored(our_masks(fixtures, maps), fixtures), parts)
    made = our_edits(fixtures, *our_places(fixtures, maps, changes), path)
    yield from edit_rows(context, TECHNIQUE, f", {name}", "fast", judged(made.pictures, fixtures))


def doubted(maps: Tensor) -> float:
    """The fraction of maps (n, B, 32, 32) under which the node writes that the mask may mean nothing."""
    slight, chance = strongest(heat_map(maps, trim=OURS.trims)) < SLIGHT, steadiness(maps) < STEADY
    return float((slight | chance).float().mean())


def _doubt_rows(context, some: Fixtures) -> Iterator[Row]:
    """Texts that say the same in other words give a map too: how often is that said?"""
    captions = [edit.before.caption for edit in some.edits]
    texts = {
        "a full stop": [caption + "." for caption in captions],
        "an article": [caption.replace(" on a", " on the") for caption in captions],
    }
    for name, captions in texts.items():
        fraction = doubted(our_search(some, noises=4, queries=some.embed(captions))[0])
        yield context.row(TECHNIQUE, f"doubted where the texts differ in {name}", "adaptive", fraction, "")


def _method_rows(context, some: Fixtures, plain: tuple, path) -> Iterator[Row]:
    """The first edits with one thing left out or made in another way; plain, path: of all edits."""
    maps, changes = plain[0][:, :FIRST], plain[1][:FIRST]
    path = path.part(slice(FIRST))
    masks, moved = our_places(some, maps, changes)
    made = {
        "fast": our_edits(some, masks, moved, path),
        "mask not grown": our_edits(some, masks, moved, path, wider=0),
        "no head start": our_edits(some, masks, None, path),
        "no draft of a new shape": our_edits(some, masks, moved, path, drafts=0),
        "CFG 5": our_edits(some, masks, moved, path, cfg=5.0),
        "fresh noise": our_edits(some, masks, moved, path, fresh=True),
        "inverted with the old caption": our_edits(some, masks, moved, inversions(some, named=True)),
    }
    for mode, edits in made.items():
        yield from edit_rows(context, TECHNIQUE, f", {FIRST} edits", mode, judged(edits.pictures, some))
