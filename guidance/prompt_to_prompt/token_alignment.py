"""Which token of an edited prompt takes over which token's attention: Prompt-to-Prompt Image Editing with Cross
Attention Control (arXiv 2208.01626, section 3.2: word swap and adding a new phrase).

`pairing` says which words belong together (the paper's two cases fall out of it). Words that both prompts have keep
their columns; a word that replaces another takes over that one's, words of the edit alone are new and keep their own
attention, words of the source alone are gone.

Differs from the official code: one rule for replace and refine, so that word counts may differ; words come from the
tokenizer, so that punctuation breaks nothing; a prompt may span several chunks of 77 tokens; end and padding of a
shorter prompt never take over a word of a longer one.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from .pairing import Method, Word, pair
from .token_spans import BYTES, WORD_END, has_no_blanks

TokenKind = Literal["word", "start", "end", "pad", "template"]
EditKind = Literal["identical", "re-weight", "replace", "refine", "replace and refine"]


@dataclass(frozen=True)
class Token:
    """One column of the attention maps. key: equal for equal tokens; piece: its text, ending in </w> where a word
    ends; weight: the prompt's emphasis, 1 = none; kind: a piece of a word, one of the encoder's own marks, or what else
    belongs to no word of the prompt, as the text round it does that the encoder adds."""

    key: Hashable
    piece: str
    weight: float = 1.0
    kind: TokenKind = "word"


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt: `chunk` tokens (77) a chunk, one chunk after the other, as the network reads them.

    known: its words, where they do not follow from the tokens' pieces; encodes_weights: whether the encoder works
    emphasis into its embedding.
    """

    text: str
    tokens: tuple[Token, ...]
    chunk: int = 77
    known: tuple[Word, ...] | None = None
    encodes_weights: bool = True

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def words(self) -> tuple[Word, ...]:
        if self.known is not None:
            return self.known
        words: list[Word] = []
        piece, keys, columns = "", list[Hashable](), list[int]()
        for column, token in enumerate(self.tokens):
            if token.kind != "word":
                continue
            piece, keys, columns = piece + token.piece.removesuffix(WORD_END), [*keys, token.key], [*columns, column]
            if token.piece.endswith(WORD_END):
                words.append(Word(readable(piece), tuple(keys), tuple(columns)))
                piece, keys, columns = "", [], []
        return tuple(words) + ((Word(readable(piece), tuple(keys), tuple(columns)),) if keys else ())

    @property
    def weights(self) -> Tensor:
        return torch.tensor([token.weight for token in self.tokens])

    def marks(self, kind: TokenKind, chunk: int) -> list[int]:
        begin = chunk * self.chunk
        return [i for i in range(begin, min(len(self), begin + self.chunk)) if self.tokens[i].kind == kind]

    def find(self, phrase: "Prompt") -> tuple[int, ...]:
        """The columns of every place where the phrase's words stand; empty if it does not occur."""
        wanted = [word.keys for word in phrase.words]
        starts = range(len(self.words) - len(wanted) + 1) if wanted else ()
        hits = [
            slice(i, i + len(wanted))
            for i in starts
            if [word.keys for word in self.words[i : i + len(wanted)]] == wanted
        ]
        hits = hits or self._find_letters("".join(word.text for word in phrase.words))
        return tuple(dict.fromkeys(column for hit in hits for word in self.words[hit] for column in word.columns))

    def _find_letters(self, wanted: str) -> list[slice]:
        """The words that have these letters among their own, in a script without blanks: alone a phrase may be cut
        into other tokens than among others."""
        if self.known is None or not any(map(has_no_blanks, wanted)):
            return []
        number = [i for i, word in enumerate(self.words) for _ in word.text]
        text = "".join(word.text for word in self.words)
        hits = re.finditer(re.escape(wanted), text, re.IGNORECASE)
        return [slice(number[hit.start()], number[hit.end() - 1] + 1) for hit in hits]

    def inserted(self, place: int, count: int, kind: TokenKind = "pad") -> "Prompt":
        """The same prompt with `count` more columns from `place` on."""
        words = [
            Word(word.text, word.keys, tuple(column + count * (column >= place) for column in word.columns))
            for word in self.words
        ]
        more = (Token(None, "", 1.0, kind),) * count
        return replace(self, tokens=(*self.tokens[:place], *more, *self.tokens[place:]), known=tuple(words))


