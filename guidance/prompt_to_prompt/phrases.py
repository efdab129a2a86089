"""A caption cut into phrases: a head with what stands before it, and the word that leads the phrase in.

"a woman with a red hat" is two phrases, led in by nothing and by "with"; their heads are "woman" and "hat". English
alone: other languages have none of these words, and `has_phrase_marks` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DETERMINERS = frozenset(
    "a an the this that these those my your his her its our their some any no each every another one two three four "
    "five six seven eight nine ten several many".split()
)
# What leads a phrase in, by what it says. Only phrases that say the same kind of thing take each other's place.
LEADS = {
    "place": "in on at under over above below beneath behind before beside besides near by against around round inside "
    "outside into onto upon across through along between among amid beyond past atop within off toward towards "
    "underneath underwater",
    "company": "with without",
    "of": "of",
    "likeness": "like as",
    "purpose": "for",
    "origin": "from",
    "aim": "to",
    "time": "during after until while when",
    "matter": "about",
    "join": "and or but nor",
}
KIND_OF = {word: kind for kind, words in LEADS.items() for word in words.split()}
PARTICIPLE, JOIN = "participle", "join"
# Nouns and adjectives with the ending of a participle.
NO_PARTICIPLES = frozenset(
    "thing things something nothing anything everything string spring evening morning painting drawing building "
    "ceiling clothing lightning wedding earring railing sibling darling duckling pudding herring sterling viking "
    "hundred sacred naked wicked".split()
)
IRREGULAR = frozenset("made drawn built seen shown taken worn held set lit cut hung bound torn woven".split())


@dataclass(frozen=True)
class Phrase:
    """start, body, end: places in the list of words: words[start:body] lead in, words[body:end] are the phrase itself.

    kind: what the leading words say; "" where there are none.
    """

    start: int
    body: int
    end: int
    kind: str

    @property
    def head(self) -> int:
        """The place of the last word, the noun in English."""
        return self.end - 1


def phrases(words: Sequence[str]) -> list[Phrase]:
    """words: in lower case, punctuation among them -> the phrases, which cover all of them."""
    found: list[Phrase] = []
    start = 0
    while start < len(words):
        body, kind = start, ""
        while body < len(words) and (lead := lead_kind(words, body)):
            body, kind = body + 1, lead
        end = body
        while end < len(words) and not lead_kind(words, end):
            end += 1
        found.append(Phrase(start, body, end, kind))
        start = end
    return found


def lead_kind(words: Sequence[str], place: int) -> str:
    """What the word at this place leads in; "" where it begins no phrase."""
    word = words[place]
    if is_punctuation(word):
        return JOIN
    return KIND_OF.get(word) or (PARTICIPLE if _is_participle(words, place) else "")


def is_determiner(word: str) -> bool:
    return word in DETERMINERS


def same_article(one: str, other: str) -> bool:
    """ "a" and "an" are one word, spelled by the sound that follows."""
    return {one, other} <= {"a", "an"}


def has_phrase_marks(words: Sequence[str]) -> bool:
    """Whether any word separates phrases as English does; punctuation alone does not count."""
    return any(
        is_determiner(word) or (lead_kind(words, i) and not is_punctuation(word)) for i, word in enumerate(words)
    )


def is_punctuation(word: str) -> bool:
    return word != "-" and not any(letter.isalnum() for letter in word)


def _is_participle(words: Sequence[str], place: int) -> bool:
    """ "a man wearing red", "a heart painted by hand"; not "a smiling man", "a dotted heart"."""
    word = words[place]
    before = words[place - 1] if place else ""
    if not before or word in NO_PARTICIPLES or is_determiner(before) or is_punctuation(before) or before in KIND_OF:
        return False
    if len(word) > 4 and word.endswith("ing"):
        return True
    after = words[place + 1] if place + 1 < len(words) else ""
    past = word in IRREGULAR or (len(word) > 4 and word.endswith("ed") and not word.endswith("eed"))
    return past and (not after or after in KIND_OF or is_punctuation(after))
