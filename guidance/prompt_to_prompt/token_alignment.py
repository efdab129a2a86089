"""Which token of an edited prompt takes over which token's attention: Prompt-to-Prompt Image Editing with Cross
Attention Control (arXiv 2208.01626, section 3.2: word swap and adding a new phrase).

The words of both prompts are aligned by their longest common subsequence (the paper's two cases fall out of it). Words
that both have keep their columns; between two of them, words of the source against words of the edit are a swap, words
of the edit alone are new and keep their own attention, words of the source alone are gone.

Differs from the official code: one rule for replace and refine, so that word counts may differ; words come from the
tokenizer, so that punctuation breaks nothing; a prompt may span several chunks of 77 tokens; end and padding of a
shorter prompt never take over a word of a longer one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

TokenKind = Literal["word", "start", "end", "pad"]
EditKind = Literal["identical", "re-weight", "replace", "refine", "replace and refine"]
WORD_END = "</w>"
# A run of neighbours counts for more than scattered matches, but never for a whole match more.
NEIGHBOUR = 2.0**-12


@dataclass(frozen=True)
class Token:
    """One column of the attention maps. key: equal for equal tokens; piece: its text, ending in </w> where a word
    ends; weight: the prompt's emphasis, 1 = none; kind: a piece of a word, or one of the encoder's own marks."""

    key: Hashable
    piece: str
    weight: float = 1.0
    kind: TokenKind = "word"


@dataclass(frozen=True)
class Word:
    """A word and its columns."""

    text: str
    keys: tuple[Hashable, ...]
    columns: tuple[int, ...]


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt: `chunk` tokens (77) a chunk, one chunk after the other, as the network reads them."""

    text: str
    tokens: tuple[Token, ...]
    chunk: int = 77

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def words(self) -> tuple[Word, ...]:
        words: list[Word] = []
        piece, keys, columns = "", list[Hashable](), list[int]()
        for column, token in enumerate(self.tokens):
            if token.kind != "word":
                continue
            piece, keys, columns = piece + token.piece.removesuffix(WORD_END), [*keys, token.key], [*columns, column]
            if token.piece.endswith(WORD_END):
                words.append(Word(piece, tuple(keys), tuple(columns)))
                piece, keys, columns = "", [], []
        return tuple(words) + ((Word(piece, tuple(keys), tuple(columns)),) if keys else ())

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
        hits = [i for i in starts if [word.keys for word in self.words[i : i + len(wanted)]] == wanted]
        return tuple(dict.fromkeys(c for i in hits for word in self.words[i : i + len(wanted)] for c in word.columns))


@dataclass(frozen=True, eq=False)
class Alignment:
    """How an edit's attention is made from the source's: M' = (M_source take + M_edit new) * scale, column by column.

    take: (K_source, K_edit); new: (K_edit,), 1 where a column keeps its own attention; scale: (K_edit,), emphasis
    against the source's; encoded: (K_edit,), emphasis that the embedding has already, as the source's has it.
    swaps: pairs of words (source, edit); added, dropped: words.
    """

    take: Tensor
    new: Tensor
    scale: Tensor
    encoded: Tensor
    swaps: tuple[tuple[str, str], ...] = ()
    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def kind(self) -> EditKind:
        if self.swaps:
            return "replace and refine" if self.added or self.dropped else "replace"
        if self.added or self.dropped:
            return "refine"
        return "identical" if bool((self.scale == 1).all()) else "re-weight"

    @property
    def identity(self) -> bool:
        return self.kind == "identical"

    def describe(self, edit: Prompt) -> str:
        """For people: what happens to which words."""
        parts = [f"'{old}' becomes '{new}'" for old, new in self.swaps]
        parts += [f"'{word}' is new" for word in self.added] + [f"'{word}' is gone" for word in self.dropped]
        for word in edit.words:
            scale = float(self.scale[list(word.columns)].mean())
            parts += [f"'{word.text}' counts {scale:.3g} times"] if scale != 1 else []
        return f"{self.kind}: {', '.join(parts) or 'nothing changes'}"


def align(source: Prompt, edit: Prompt) -> Alignment:
    """The alignment of two prompts; see the head of this file."""
    take, new = torch.zeros(len(source), len(edit)), torch.zeros(len(edit))
    scale, encoded = edit.weights.clone(), torch.ones(len(edit))
    swaps, added, dropped = [], [], []
    for old, fresh in _blocks(source.words, edit.words):
        if old and fresh and len(old) == len(fresh) and all(a.keys == b.keys for a, b in zip(old, fresh)):
            for a, b in zip(old, fresh):
                _keep(take, scale, encoded, source, a, b)
            continue
        pairs, more = _pair(old, fresh)
        for group, word in pairs:
            _spread(take, [c for one in group for c in one.columns], word.columns)
            swaps.append((" ".join(one.text for one in group), word.text))
        for word in more:
            new[list(word.columns)] = 1.0
        added += [word.text for word in more]
        dropped += [] if fresh else [word.text for word in old]
    _marks(take, new, source, edit)
    return Alignment(take, new, scale, encoded, tuple(swaps), tuple(added), tuple(dropped))


