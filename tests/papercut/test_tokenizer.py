"""The Papercut tokenizer: every scene word is one token save the chosen few; both readers agree on every caption."""

import json

import pytest
import torch
from palimpsest.papercut import make_tokenizer as made
from palimpsest.papercut.scenes import sample_scene
from palimpsest.papercut.shapes import COLOURS, GROUNDS, PATTERNS, SHAPES, TONES
from palimpsest.papercut.text import encode, text_config, tokenizer

CAPTIONS = [sample_scene(seed).caption for seed in range(20)] + [
    "",
    "A Red   striped hexagon cut-out, on lilac paper.",
    "two hearts and 12 stars; it's a xylophone!",
    "caf\u00e9 \u2014 \u65e5\u672c \U0001f600 zebra-crossing",
]


@pytest.fixture(scope="module")
def reader():
    return tokenizer()


def test_the_shipped_files_are_what_the_script_writes(tmp_path):
    made.write(tmp_path)
    for file in made.FOLDER.iterdir():
        assert (tmp_path / file.name).read_text() == file.read_text(), file.name
    assert len(json.loads((tmp_path / "vocab.json").read_text())) < made.MAX_VOCABULARY


def test_scene_words_are_one_token_and_the_chosen_few_are_two(reader):
    words = {*made.SCENE_WORDS, *SHAPES, *COLOURS, *PATTERNS, *GROUNDS, *TONES, ",", "."}
    for word in words - set(made.TWO_PIECES):
        assert len(reader.tokenize(word)) == 1, word
    for word, parts in made.TWO_PIECES.items():
        assert reader.tokenize(word) == [parts[0], parts[1] + made.WORD_END]


def test_the_reference_encoder_agrees_with_the_library(reader):
    _, merges = made.build()
    for word in [*made.SCENE_WORDS, *made.OTHER_WORDS, *made.TWO_PIECES, "xylophone", "redder"]:
        assert list(made.encode_word(word, merges)) == reader.tokenize(word)


def test_text_comes_back_from_its_tokens(reader):
    for caption in CAPTIONS:
        back = reader.decode(encode(caption)[0], skip_special_tokens=True)
        assert back.replace(" ", "") == caption.lower().replace(" ", "")


def test_captions_are_framed_and_padded_with_the_end_token(reader):
    ids = encode([*CAPTIONS, "red " * 100])
    config = text_config()
    assert ids.shape == (len(CAPTIONS) + 1, 77) and ids.dtype == torch.int64
    assert (ids[:, 0] == config.bos_token_id).all() and (ids[:, -1] == config.eos_token_id).all()
    assert config.eos_token_id == ids.max() == config.vocab_size - 1 == reader.pad_token_id


def test_the_host_reads_the_same_tokens():
    from palimpsest.papercut.companion.model import PapercutTokenizers

    theirs = PapercutTokenizers()
    for caption, ours in zip(CAPTIONS, encode(CAPTIONS)):
        rows = theirs.tokenize_with_weights(caption)["papercut"]
        assert [token for token, _ in rows[0]] == ours.tolist() and len(rows) == 1, caption
    pieces = theirs.untokenize(theirs.tokenize_with_weights("a red striped triangle")["papercut"][0])
    assert [piece for _, piece in pieces[1:7]] == ["a</w>", "red</w>", "strip", "ed</w>", "tri", "angle</w>"]
