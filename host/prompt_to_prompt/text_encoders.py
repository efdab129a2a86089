"""Which column of the context that a diffusion model reads belongs to which word, for each text encoder of the host.

Read in ComfyUI 0.30.0, `comfy/text_encoders` and `comfy/model_base.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mode
from weakref import WeakKeyDictionary

import comfy.model_base
from comfy.sd1_clip import escape_important, token_weights, unescape_important
from comfy.text_encoders.krea2 import Krea2TEModel
from comfy.text_encoders.qwen_image import QwenImageTEModel
from torch import Tensor

from ...guidance.prompt_to_prompt.emphasis import take_emphasis
from ...guidance.prompt_to_prompt.token_alignment import Prompt, Token, TokenKind
from ...guidance.prompt_to_prompt.token_spans import (
    BYTE_BLANK,
    PIECE_BLANK,
    UNKNOWN,
    WORD_END,
    WORD_INSIDE,
    covers,
    owners,
    spelled,
    word_columns,
)

Tokens = dict[str, list[list[tuple]]]
CLIPS = ("l", "g")
# All that a tokenizer names -> the encoders whose tokens are columns, in their order. CLIP's stand side by side in SD3
# and are pooled elsewhere; HiDream's blocks read the last layer of Llama and one of their own; Anima writes a vector
# for each T5 token.
COLUMNS = {
    frozenset({"l", "t5xxl"}): ("t5xxl",),
    frozenset({"l", "g", "t5xxl"}): ("l", "t5xxl"),
    frozenset({"l", "g", "t5xxl", "llama"}): ("t5xxl", "llama", "llama"),
    frozenset({"qwen3_06b", "t5xxl"}): ("t5xxl",),
    frozenset({"hydit_clip", "mt5xl"}): ("hydit_clip", "mt5xl"),
}
# In the place of an encoder of HiDream's that was not loaded: a column of zeros, and how many of them.
EMPTY, ABSENT = (None, 1.0), {"t5xxl": 128, "llama": 1}
TURN, USER, LINE = 151644, 872, 198  # Qwen's tokens for <|im_start|>, "user" and a new line
PICTURE = b"<|image_pad|>"
LENGTH = 512  # to which Flux 2 and Anima pad

_blanks: WeakKeyDictionary = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Group:
    """The columns of one encoder. entries: the host's tokens with their weights, `chunk` of them a chunk, the first
    `head` of which the encoder cuts off its output; tokenizer: None for an encoder that is not loaded."""

    name: str
    tokenizer: object
    entries: Sequence[tuple]
    chunk: int
    head: int = 0

    def __len__(self) -> int:
        return len(self.entries) - self.head

    def kinds(self) -> list[TokenKind]:
        """What each entry is; a "word" may turn out to be none."""
        chunks = range(0, len(self.entries), self.chunk)
        return [kind for begin in chunks for kind in self._kinds(self.entries[begin : begin + self.chunk])]

    def _kinds(self, chunk: Sequence[tuple]) -> list[TokenKind]:
        tokenizer = self.tokenizer
        if tokenizer is None:
            return ["pad"] * len(chunk)
        numbers = [token if isinstance(token, int) else None for token, *_ in chunk]
        kinds: list[TokenKind] = ["word"] * len(chunk)
        first = int(tokenizer.start_token is not None and numbers[:1] == [tokenizer.start_token])
        kinds[:first] = ["start"] * first
        last = len(chunk)
        if tokenizer.end_token is not None and tokenizer.end_token in numbers[first:]:
            last = numbers.index(tokenizer.end_token, first) + 1
            kinds[last - 1] = "end"
        else:
            while last > first and numbers[last - 1] == tokenizer.pad_token:
                last -= 1
        return [*kinds[:last], *["pad"] * (len(chunk) - last)]

    def pieces(self) -> dict[int, bytes]:
        """The text of each entry that may be of a word, by its place."""
        found = {}
        for place, (kind, (token, *_)) in enumerate(zip(self.kinds(), self.entries)):
            if kind == "word" and isinstance(token, int):
                found[place] = spelled(str(self.tokenizer.inv_vocab.get(token, "<unk>")), blank_of(self.tokenizer))
            elif kind == "word":
                found[place] = PICTURE if _is_picture(token) else UNKNOWN
        return found

    def tokens(self) -> list[Token]:
        """The columns, not yet told which of them are words'."""
        pieces = self.pieces()
        return [
            Token(PICTURE if _is_picture(token) else token if isinstance(token, int) else place,
                  pieces.get(place, b"").decode(errors="replace"), float(weight), kind)
            for place, (kind, (token, weight, *_)) in enumerate(zip(self.kinds(), self.entries))
        ][self.head :]  # fmt: skip


