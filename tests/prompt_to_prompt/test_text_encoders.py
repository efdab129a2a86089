"""Words of a prompt and their columns, for the text encoder of each family: decoded, a word's columns give the word."""

import re

import pytest
import torch
from palimpsest.guidance.prompt_to_prompt.token_alignment import align
from palimpsest.host.prompt_to_prompt.text_encoders import tokenizer_of
from palimpsest.host.prompt_to_prompt.tokens import encode_tokens, read_prompt, reweighted

from .tiny_text_encoders import FAMILIES, text_encoder

CUT = ["A", "red", "heart", ",", "on", "a", '"', "checked", '"', "ground", ":", "café", "."]
TEXT = 'A red heart, on a "checked" ground: café.'
CHINESE, HAN = "a star, 红色的心在灰色的纸上", "红色的心在灰色的纸上"
# Emphasis reaches these models as text, if the host's tokenizer is given it.
LITERAL = {"flux2", "klein", "qwen_image", "krea2", "z_image"}
# T5 knows no Chinese.
T5_ONLY = {"flux", "chroma", "anima", "cosmos"}


class Encoder:
    """A family's text encoder, and what a test knows of its context without the code that is tested."""

    def __init__(self, family: str, **loaded: bool):
        self.family, self.clip = family, text_encoder(family, **loaded)

    def read(self, text: str):
        """The prompt, the host's tokens and the CONDITIONING that the host makes of them."""
        prompt, tokens = read_prompt(self.clip, text)
        return prompt, tokens, encode_tokens(self.clip, tokens)

    def columns(self, tokens: dict, conditioning: list) -> list[tuple[str, int]]:
        """The encoder and the token of each column. What is cut off is cut off at the head."""
        flat = {name: [(name, token) for chunk in chunks for token, *_ in chunk] for name, chunks in tokens.items()}
        if self.family == "sd3":
            return flat["l"] + flat["t5xxl"]
        if self.family == "hidream":
            return flat["t5xxl"] + flat["llama"] * 2
        found = flat.get("t5xxl") or next(iter(flat.values()))
        return found if self.family == "anima" else found[-conditioning[0][0].shape[1] :]

    def decoded(self, columns: list[tuple[str, int]]) -> dict[str, str]:
        """By encoder, its tokens' text."""
        found = {}
        for name in dict.fromkeys(name for name, _ in columns):
            numbers = [token for encoder, token in columns if encoder == name]
            half = len(numbers) // 2 if name == "llama" else len(numbers)  # HiDream's blocks read Llama twice
            found[name] = tokenizer_of(self.clip, name).tokenizer.decode(numbers[:half])
            assert half == len(numbers) or numbers[:half] == numbers[half:]
        return found


@pytest.fixture(scope="module", params=FAMILIES)
def encoder(request):
    with torch.inference_mode():
        yield Encoder(request.param)


def bare(text: str) -> str:
    return re.sub(r"\s", "", text).casefold()


def assert_decoded(encoder, prompt, tokens, conditioning):
    columns = encoder.columns(tokens, conditioning)
    assert len(columns) == len(prompt)
    for word in prompt.words:
        texts = encoder.decoded([columns[i] for i in word.columns])
        assert texts and all(bare(text) == bare(word.text) for text in texts.values()), (word, texts)
    taken = [column for word in prompt.words for column in word.columns]
    assert len(taken) == len(set(taken))


def test_columns_of_a_word_spell_the_word(encoder):
    prompt, tokens, conditioning = encoder.read(TEXT)
    assert [word.text for word in prompt.words] == CUT
    assert_decoded(encoder, prompt, tokens, conditioning)
    groups = {"sd3": 2, "hidream": 2}.get(encoder.family, 1)
    for word in prompt.words:
        names = {name for name, _ in (encoder.columns(tokens, conditioning)[i] for i in word.columns)}
        assert len(names) == groups


def test_what_belongs_to_no_word_is_blank_or_template(encoder):
    prompt, tokens, conditioning = encoder.read(TEXT)
    columns = encoder.columns(tokens, conditioning)
    for name in tokens:
        rest = [
            columns[i] for i, token in enumerate(prompt.tokens) if token.kind == "template" and columns[i][0] == name
        ]
        text = "".join(encoder.decoded(rest).values())
        assert not text.strip() or encoder.family in LITERAL
        assert "heart" not in text and "ground:" not in text
    kinds = {token.kind for i, token in enumerate(prompt.tokens) if i in {c for w in prompt.words for c in w.columns}}
    assert kinds == {"word"}


def test_the_context_is_as_long_as_the_hosts(encoder):
    for text in ("", TEXT, " ".join(CUT * 30)):
        prompt, _, conditioning = encoder.read(text)
        ((embedding, options),) = conditioning
        length = embedding.shape[1]
        if encoder.family == "anima":
            length = len(options["t5xxl_ids"])
        elif encoder.family == "hidream":
            length += 2 * options["conditioning_llama3"].shape[2]
        assert len(prompt) == length
        assert bool(prompt.words) == bool(text)


