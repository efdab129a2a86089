"""Papercut edits by words: a scene, what its caption becomes, and what the classifier must then find where.

One cut-out on a ground. Seven kinds take turns; to add and to remove mean a word of the caption, and the pattern that
it names. All is drawn from a split that training never reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from torch import Tensor

from ...papercut.classifier import truth
from ...papercut.scenes import SPLITS, Scene, sample_scene
from ...papercut.shapes import COLOURS, GROUNDS, SHAPES, TONES

FIRST_SEED, FIRST_WEIGHT = 40_000, 60_000
PATTERNED = ("striped", "dotted")
WEIGHTS = (0.0, 0.8)
"""Of a phrase that is to count for nothing, and for a little less."""
TWICE = 2.0
"""The weight of a new word that is to count for more, as the published code has it."""


@dataclass(frozen=True)
class WordEdit:
    """before, after: the scenes. edited: the text for the edit; it is the new caption but for re-weighted words.
    words: those whose place may change, old and new. mask: (256, 256) bool, that place in truth.
    kept: words whose place may not."""

    kind: str
    before: Scene
    after: Scene
    edited: str
    words: str
    mask: Tensor
    kept: str = ""

    @property
    def caption(self) -> str:
        return self.before.caption

    @property
    def answers(self) -> dict[str, str]:
        """What the classifier must say of the edited picture: all that the new caption says."""
        return truth(self.after)


def word_edits(count: int, split: str = "test") -> list[WordEdit]:
    """The first `count` edits of a split."""
    seeds = SPLITS[split][FIRST_SEED:]
    return [_KINDS[KINDS[i % len(KINDS)]](KINDS[i % len(KINDS)], seeds[i]) for i in range(count)]


@dataclass(frozen=True)
class WordWeight:
    """A phrase of the caption counts for less, and nothing else is changed: the ground.

    (Papercut's text encoder says at a thing's noun, too, what colour and pattern it has, so that a weight on one of
    those words is hardly heard.) texts: the caption with the phrase taken away, and weighed a little less.
    answers: what the classifier says of it. words, kept, mask: as of a `WordEdit`.
    """

    before: Scene
    texts: tuple[str, str]
    answers: tuple[str, ...]
    words: str
    kept: str
    mask: Tensor

    @property
    def caption(self) -> str:
        return self.before.caption


def word_weights(count: int, split: str = "test") -> list[WordWeight]:
    """The first `count` phrases of a split."""
    return [_weighed(seed) for seed in SPLITS[split][FIRST_WEIGHT : FIRST_WEIGHT + count]]


def _weighed(seed: int) -> WordWeight:
    before, _ = _scene(seed)
    phrase = before.ground.name
    texts = tuple(before.caption.replace(phrase, f"({phrase}:{weight:g})", 1) for weight in WEIGHTS)
    return WordWeight(before, texts, ("kind", "tone"), "", before.objects[0].shape, ~before.masks()[0])


def _scene(seed: int, **changes) -> tuple[Scene, Random]:
    return sample_scene(seed, objects=1).with_object(0, **changes), Random(f"papercut-words-{seed}")


def _other(rng: Random, words, present: str) -> str:
    return rng.choice([word for word in words if word != present])


def _on_the_object(kind: str, before: Scene, **change: str) -> WordEdit:
    after = before.with_object(0, **change)
    place = before.masks()[0] | after.masks()[0]
    words = ", ".join(dict.fromkeys(scene.objects[0].shape for scene in (before, after)))
    return WordEdit(kind, before, after, after.caption, words, place)


def _colour(kind: str, seed: int) -> WordEdit:
    before, rng = _scene(seed)
    return _on_the_object(kind, before, colour=_other(rng, COLOURS, before.objects[0].colour))


def _shape(kind: str, seed: int) -> WordEdit:
    before, rng = _scene(seed)
    return _on_the_object(kind, before, shape=_other(rng, SHAPES, before.objects[0].shape))


def _pattern(kind: str, seed: int) -> WordEdit:
    old, new = Random(f"papercut-pattern-{seed}").sample(PATTERNED, 2)
    return _on_the_object(kind, _scene(seed, pattern=old)[0], pattern=new)


def _add(kind: str, seed: int) -> WordEdit:
    """A word more: the plain paper gets a pattern."""
    before, rng = _scene(seed, pattern="plain")
    return _on_the_object(kind, before, pattern=rng.choice(PATTERNED))


def _remove(kind: str, seed: int) -> WordEdit:
    """A word less: the pattern goes."""
    pattern = Random(f"papercut-remove-{seed}").choice(PATTERNED)
    return _on_the_object(kind, _scene(seed, pattern=pattern)[0], pattern="plain")


def _ground(kind: str, seed: int) -> WordEdit:
    before, rng = _scene(seed)
    if seed % 2:
        after = before.with_ground(tone=_other(rng, TONES, before.ground.tone))
    else:
        after = before.with_ground(kind=_other(rng, GROUNDS, before.ground.kind))
    return WordEdit(kind, before, after, after.caption, "", ~before.masks()[0], before.objects[0].shape)


def _reweight(kind: str, seed: int) -> WordEdit:
    """A word is changed and the new one weighed, as the published code chains the two.

    Weights alone are in `word_weights`: there no answer changes, since Papercut's text encoder says at every noun, and
    at the end, what the whole caption says, so that a word whose own column is taken away is still heard.
    """
    edit = _colour(kind, seed)
    colour = edit.after.objects[0].colour
    edited = edit.edited.replace(f"{colour} ", f"({colour}:{TWICE:g}) ", 1)
    return WordEdit(kind, edit.before, edit.after, edited, edit.words, edit.mask)


_KINDS = {
    "colour": _colour, "shape": _shape, "pattern": _pattern, "ground": _ground, "add": _add, "remove": _remove,
    "re-weight": _reweight,
}  # fmt: skip
KINDS = tuple(_KINDS)