def tokenizer_of(clip, name: str):
    """The tokenizer of one of the encoders; None where the host has it under no name that is known."""
    for attribute in (f"clip_{name}", name):
        tokenizer = getattr(clip.tokenizer, attribute, None)
        if getattr(tokenizer, "inv_vocab", None):
            return tokenizer
    return None


def blank_of(tokenizer) -> str:
    """How a tokenizer writes a blank, or the end or inside of a word."""
    if tokenizer not in _blanks:
        count: Counter[str] = Counter()
        for piece in map(str, tokenizer.inv_vocab.values()):
            count[WORD_END] += piece.endswith(WORD_END)
            for mark in (PIECE_BLANK, BYTE_BLANK, WORD_INSIDE):
                count[mark] += len(piece) > len(mark) and piece.startswith(mark)
        _blanks[tokenizer] = max(count, key=count.__getitem__) if any(count.values()) else ""
    return _blanks[tokenizer]


def groups_of(clip, tokens: Tokens) -> list[Group]:
    """The encoders' parts of the context, in their order. Raises ValueError for encoders that are not known."""
    names = COLUMNS.get(frozenset(tokens), tuple(tokens) if len(tokens) == 1 else ())
    groups = [group for name in names for group in _group(clip, name, tokens)]
    if not groups or any(group.tokenizer is None and group.entries[0] != EMPTY for group in groups):
        raise ValueError(
            "The words of this text encoder cannot be separated: load that of Stable Diffusion 1, 2, XL or 3, Flux, "
            "Chroma, Qwen-Image, Krea 2, Z-Image, Lumina 2, Wan, Anima, Cosmos-Predict 2 or HiDream."
        )
    return groups


def _group(clip, name: str, tokens: Tokens) -> list[Group]:
    """The columns of an encoder; none where SD3 was loaded without it."""
    model = getattr(clip, "cond_stage_model", None)
    loaded = [one for one in (CLIPS if name in CLIPS else (name,)) if _is_loaded(model, one)]
    if not loaded:
        empty = [EMPTY] * ABSENT[name] if "llama" in tokens else []
        return [Group(name, None, empty, len(empty))] if empty else []
    chunks = tokens[loaded[0]]
    entries = [entry for chunk in chunks for entry in chunk]
    length = min(sum(map(len, tokens[one])) for one in loaded)
    head = _head(entries) if isinstance(model, (QwenImageTEModel, Krea2TEModel)) else 0
    return [Group(name, tokenizer_of(clip, loaded[0]), entries[:length], len(chunks[0]), head)]


def _is_loaded(model, name: str) -> bool:
    found = [getattr(model, attribute) for attribute in (f"clip_{name}", name) if hasattr(model, attribute)]
    return not found or found[0] is not None


def _head(entries: Sequence[tuple]) -> int:
    """How many tokens Qwen-Image and Krea 2 cut off: all before the second turn, and "user" and the new line in it."""
    numbers = [token if isinstance(token, int) else None for token, *_ in entries]
    turns = [place for place, number in enumerate(numbers) if number == TURN][:2]
    if not turns:
        return len(entries) - 1  # as the host's slice from -1 on
    return turns[-1] + 3 if numbers[turns[-1] + 1 : turns[-1] + 3] == [USER, LINE] else turns[-1]


def read_columns(clip, text: str, **options) -> tuple[Prompt, Tokens]:
    """The prompt by columns of its conditioning, and the host's own tokens with their weights.

    Where the tokenizer takes emphasis for text, the text is tokenised without it, and its columns have the weights.
    options: the tokenizer's own, such as `images`. Raises ValueError for encoders whose tokens are not known.
    """
    if reads := _reads_emphasis(clip):
        plain, weights = _without_brackets(text), []
    else:
        plain, weights = take_emphasis(text)
    tokens: Tokens = clip.tokenize(text if reads else plain, **options)
    groups = groups_of(clip, tokens)
    before, behind = _around(clip, plain, groups[0].pieces(), options) if not reads else ("", "")
    found = [set[int]() for _ in plain]
    columns: list[Token] = []
    for group in groups:
        for letter, places in zip(found, owners(before + plain + behind, group.pieces())[len(before) :]):
            letter |= {len(columns) + place - group.head for place in places if place >= group.head}
        columns += group.tokens()
    words = word_columns(plain, found)
    own = {column for word in words for column in word.columns}
    written = _weights(found, weights)
    for i, token in enumerate(columns):
        kind = "template" if token.kind == "word" and i not in own else token.kind
        columns[i] = replace(token, kind=kind, weight=written.get(i, token.weight))
    chunk = groups[0].chunk - groups[0].head
    return Prompt(text, tuple(columns), chunk, tuple(words), encodes_weights=reads), tokens