@dataclass(frozen=True, eq=False)
class Alignment:
    """How an edit's attention is made from the source's: M' = (M_source take + M_edit new) * scale, column by column.

    take: (K_source, K_edit); new: (K_edit,), 1 where a column keeps its own attention; scale: (K_edit,), emphasis
    against the source's; encoded: (K_edit,), emphasis that the embedding has already, as the source's has it.
    swaps: pairs of words (source, edit); fresh, gone: runs of words that the edit or the source has alone; guessed:
    whether no word of the language separates phrases, so that another reading was possible.
    """

    take: Tensor
    new: Tensor
    scale: Tensor
    encoded: Tensor
    swaps: tuple[tuple[str, str], ...] = ()
    fresh: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    guessed: bool = False

    @property
    def added(self) -> tuple[str, ...]:
        """The words of the edit alone."""
        return tuple(word for run in self.fresh for word in run.split(" "))

    @property
    def dropped(self) -> tuple[str, ...]:
        """The words of the source alone."""
        return tuple(word for run in self.gone for word in run.split(" "))

    @property
    def kind(self) -> EditKind:
        if self.swaps:
            return "replace and refine" if self.fresh or self.gone else "replace"
        if self.fresh or self.gone:
            return "refine"
        return "identical" if bool((self.scale == 1).all()) else "re-weight"

    @property
    def identity(self) -> bool:
        return self.kind == "identical"

    def describe(self, edit: Prompt) -> str:
        """For people: what happens to which words."""
        parts = [f"'{old}' becomes '{new}'" for old, new in self.swaps]
        parts += [f"'{run}' is new" for run in self.fresh] + [f"'{run}' is gone" for run in self.gone]
        for word in edit.words:
            scale = float(self.scale[list(word.columns)].mean())
            parts += [f"'{word.text}' counts {scale:.3g} times"] if scale != 1 else []
        return f"{self.kind}: {', '.join(parts) or 'nothing changes'}"


def align(source: Prompt, edit: Prompt, method: Method = "by phrase", *, own_maps: bool = False) -> Alignment:
    """The alignment of two prompts; method: how their words are paired; own_maps: words that replace others keep their
    own attention, as the official Refine has it."""
    take, new = torch.zeros(len(source), len(edit)), torch.zeros(len(edit))
    scale, encoded = edit.weights.clone(), torch.ones(len(edit))
    old, fresh = source.words, edit.words
    found = pair(old, fresh, method)
    for i, j in found.kept:
        _keep(take, scale, encoded, source, old[i], fresh[j])
    for group, j in found.swaps:
        if own_maps:
            new[list(fresh[j].columns)] = 1.0
        else:
            _spread(take, [column for i in group for column in old[i].columns], fresh[j].columns)
    for j in found.added:
        new[list(fresh[j].columns)] = 1.0
    _marks(take, new, scale, encoded, source, edit)
    swaps = tuple((" ".join(old[i].text for i in group), fresh[j].text) for group, j in found.swaps)
    return Alignment(
        take, new, scale, encoded, swaps, _runs(fresh, found.added), _runs(old, found.dropped), found.guessed
    )


def _runs(words: Sequence[Word], places: Sequence[int]) -> tuple[str, ...]:
    """The words at these places, neighbours joined."""
    runs: list[list[str]] = []
    for n, place in enumerate(places):
        if n and place == places[n - 1] + 1:
            runs[-1].append(words[place].text)
        else:
            runs.append([words[place].text])
    return tuple(" ".join(run) for run in runs)


def readable(piece: str) -> str:
    """The text of a word as its author wrote it; as it stands where its pieces are no whole letters."""
    try:
        return bytes(BYTES[letter] for letter in piece).decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return piece


def _keep(take: Tensor, scale: Tensor, encoded: Tensor, source: Prompt, old: Word, word: Word) -> None:
    if len(old.columns) != len(word.columns):
        _spread(take, old.columns, word.columns)
        return
    for a, b in zip(old.columns, word.columns):
        take[a, b] = 1.0
        _weigh(scale, encoded, source, a, b)


def _weigh(scale: Tensor, encoded: Tensor, source: Prompt, old: int, column: int) -> None:
    """The host works the source's emphasis into its embedding; the edit starts from there."""
    weight = source.tokens[old].weight or 1.0
    encoded[column] = weight if source.encodes_weights else 1.0
    scale[column] = scale[column] / weight


def _spread(take: Tensor, old: Sequence[int], columns: Sequence[int]) -> None:
    """Column to column where the counts agree; else all of the old, in equal parts."""
    if len(old) == len(columns):
        take[list(old), list(columns)] = 1.0
    else:
        take[torch.tensor(old)[:, None], torch.tensor(columns)] = 1.0 / len(columns)


def _marks(take: Tensor, new: Tensor, scale: Tensor, encoded: Tensor, source: Prompt, edit: Prompt) -> None:
    """What belongs to no word. Where one prompt has more chunks, its last ones divide, or join, those of the other.

    Padding stands by its place, as only its position distinguishes it; a place where the source has no padding
    keeps the edit's own attention.
    """
    counts = [max(1, -(-len(prompt) // prompt.chunk)) for prompt in (source, edit)]
    chunks = range(max(counts))
    for kind in ("start", "end", "template", "pad"):
        for chunk in chunks:
            here, there = (min(chunk, count - 1) for count in counts)
            shared = sum(min(c, counts[0] - 1) == here for c in range(counts[1]))
            old = {column - here * source.chunk: column for column in source.marks(kind, here)}
            if kind != "pad":
                old = dict(enumerate(old.values()))
            for number, column in enumerate(edit.marks(kind, there)):
                place = column - there * edit.chunk if kind == "pad" else number
                if place in old:
                    take[old[place], column] = 1.0 / max(shared, 1)
                    _weigh(scale, encoded, source, old[place], column)
    for column, token in enumerate(edit.tokens):
        if token.kind != "word" and not bool(take[:, column].any()):
            new[column] = 1.0
