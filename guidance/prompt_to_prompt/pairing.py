"""Which word of an edited caption stands for which word of the source: by phrases, or from the right.

By phrases: the phrases of both captions are aligned, and within two that belong together words are matched; a head is
replaced by a head, modifiers by modifiers, and what is left over is new or gone. From the right: words are aligned by
their longest common subsequence alone, and what differs between two matches is paired from its end, where words of the
source that are left over join the first pair. The second needs no grammar and so serves every language.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from .phrases import Phrase, has_phrase_marks, is_determiner, phrases, same_article

Method = Literal["by phrase", "from the right"]
METHODS: tuple[Method, ...] = ("by phrase", "from the right")
# A run of neighbours counts for more than scattered matches, but never for a whole match more.
NEIGHBOUR = 2.0**-12
# What matches count beside an equal word (1): equal articles, equal heads, leading words that are equal or of a kind.
ARTICLE, HEAD, SAME_LEAD, SAME_KIND = 2.0**-6, 2.0**-3, 2.0**-2, 2.0**-3


@dataclass(frozen=True)
class Word:
    """A word and its columns."""

    text: str
    keys: tuple[Hashable, ...]
    columns: tuple[int, ...]


@dataclass(frozen=True)
class Pairing:
    """Places of words in the two captions. kept: (source, edit), equal words; swaps: (source words, edit); added: of
    the edit alone; dropped: of the source alone; guessed: whether the captions have no word that separates phrases,
    so that another reading was possible."""

    kept: tuple[tuple[int, int], ...]
    swaps: tuple[tuple[tuple[int, ...], int], ...]
    added: tuple[int, ...]
    dropped: tuple[int, ...]
    guessed: bool = False


def pair(old: Sequence[Word], fresh: Sequence[Word], method: Method = "by phrase") -> Pairing:
    """The pairing of two captions' words."""
    texts = [[word.text.lower() for word in words] for words in (old, fresh)]
    if method == "from the right":
        return _from_the_right(old, fresh)
    if any(map(has_phrase_marks, texts)):
        return _by_phrase(old, fresh)
    found = _from_the_right(old, fresh)
    return Pairing(found.kept, found.swaps, found.added, found.dropped, _is_ambiguous(old, fresh))


def _from_the_right(old: Sequence[Word], fresh: Sequence[Word]) -> Pairing:
    kept = _common(len(old), len(fresh), lambda i, j: float(old[i].keys == fresh[j].keys))
    swaps, added, dropped = [], [], []
    for mine, theirs in _gaps(kept, len(old), len(fresh)):
        count = min(len(mine), len(theirs))
        tails = mine[len(mine) - count :]
        for place, (a, b) in enumerate(zip(tails, theirs[len(theirs) - count :])):
            swaps.append(((*mine[: len(mine) - count], a) if place == 0 else (a,), b))
        added += theirs[: len(theirs) - count]
        dropped += mine if count == 0 else []
    return Pairing(tuple(kept), tuple(swaps), tuple(added), tuple(dropped))


def _is_ambiguous(old: Sequence[Word], fresh: Sequence[Word]) -> bool:
    kept = _common(len(old), len(fresh), lambda i, j: float(old[i].keys == fresh[j].keys))
    return any(mine and theirs and len(mine) != len(theirs) for mine, theirs in _gaps(kept, len(old), len(fresh)))


class _Captions:
    """Two captions, and how well a word of one answers a word of the other."""

    def __init__(self, old: Sequence[Word], fresh: Sequence[Word]):
        self.old, self.fresh = old, fresh
        self.texts = tuple([word.text.lower() for word in words] for words in (old, fresh))
        self.phrases = tuple(phrases(texts) for texts in self.texts)
        self.heads = tuple({one.head for one in found if one.end > one.body} for found in self.phrases)

    def match(self, i: int, j: int) -> float:
        """0 for words that differ."""
        mine, theirs = self.texts[0][i], self.texts[1][j]
        if not (self.old[i].keys == self.fresh[j].keys or same_article(mine, theirs)):
            return 0.0
        if is_determiner(mine):
            return ARTICLE
        return 1.0 + HEAD * (i in self.heads[0] and j in self.heads[1])

    def determiner(self, side: int, place: int) -> bool:
        return is_determiner(self.texts[side][place])

    def bodies(self, one: Phrase, other: Phrase) -> list[tuple[int, int]]:
        """The words that both phrases have behind what leads them in."""
        found = _common(
            one.end - one.body, other.end - other.body, lambda i, j: self.match(one.body + i, other.body + j)
        )
        return [(one.body + i, other.body + j) for i, j in found]

    def leads(self, one: Phrase, other: Phrase) -> list[tuple[int, int]]:
        found = _common(
            one.body - one.start,
            other.body - other.start,
            lambda i, j: float(self.old[one.start + i].keys == self.fresh[other.start + j].keys),
        )
        return [(one.start + i, other.start + j) for i, j in found]

    def answers(self, one: Phrase, other: Phrase) -> float:
        """How much two phrases have in common; 0 where neither a word nor the kind of phrase is the same."""
        words = sum(self.match(i, j) for i, j in self.bodies(one, other))
        equal = self.texts[0][one.start : one.body] == self.texts[1][other.start : other.body]
        kind = SAME_LEAD if equal else SAME_KIND if one.kind == other.kind else 0.0
        return words + kind if words >= 1 or kind else 0.0


