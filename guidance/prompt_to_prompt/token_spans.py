"""Which tokens spell which characters of a text, and the words that follow: one way for every kind of tokenizer.

A token is known by the bytes of its text. Tokenizers change what they read (case, accents, wide letters, blanks), so
text and tokens are compared without what they may have changed, and what is left over between two matches belongs
together: a token without text of its own, such as T5's for a Chinese word, spells what stands in its place.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from .pairing import Word

# The bytes of a token whose text is not known: no text has them.
UNKNOWN = b"\xff"
# Blanks as SentencePiece, byte-level tokenizers and CLIP write them, and what BERT writes within a word.
PIECE_BLANK, BYTE_BLANK, WORD_END, WORD_INSIDE = "\N{LOWER ONE EIGHTH BLOCK}", chr(256 + ord(" ")), "</w>", "##"
SCRIPTS_WITHOUT_BLANKS = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
# An embedding's name; what English leaves out behind an apostrophe, as CLIP cuts it.
WHOLE = r"embedding:[^\s,]+|['\u2019](?:s|t|re|ve|m|ll|d)(?!\w)"
Owners = list[set[int]]


def _byte_letters() -> dict[str, int]:
    """The letters by which byte-level tokenizers (CLIP's, GPT-2's) write bytes: printable ones stand for themselves."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTES = _byte_letters()


def spelled(piece: str, blank: str) -> bytes:
    """The bytes of a token's text. blank: how its tokenizer writes a blank or the end of a word."""
    if piece in ("<unk>", "[UNK]"):
        return UNKNOWN
    if blank == PIECE_BLANK:
        byte = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)
        return bytes([int(byte[1], 16)]) if byte else piece.replace(PIECE_BLANK, " ").encode()
    if blank == WORD_INSIDE:
        return piece.removeprefix(WORD_INSIDE).encode()
    try:
        return bytes(BYTES[letter] for letter in piece.replace(blank, BYTE_BLANK))
    except KeyError:
        return piece.encode()


def owners(text: str, tokens: Mapping[int, bytes]) -> Owners:
    """For each character of the text the columns whose tokens spell it. tokens: by column, in order."""
    letters = _letters(tokens)
    blanks = any(letter == "\N{REPLACEMENT CHARACTER}" for letter, _ in letters)
    mine, theirs = _bare(list(zip(text, range(len(text)))), blanks), _bare(letters, blanks)
    found: Owners = [set() for _ in text]
    for old, new in _matches([letter for letter, _ in mine], [letter for letter, _ in theirs]):
        columns = set().union(*(theirs[i][1] for i in new))
        for i in old:
            if mine[i][0] != " ":
                found[mine[i][1]] |= columns
    return found


def covers(text: str, tokens: Mapping[int, bytes]) -> bool:
    """Whether the tokens begin with the text, but for blanks, case and the like."""
    mine, theirs = _bare([(letter, 0) for letter in text], False), _bare(_letters(tokens), False)
    return [letter for letter, _ in mine] == [letter for letter, _ in theirs[: len(mine)]]


def cut(text: str, found: Owners) -> list[tuple[int, int]]:
    """The words of a text, each from its first character to behind its last.

    Runs of letters, of digits and of signs. Where a script has no blanks, tokens are the words.
    """
    spans, place = [], 0
    for whole in re.finditer(WHOLE, text, re.IGNORECASE):
        spans += [*_runs(text, place, whole.start(), found), whole.span()]
        place = whole.end()
    return [*spans, *_runs(text, place, len(text), found)]


def word_columns(text: str, found: Owners) -> list[Word]:
    """The words with their columns. A column is one word's: that of most of its letters. Words without any are left
    out: signs that a token has beside a word's letters, and what the tokenizer drops."""
    spans = cut(text, found)
    best: dict[int, tuple[tuple[int, int], int]] = {}
    for number, (begin, end) in enumerate(spans):
        for column in set().union(*found[begin:end]):
            places = [i for i in range(begin, end) if column in found[i]]
            rank = (sum(text[i].isalnum() for i in places), len(places))
            if column not in best or rank > best[column][0]:
                best[column] = rank, number
    words = []
    for number, (begin, end) in enumerate(spans):
        columns = tuple(sorted(column for column, (_, word) in best.items() if word == number))
        if columns:
            words.append(Word(text[begin:end], (text[begin:end].casefold(),), columns))
    return words


def has_no_blanks(letter: str) -> bool:
    """Whether words of this letter's script are written without blanks between them."""
    return unicodedata.name(letter, "").startswith(SCRIPTS_WITHOUT_BLANKS)


def _letters(tokens: Mapping[int, bytes]) -> list[tuple[str, set[int]]]:
    """The characters that the tokens spell together, each with the columns that have a byte of it."""
    data = b"".join(tokens.values())
    columns = [column for column, part in tokens.items() for _ in part]
    found, place = [], 0
    while place < len(data):
        letter, size = "\N{REPLACEMENT CHARACTER}", 1
        for end in range(place + 1, min(place + 4, len(data)) + 1):
            try:
                letter, size = data[place:end].decode(), end - place
                break
            except UnicodeDecodeError:
                continue
        found.append((letter, set(columns[place : place + size])))
        place += size
    return found


def _bare(letters: Sequence[tuple], blanks: bool) -> list[tuple]:
    """Letters without what a tokenizer may change: in parts, in small letters, blanks as one or none at all."""
    found: list[tuple] = []
    for letter, source in letters:
        for part in unicodedata.normalize("NFKD", letter).casefold():
            if not part.isspace():
                found.append((part, source))
            elif blanks and found and found[-1][0] != " ":
                found.append((" ", source))
    return found


def _matches(old: Sequence[str], new: Sequence[str]) -> list[tuple[range, range]]:
    """Places of the one that answer places of the other: equal letters one by one, what was replaced as a whole."""
    start = next((i for i, (a, b) in enumerate(zip(old, new)) if a != b), min(len(old), len(new)))
    pairs = [(range(i, i + 1), range(i, i + 1)) for i in range(start)]
    for kind, a, b, c, d in SequenceMatcher(None, old[start:], new[start:], autojunk=False).get_opcodes():
        if kind == "equal":
            pairs += [
                (range(start + a + n, start + a + n + 1), range(start + c + n, start + c + n + 1)) for n in range(b - a)
            ]
        elif kind == "replace":
            pairs.append((range(start + a, start + b), range(start + c, start + d)))
    return pairs


def _runs(text: str, begin: int, end: int, found: Owners) -> list[tuple[int, int]]:
    """The words between two places of the text."""
    spans: list[tuple[int, int]] = []
    before = ""
    for place in range(begin, end):
        kind = _kind(text[place], before)
        if kind and (kind != before or (kind == "no blanks" and not found[place] & found[place - 1])):
            spans.append((place, place + 1))
        elif kind:
            spans[-1] = (spans[-1][0], place + 1)
        before = kind
    return spans


def _kind(letter: str, before: str) -> str:
    """What run a character belongs to; empty for blanks."""
    category = unicodedata.category(letter)
    if category[0] == "M" or category == "Cf":
        return before  # accents, and what joins signs
    if category[0] in "ZC":
        return ""
    if category[0] in "LN" and has_no_blanks(letter):
        return "no blanks"
    return {"L": "letters", "N": "digits"}.get(category[0], "signs")