def _reads_emphasis(clip) -> bool:
    """Whether the tokenizer reads "(word:2)" as a word with a weight."""
    chunks = clip.tokenize("(a:2)").values()
    return any(weight == 2.0 for one in chunks for chunk in one for _, weight, *_ in chunk)


def _without_brackets(text: str) -> str:
    """The text that a tokenizer which reads emphasis cuts into tokens."""
    return "".join(unescape_important(part) for part, _ in token_weights(escape_important(text), 1.0))


def _around(clip, plain: str, pieces: Mapping[int, bytes], options: Mapping) -> tuple[str, str]:
    """What the tokenizer has put before and behind the text. Raises ValueError where that is not its template."""
    own = [getattr(clip.tokenizer, name, None) for name in ("llama_template", "llama_template_images")]
    for template in (options.get("llama_template"), *own, "{}"):
        if template is not None and covers(template.format(plain), pieces):
            return template[: template.index("{}")], template[template.index("{}") + 2 :]
    raise ValueError(
        f"The words of '{plain}' cannot be found among the tokens of this text encoder: leave out signs that it may "
        "read as something else."
    )


def _weights(found: Sequence[set[int]], weights: Sequence[float]) -> dict[int, float]:
    """The weight of each column: that of most of the letters that it spells."""
    letters: dict[int, list[float]] = {}
    for columns, weight in zip(found, weights):
        for column in columns:
            letters.setdefault(column, []).append(weight)
    return {column: mode(each) for column, each in letters.items()}


def _is_picture(token) -> bool:
    return isinstance(token, dict) and token.get("type") == "image"


def other_weights(clip, tokens: Tokens, weights: Sequence[float]) -> Tokens:
    """The same tokens with other weights, one a column of `read_columns`; those that are no columns get none."""
    found, start = {}, 0
    for group in groups_of(clip, tokens):
        for name in CLIPS if group.name in CLIPS else (group.name,):
            found.setdefault(name, [1.0] * group.head + list(weights[start : start + len(group)]))
        start += len(group)
    changed: Tokens = {}
    for name, chunks in tokens.items():
        left = iter(found.get(name, ()))
        changed[name] = [[(token, next(left, 1.0), *rest) for token, _, *rest in chunk] for chunk in chunks]
    return changed


def in_context(prompt: Prompt, conditioning: list, model) -> Prompt:
    """The prompt by columns of the text tokens that the model's attention reads: with pictures among the text, and with
    the padding that the model adds.

    conditioning: the CONDITIONING that was encoded from the prompt's tokens. Raises ValueError where it has another
    number of tokens, so that the words cannot be found in it.
    """
    missing = _length(conditioning) - len(prompt)
    pictures = [column for column, token in enumerate(prompt.tokens) if token.key == PICTURE]
    if pictures and missing > 0:
        prompt, missing = prompt.inserted(pictures[0], missing, "template"), 0
    if missing:
        raise ValueError(
            f"The words of '{prompt.text}' cannot be found in its conditioning, which has {_length(conditioning)} "
            f"tokens and not {len(prompt)}: encode the text alone, with the text encoder that belongs to the model."
        )
    left, right = _padding(model.model, len(prompt))
    return prompt.inserted(len(prompt), right).inserted(0, left)


def _length(conditioning: list) -> int:
    """The tokens of a CONDITIONING, as `read_columns` counts them."""
    (embedding, options), *_ = conditioning
    if isinstance(t5 := options.get("t5xxl_ids"), Tensor):  # Anima
        return t5.shape[-1]
    second = options.get("conditioning_mt5xl")  # HunyuanDiT
    llama = options.get("conditioning_llama3")  # HiDream
    more = second.shape[1] if second is not None else 2 * llama.shape[2] if llama is not None else 0
    return embedding.shape[1] + more


def _padding(base, length: int) -> tuple[int, int]:
    """How many columns a model adds before and behind a text of this length."""
    if isinstance(base, comfy.model_base.Flux2):
        return max(0, LENGTH - length), 0
    if isinstance(base, comfy.model_base.Anima):
        return 0, max(0, LENGTH - length)
    multiple = getattr(base.diffusion_model, "pad_tokens_multiple", None)  # Z-Image
    return 0, -length % multiple if multiple else 0