def _keep(take: Tensor, scale: Tensor, encoded: Tensor, source: Prompt, old: Word, word: Word) -> None:
    for a, b in zip(old.columns, word.columns):
        take[a, b] = 1.0
        # The host works the source's emphasis into its embedding; the edit starts from there.
        encoded[b] = source.tokens[a].weight or 1.0
        scale[b] = scale[b] / encoded[b]


def _spread(take: Tensor, old: Sequence[int], columns: Sequence[int]) -> None:
    """Column to column where the counts agree; else all of the old, in equal shares."""
    if len(old) == len(columns):
        take[list(old), list(columns)] = 1.0
    else:
        take[torch.tensor(old)[:, None], torch.tensor(columns)] = 1.0 / len(columns)


def _pair(old: Sequence[Word], fresh: Sequence[Word]) -> tuple[list[tuple[list[Word], Word]], list[Word]]:
    """Words that stand in the same place of both prompts -> pairs for a swap, and words of the edit that are new.

    From the right, as the noun of a phrase comes last; words of the source that are left over join the first pair.
    """
    count = min(len(old), len(fresh))
    if count == 0:
        return [], list(fresh)
    heads, tails = list(old[: len(old) - count]), list(old[len(old) - count :])
    pairs = [([tail], word) for tail, word in zip(tails, fresh[len(fresh) - count :])]
    pairs[0] = (heads + pairs[0][0], pairs[0][1])
    return pairs, list(fresh[: len(fresh) - count])


def _marks(take: Tensor, new: Tensor, source: Prompt, edit: Prompt) -> None:
    """Start, end and padding. Where one prompt has more chunks, its last ones share, or join, those of the other.

    Padding stands by its place, as its position is all that tells it apart; a place where the source has no padding
    keeps the edit's own attention.
    """
    counts = [max(1, -(-len(prompt) // prompt.chunk)) for prompt in (source, edit)]
    chunks = range(max(counts))
    for kind in ("start", "end", "pad"):
        for chunk in chunks:
            here, there = (min(chunk, count - 1) for count in counts)
            shared = sum(min(c, counts[0] - 1) == here for c in range(counts[1]))
            old = {column - here * source.chunk: column for column in source.marks(kind, here)}
            for column in edit.marks(kind, there):
                place = column - there * edit.chunk if kind == "pad" else next(iter(old), None)
                if place in old:
                    take[old[place], column] = 1.0 / max(shared, 1)
    for column, token in enumerate(edit.tokens):
        if token.kind != "word" and not bool(take[:, column].any()):
            new[column] = 1.0


def _blocks(old: Sequence[Word], fresh: Sequence[Word]) -> list[tuple[list[Word], list[Word]]]:
    """Both lists cut into blocks in order: pairs of equal words, and between them what differs."""
    blocks, a, b = [], 0, 0
    for i, j in [*_common(old, fresh), (len(old), len(fresh))]:
        if i > a or j > b:
            blocks.append((list(old[a:i]), list(fresh[b:j])))
        if i < len(old):
            blocks.append(([old[i]], [fresh[j]]))
        a, b = i + 1, j + 1
    return blocks


def _common(old: Sequence[Word], fresh: Sequence[Word]) -> list[tuple[int, int]]:
    """The longest common subsequence of words, as pairs of indices; among equals the one with the longest runs."""
    rows, columns = len(old), len(fresh)
    # best[i][j][m]: the score of the rest from (i, j); m: whether the pair before was a match.
    best = [[[0.0, 0.0] for _ in range(columns + 1)] for _ in range(rows + 1)]
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            skip = max(best[i + 1][j][0], best[i][j + 1][0])
            match = 1.0 + best[i + 1][j + 1][1] if old[i].keys == fresh[j].keys else -1.0
            best[i][j] = [max(skip, match), max(skip, match + NEIGHBOUR)]
    pairs, i, j, after = [], 0, 0, 0
    while i < rows and j < columns:
        here = best[i][j][after]
        if old[i].keys == fresh[j].keys and here == 1.0 + best[i + 1][j + 1][1] + NEIGHBOUR * after:
            pairs.append((i, j))
            i, j, after = i + 1, j + 1, 1
        elif here == best[i + 1][j][0]:
            i, after = i + 1, 0
        else:
            j, after = j + 1, 0
    return pairs
