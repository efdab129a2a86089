"""Papercut edits on one file of weights, as stock nodes give it and as diffusers does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ...papercut.scenes import Scene
from .cases import Edit, edits, pictures
from .diffusers_baseline import diffedit_pipeline

BATCH = 10


class Fixtures(NamedTuple):
    """The shipped model as stock nodes give it and as diffusers does; edits, their pictures, latents and texts."""

    model: object
    vae: object
    reference: object
    pipeline: object
    edits: list[Edit]
    pictures: Tensor  # (B, 256, 256, 3)
    latents: Tensor  # (B, 4, 32, 32), raw
    before: Tensor  # (B, 77, 192); the captions
    after: Tensor
    asked: Tensor  # what DiffEdit Mask is asked: for a new ground, another colour of the object
    empty: Tensor  # (1, 77, 192)
    embed: Callable[[list[str]], Tensor]  # texts -> (B, 77, 192)

    def part(self, rows: slice | list[int]) -> Fixtures:
        """The same with some of the edits."""
        cut = ("pictures", "latents", "before", "after", "asked")
        chosen = self.edits[rows] if isinstance(rows, slice) else [self.edits[i] for i in rows]
        return self._replace(edits=chosen, **{name: getattr(self, name)[rows] for name in cut})

    def batches(self) -> Iterator[tuple[slice, Fixtures]]:
        for first in range(0, len(self.edits), BATCH):
            rows = slice(first, min(first + BATCH, len(self.edits)))
            yield rows, self.part(rows)

    @property
    def grounds(self) -> Tensor:
        """(B,) bool: where the ground is what changes."""
        return torch.tensor([edit.kind == "tone" for edit in self.edits])


def papercut(count: int) -> Fixtures:
    from ...papercut.reference import load_reference
    from ...papercut.shipped import load_shipped

    model, clip, vae = load_shipped()
    chosen = edits(count)

    def embed(texts: list[str]) -> Tensor:
        return torch.cat([clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0] for text in texts])

    def captions(make: Callable[[Edit], Scene]) -> Tensor:
        return embed([make(edit).caption for edit in chosen])

    seen = pictures([edit.before for edit in chosen]).movedim(1, -1)
    latents = torch.cat([vae.encode(some) for some in seen.split(8)])
    texts = captions(lambda edit: edit.before), captions(lambda edit: edit.after), captions(_asked)
    reference = load_reference()
    return Fixtures(
        model, vae, reference, diffedit_pipeline(reference), chosen, seen, latents, *texts, embed([""]), embed
    )


def _asked(edit: Edit) -> Scene:
    if edit.kind != "tone":
        return edit.after
    return edit.before.with_object(0, colour="blue" if edit.before.objects[0].colour != "blue" else "red")
