"""The things that an edited caption changes, named by their nouns: where local blend looks when nobody names them.

A phrase in which a word is new, gone, replaced or weighed names its thing by its head, the last word in English: "a red
heart" with another colour names "heart". Captions without English phrases name the changed words themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .pairing import Method, Word, pair
from .phrases import has_phrase_marks, is_determiner, phrases
from .token_alignment import Alignment, Prompt


def changed_things(
    source: Prompt, edit: Prompt, alignment: Alignment, method: Method = "by phrase"
) -> tuple[tuple[Word, ...], tuple[Word, ...]]:
    """The words that name what changes, of the source and of the edit."""
    found = pair(source.words, edit.words, method)
    weighed = {j for j, word in enumerate(edit.words) if bool((alignment.scale[list(word.columns)] != 1).any())}
    old = {*(i for group, _ in found.swaps for i in group), *found.dropped}
    old |= {i for i, j in found.kept if j in weighed}
    new = {*(j for _, j in found.swaps), *found.added, *weighed}
    texts = [[word.text.lower() for word in prompt.words] for prompt in (source, edit)]
    english = method == "by phrase" and any(map(has_phrase_marks, texts))
    names = _heads if english else _themselves
    return names(source.words, old), names(edit.words, new)


def columns_of(words: Iterable[Word]) -> tuple[int, ...]:
    return tuple(column for word in words for column in word.columns)


def _heads(words: Sequence[Word], places: set[int]) -> tuple[Word, ...]:
    """The heads of the phrases whose own words stand at these places; of those that are led in there, if there are
    none. A phrase without a head leads in the next."""
    texts = [word.text.lower() for word in words]
    cut = phrases(texts)
    own = {place for one in cut for place in range(one.body, one.end) if not is_determiner(texts[place])}
    places = places & own or places
    heads, waiting = list[Word](), False
    for one in cut:
        waiting |= bool(places & set(range(one.start, one.end)))
        if waiting and one.end > one.body:
            heads.append(words[one.head])
            waiting = False
    return tuple(heads)


def _themselves(words: Sequence[Word], places: set[int]) -> tuple[Word, ...]:
    return tuple(words[place] for place in sorted(places))