def test_scripts_without_blanks_are_cut_at_tokens(encoder):
    prompt, tokens, conditioning = encoder.read(CHINESE)
    words = [word.text for word in prompt.words]
    assert words[:3] == ["a", "star", ","] and "".join(words[3:]) == HAN
    if encoder.family in T5_ONLY | {"sd3", "hidream"}:
        assert words[3:] == [HAN]  # T5 has one unknown token for all of it
        return
    assert_decoded(encoder, prompt, tokens, conditioning)
    found = prompt.find(read_prompt(encoder.clip, "心")[0])
    holding = [word for word in prompt.words if "心" in word.text]
    assert found == holding[0].columns
    assert not prompt.find(read_prompt(encoder.clip, "星")[0])


def test_phrases_are_found_wherever_they_stand(encoder):
    prompt, *_ = encoder.read("Heart and star, a red heart")
    words = {i: word.columns for i, word in enumerate(prompt.words)}
    phrase, _ = read_prompt(encoder.clip, "heart")
    assert prompt.find(phrase) == (*words[0], *words[6])
    assert prompt.find(read_prompt(encoder.clip, "red heart")[0]) == (*words[5], *words[6])
    assert not prompt.find(read_prompt(encoder.clip, "art")[0])


def test_emphasis_is_a_weight_of_the_words_columns(encoder):
    text = "a (red:1.5) heart, a (big star:0.5)"
    prompt, tokens, conditioning = encoder.read(text)
    weights = {"red": 1.5, "big": 0.5, "star": 0.5}
    assert [word.text for word in prompt.words] == ["a", "red", "heart", ",", "a", "big", "star"]
    for word in prompt.words:
        assert {prompt.tokens[i].weight for i in word.columns} == {weights.get(word.text, 1.0)}
    assert_decoded(encoder, prompt, tokens, conditioning)
    assert prompt.encodes_weights == (encoder.family not in LITERAL)
    if encoder.family in LITERAL:
        assert tokens == encoder.clip.tokenize("a red heart, a big star")


def test_an_edit_by_weight_acts_on_attention_alone(encoder):
    """The edit's embedding is the source's own; what the source says with emphasis is not said twice."""
    source, tokens, conditioning = encoder.read("a (red:1.5) heart")
    edit, changed = read_prompt(encoder.clip, "a (red:1.5) (heart:2)")
    found = align(source, edit)
    assert found.kind == "re-weight"
    red, heart = (list(word.columns) for word in edit.words[1:])
    assert found.scale[heart].tolist() == [2.0] * len(heart) and found.scale[red].tolist() == [1.0] * len(red)
    numbers = [[token for token, *_ in next(iter(one.values()))[0]] for one in (tokens, changed)]
    if numbers[0] == numbers[1]:  # a text with more weights may be cut into other tokens
        embedding = encode_tokens(encoder.clip, reweighted(encoder.clip, changed, found.encoded.tolist()))[0][0]
        assert torch.equal(embedding, conditioning[0][0])


def test_brackets_and_escapes_reach_language_models_as_the_host_sends_them(encoder):
    text = r"a heart (red) and \(big:2\) stars"
    if encoder.family not in LITERAL:
        pytest.skip("reads emphasis itself")
    prompt, tokens, _ = encoder.read(text)
    assert tokens == encoder.clip.tokenize(text)
    assert {token.weight for token in prompt.tokens} == {1.0}
    assert "big" in [word.text for word in prompt.words]


def test_changing_a_word_changes_its_first_column_and_none_before(encoder):
    """In language models a token's vector depends on the tokens before it alone: what the host encodes says where."""
    if encoder.family not in LITERAL | {"lumina2"}:
        pytest.skip("reads both ways")
    one, _, first = encoder.read("a red heart on grey")
    other, _, second = encoder.read("a red leaf on grey")
    place = one.words[2].columns[0]
    assert place == other.words[2].columns[0]
    same = (first[0][0][0, : place + 1] == second[0][0][0, : place + 1]).all(-1)
    assert same[:place].all() and not same[place]


@pytest.mark.parametrize(
    "family, absent",
    [
        ("sd3", ("t5",)),
        ("sd3", ("clip_l", "clip_g")),
        ("sd3", ("clip_l",)),
        ("hidream", ("clip_l", "clip_g", "t5")),
        ("hidream", ("clip_l", "clip_g", "llama")),
    ],
    ids=str,
)
@torch.inference_mode()
def test_columns_where_only_some_encoders_were_loaded(family, absent):
    """SD3 leaves their columns out, HiDream has zeros in their place."""
    encoder = Encoder(family, **dict.fromkeys(absent, False))
    prompt, tokens, conditioning = encoder.read(TEXT)
    ((embedding, options),) = conditioning
    llama = options.get("conditioning_llama3")
    assert len(prompt) == embedding.shape[1] + (0 if llama is None else 2 * llama.shape[2])
    assert [word.text for word in prompt.words] == CUT
    flat = {name: [token for chunk in chunks for token, *_ in chunk] for name, chunks in tokens.items()}
    name = "llama" if "t5" in absent and family == "hidream" else "l" if "t5" in absent else "t5xxl"
    begin = {"llama": 128, "l": 0, "t5xxl": 77 if absent == ("clip_l",) else 0}[name]
    for word in prompt.words:
        numbers = [flat[name][i - begin] for i in word.columns if begin <= i < begin + len(flat[name])]
        assert bare(tokenizer_of(encoder.clip, name).tokenizer.decode(numbers)) == bare(word.text)