def _by_phrase(old: Sequence[Word], fresh: Sequence[Word]) -> Pairing:
    captions = _Captions(old, fresh)
    mine, theirs = captions.phrases
    kept, swaps = [], []
    for a, b in _common(len(mine), len(theirs), lambda a, b: captions.answers(mine[a], theirs[b])):
        one, other = mine[a], theirs[b]
        leads, bodies = captions.leads(one, other), captions.bodies(one, other)
        kept += leads + bodies
        if one.kind == other.kind:
            swaps += _swaps(captions, leads, (one.start, one.body), (other.start, other.body))
        swaps += _swaps(captions, bodies, (one.body, one.end), (other.body, other.end))
    used = [{i for i, _ in kept + swaps}, {j for _, j in kept + swaps}]
    return Pairing(
        tuple(sorted(kept)),
        tuple(((i,), j) for i, j in sorted(swaps)),
        tuple(j for j in range(len(fresh)) if j not in used[1]),
        tuple(i for i in range(len(old)) if i not in used[0]),
    )


def _swaps(captions: _Captions, kept: list[tuple[int, int]], mine: tuple[int, int], theirs: tuple[int, int]) -> list:
    """Words that stand between the same matches of two phrases, paired from the right, each with its like."""
    found: list[tuple[int, int]] = []
    for old, fresh in _gaps([(i - mine[0], j - theirs[0]) for i, j in kept], mine[1] - mine[0], theirs[1] - theirs[0]):
        for articles in (True, False):
            left = [mine[0] + i for i in old if captions.determiner(0, mine[0] + i) == articles]
            right = [theirs[0] + j for j in fresh if captions.determiner(1, theirs[0] + j) == articles]
            count = min(len(left), len(right))
            found += zip(left[len(left) - count :], right[len(right) - count :])
    return found


def _gaps(kept: Sequence[tuple[int, int]], rows: int, columns: int) -> list[tuple[list[int], list[int]]]:
    """What lies between matches, and before the first and behind the last."""
    gaps, a, b = [], 0, 0
    for i, j in [*kept, (rows, columns)]:
        if i > a or j > b:
            gaps.append((list(range(a, i)), list(range(b, j))))
        a, b = i + 1, j + 1
    return gaps


def _common(rows: int, columns: int, match: Callable[[int, int], float]) -> list[tuple[int, int]]:
    """The common subsequence of the greatest sum of matches; among equals the one with the longest runs, then the
    first. match(i, j): 0 where the two do not match."""
    values = [[match(i, j) for j in range(columns)] for i in range(rows)]
    # best[i][j][m]: the score of the rest from (i, j); m: whether the pair before was a match.
    best = [[[0.0, 0.0] for _ in range(columns + 1)] for _ in range(rows + 1)]
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            skip = max(best[i + 1][j][0], best[i][j + 1][0])
            value = values[i][j] + best[i + 1][j + 1][1] if values[i][j] else -1.0
            best[i][j] = [max(skip, value), max(skip, value + NEIGHBOUR)]
    pairs, i, j, after = [], 0, 0, 0
    while i < rows and j < columns:
        here = best[i][j][after]
        if values[i][j] and here == values[i][j] + best[i + 1][j + 1][1] + NEIGHBOUR * after:
            pairs.append((i, j))
            i, j, after = i + 1, j + 1, 1
        elif here == best[i + 1][j][0]:
            i, after = i + 1, 0
        else:
            j, after = j + 1, 0
    return pairs
