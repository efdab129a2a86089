"""Make the byte-level CLIP tokenizer of Papercut (BPE: arXiv 1508.07909; CLIP: arXiv 2103.00020).

The files have the layout of OpenAI's CLIP tokenizer (512 byte symbols, merges, two special tokens), so that
transformers' `CLIPTokenizer` and the host's `SD1Tokenizer` read them alike; only the vocabulary is small. Every word of
the scenes is one token, save those in `TWO_PIECES`: they stay two tokens on purpose, since techniques that align the
words of two prompts meet words of unequal length in any real vocabulary.

    python -m palimpsest.papercut.make_tokenizer

writes `papercut/tokenizer/` again; the result is the same bytes each time.
"""

import itertools
import json
import logging
from collections import Counter
from pathlib import Path

from .configs import TEXT

FOLDER = Path(__file__).resolve().parent / "tokenizer"
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
MAX_LENGTH = TEXT.positions
MAX_VOCABULARY = 1200

SCENE_WORDS = """
a an the and on of with paper cut out cutout picture background ground circle square star heart cross ring moon
arrow red orange yellow green cyan blue purple pink brown black white cream grey mint rose sky sand peach plain dotted
checked waves grid small large big tiny left right top bottom middle centre above below beside no without two three one
""".split()

TWO_PIECES = {
    "triangle": ("tri", "angle"),
    "hexagon": ("hex", "agon"),
    "striped": ("strip", "ed"),
    "gradient": ("grad", "ient"),
    "lilac": ("li", "lac"),
}

OTHER_WORDS = """
is are in at by to from as for this that it its not all some each other another same both new old single many few only
center gray color colour shape shapes pattern dots stripes checks lines line edge corner side shadow soft dark light
bright pale deep warm cold bold thin thick wide round flat torn turned tilted rotated upside next near far over under
behind front between up down upper lower four five six sheet card made photo image scene drawing painting art collage
sun flower tree leaf cloud house boat bird fish cat dog hand eye face water sea hill road night day snow rain gold
silver oval diamond box ball wave spots blank empty full clean simple bad good blurry noise very more less
""".split()


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins for the byte values 0..255, in the order of CLIP's own vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    rest = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(rest))]


def merge(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Join every occurrence of `pair` in `symbols`, from left to right."""
    out: list[str] = []
    for symbol in symbols:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return tuple(out)


def spell(word: str, final: bool = True) -> tuple[str, ...]:
    """The letters of `word` as symbols; the last one carries the end-of-word mark when `final`."""
    return (*word[:-1], word[-1] + WORD_END if final else word[-1])


def learn_merges(pieces: list[tuple[str, ...]]) -> list[tuple[str, str]]:
    """Byte-pair encoding run until each piece is one symbol; ties go to the alphabetically first pair."""
    merges = []
    while pairs := Counter(pair for piece in pieces for pair in itertools.pairwise(piece)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        pieces = [merge(piece, best) for piece in pieces]
        merges.append(best)
    return merges


def encode_word(word: str, merges: list[tuple[str, str]]) -> tuple[str, ...]:
    """The tokens of one lower-case ASCII word under `merges`, in rank order."""
    symbols = spell(word)
    for pair in merges:
        symbols = merge(symbols, pair)
    return symbols


def build() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary (token -> id, dense from 0, <|endoftext|> last) and the merges in rank order."""
    words = dict.fromkeys([*SCENE_WORDS, *OTHER_WORDS])
    halves = [spell(part, final) for pair in TWO_PIECES.values() for part, final in zip(pair, (False, True))]
    merges = learn_merges([spell(word) for word in words] + halves)
    symbols = byte_symbols()
    tokens = [*symbols, *(symbol + WORD_END for symbol in symbols), *("".join(pair) for pair in merges), START, END]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens) or len(vocabulary) >= MAX_VOCABULARY:
        raise ValueError(f"The vocabulary has {len(tokens)} tokens, {len(vocabulary)} distinct; drop some words.")
    for word, parts in TWO_PIECES.items():
        if encode_word(word, merges) != (parts[0], parts[1] + WORD_END):
            raise ValueError(f"'{word}' splits into {encode_word(word, merges)}; choose other pieces for it.")
    return vocabulary, merges


def write(folder: Path = FOLDER) -> int:
    """Write vocab.json, merges.txt and the two small configuration files; returns the vocabulary's size."""
    vocabulary, merges = build()
    folder.mkdir(parents=True, exist_ok=True)
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_LENGTH, "do_lower_case": True, **special}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, content in (("vocab", vocabulary), ("special_tokens_map", special), ("tokenizer_config", config)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return len(vocabulary)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.info("%d tokens written to %s", write(), FOLDER)
