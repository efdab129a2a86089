"""Which tokens spell which characters, without a tokenizer: cuts are drawn at random, so that the truth is known."""

import random
from itertools import pairwise

import pytest
from palimpsest.guidance.prompt_to_prompt.emphasis import take_emphasis
from palimpsest.guidance.prompt_to_prompt.token_alignment import Prompt, Token, align
from palimpsest.guidance.prompt_to_prompt.token_spans import (
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

TEXTS = (
    'a red heart, on "checked" ground.',
    "café Ünïcode\u2019s … \U0001d54f 🎨 1024",
    "红色的心 and ハート",
    "İstanbul ﬁne",
    "aaaa aaa aa a",
)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("seed", range(5))
def test_tokens_own_the_characters_that_they_are_cut_from(text, seed):
    """Also where a cut goes through the bytes of a character, which then is both tokens'."""
    rng, data = random.Random(seed), text.encode()
    cuts = sorted({0, len(data), *(rng.randrange(len(data)) for _ in range(8))})
    tokens = {10 + n: data[a:b] for n, (a, b) in enumerate(pairwise(cuts))}
    by_byte = [column for column, part in tokens.items() for _ in part]
    place, expected = 0, []
    for letter in text:
        size = len(letter.encode())
        expected.append(set() if letter == " " else set(by_byte[place : place + size]))
        place += size
    assert owners(text, tokens) == expected
    assert covers(text, tokens) and not covers(text + "x", tokens)


def test_case_accents_and_blanks_do_not_matter():
    tokens = {0: b" a", 1: b" cafe\xcc\x81", 2: b" fi", 3: b"ne"}
    assert [word.columns for word in word_columns("A  Café ﬁne", owners("A  Café ﬁne", tokens))] == [(0,), (1,), (2, 3)]


def test_an_unknown_token_stands_for_what_is_in_its_place():
    tokens = {0: b"a ", 1: UNKNOWN, 2: b" ", 3: UNKNOWN, 4: b" star"}
    found = word_columns("a 红色 心 star", owners("a 红色 心 star", tokens))
    assert [(word.text, word.columns) for word in found] == [("a", (0,)), ("红色", (1,)), ("心", (3,)), ("star", (4,))]


def test_what_a_tokenizer_drops_has_no_columns():
    found = word_columns("a 🎨 star", owners("a 🎨 star", {0: b"a", 1: b"star"}))
    assert [(word.text, word.columns) for word in found] == [("a", (0,)), ("star", (1,))]


def test_a_token_of_a_sign_and_a_word_is_the_words():
    found = word_columns("a-red (moon)", owners("a-red (moon)", {0: b"a", 1: b"-red", 2: b" (", 3: b"moon", 4: b")"}))
    assert [(word.text, word.columns) for word in found] == [
        ("a", (0,)), ("red", (1,)), ("(", (2,)), ("moon", (3,)), (")", (4,)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "piece, blank, expected",
    [
        ("heart</w>", WORD_END, b"heart "),
        ("âĢĻs", BYTE_BLANK, "\u2019s".encode()),
        ("Ġheart", BYTE_BLANK, b" heart"),
        ("<|im_start|>", BYTE_BLANK, b"<|im_start|>"),
        ("▁heart", PIECE_BLANK, b" heart"),
        ("<0xE7>", PIECE_BLANK, b"\xe7"),
        ("<unk>", PIECE_BLANK, UNKNOWN),
        ("##art", WORD_INSIDE, b"art"),
        ("心", WORD_INSIDE, "心".encode()),
    ],
)
def test_pieces_are_read_as_each_kind_of_tokenizer_writes_them(piece, blank, expected):
    assert spelled(piece, blank) == expected


@pytest.mark.parametrize(
    "text, plain, weights",
    [
        ("a (red:1.3) heart", "a red heart", {"red": 1.3}),
        ("a (big (red:2) heart:.5)", "a big red heart", {"big ": 0.5, "red": 2.0, " heart": 0.5}),
        ("(a:1) (b:0)", "a b", {"b": 0.0}),
        ("a (red) heart", "a (red) heart", {}),
        ("((red:1.2))", "(red)", {"red": 1.2}),
        (r"\(red:2\)", "(red:2)", {}),
        (r"(a \(b\):2)", "a (b)", {"a (b)": 2.0}),
        ("(red:1.3", "(red:1.3", {}),
        ("at 10:30) (see: b)", "at 10:30) (see: b)", {}),
        ("", "", {}),
    ],
)
def test_emphasis_is_taken_out(text, plain, weights):
    found, each = take_emphasis(text)
    assert found == plain and len(each) == len(plain)
    expected = [1.0] * len(plain)
    for part, weight in weights.items():
        start = plain.index(part)
        expected[start : start + len(part)] = [weight] * len(part)
    assert each == expected


def template_prompt(text: str, weights: dict[str, float], before: int, pad: int) -> Prompt:
    """A prompt of words between tokens of a template, as language models have it, whose encoder reads no emphasis."""
    tokens = [Token(f"t{i}", "", 1.0, "template") for i in range(before)]
    tokens += [Token(word, word, weights.get(word, 1.0)) for word in text.split()]
    known = word_columns(text, owners(text, {before + i: f" {word}".encode() for i, word in enumerate(text.split())}))
    tokens += [Token("end", "", 1.0, "template"), *[Token("pad", "", 1.0, "pad")] * pad]
    return Prompt(text, tuple(tokens), len(tokens), tuple(known), encodes_weights=False)


def test_templates_keep_their_place_and_emphasis_is_the_attentions_alone():
    source = template_prompt("a red heart", {"red": 2.0}, before=3, pad=4)
    edit = template_prompt("a big red heart", {"red": 2.0, "heart": 3.0}, before=3, pad=3)
    found = align(source, edit)
    assert found.take[:3, :3].diag().tolist() == [1.0] * 3 and found.take[6, 7] == 1  # the template's
    assert found.take[:, 8:].argmax(0).tolist() == [8, 9, 10]  # padding by its place
    assert found.new.nonzero().flatten().tolist() == [4]
    assert found.scale.tolist() == [1, 1, 1, 1, 1, 1, 3, 1, 1, 1, 1]
    assert set(found.encoded.tolist()) == {1.0}


def test_columns_that_a_model_adds_move_the_words():
    prompt = template_prompt("a red heart", {}, before=2, pad=0)
    moved = prompt.inserted(0, 5).inserted(11, 2)
    assert len(moved) == 13 and [word.columns for word in moved.words] == [(7,), (8,), (9,)]
    assert [token.kind for token in moved.tokens[:6]] == ["pad"] * 5 + ["template"]
    assert [token.kind for token in moved.tokens[10:]] == ["template", "pad", "pad"]
    assert [word.columns for word in prompt.inserted(3, 4).words] == [(2,), (7,), (8,)]
