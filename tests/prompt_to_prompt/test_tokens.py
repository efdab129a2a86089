"""Prompts through the host's own CLIP tokenizer."""

import pytest
import torch
from palimpsest.guidance.prompt_to_prompt.plan import chosen_columns
from palimpsest.guidance.prompt_to_prompt.token_alignment import align
from palimpsest.host.prompt_to_prompt.tokens import as_rows, encode_tokens, read_prompt, reweighted

from .tiny_clip import tiny_clip


@pytest.fixture(scope="module")
def clip():
    with torch.inference_mode():
        return tiny_clip()


def words(clip, text):
    return [word.text for word in read_prompt(clip, text)[0].words]


def test_words_end_where_the_tokenizer_says(clip):
    expected = ["a", "red", "heart", ",", "on", "a", "checked", "ground", "."]
    assert words(clip, "A red heart, on a checked ground.") == expected
    prompt, _ = read_prompt(clip, "a supercalifragilistic heart")
    assert [word.text for word in prompt.words] == ["a", "supercalifragilistic", "heart"]
    assert len(prompt.words[1].columns) > 1 and prompt.find(read_prompt(clip, "heart")[0]) == prompt.words[2].columns


@pytest.mark.parametrize(
    "text", ["红色 心", "a café under the naïve sky", "ein schönes größeres herz", "красное сердце", "赤い ハート"]
)
def test_words_are_read_as_they_were_written(clip, text):
    """The tokenizer cuts bytes, and a letter outside ASCII has several."""
    assert "".join(words(clip, text)) == text.replace(" ", "")
    prompt, _ = read_prompt(clip, text)
    with pytest.raises(ValueError, match=f"choose from {', '.join(words(clip, text))}"):
        chosen_columns([prompt], [read_prompt(clip, "cafe")[0]])


def test_columns_are_the_networks(clip):
    prompt, tokens = read_prompt(clip, "a red heart")
    assert len(prompt) == 77 == len(tokens["l"][0])
    assert [token.kind for token in prompt.tokens[:6]] == ["start", "word", "word", "word", "end", "pad"]


def test_weights_are_the_hosts(clip):
    prompt, _ = read_prompt(clip, "a (red:1.3) heart and a ((big)) star")
    found = {word.text: prompt.tokens[word.columns[0]].weight for word in prompt.words}
    assert found["red"] == 1.3 and found["heart"] == 1.0 and found["big"] == pytest.approx(1.21)


def test_chunks_of_77(clip):
    text = ", ".join(f"heart number {i} on grey paper" for i in range(20))
    prompt, _ = read_prompt(clip, text)
    assert len(prompt) % 77 == 0 and len(prompt) > 77
    assert prompt.marks("start", 1) == [77] and len(prompt.marks("end", 1)) == 1
    edit, _ = read_prompt(clip, text.replace("heart number 1 on", "star number 1 on"))
    found = align(prompt, edit)
    assert found.swaps == (("heart", "star"),) and found.kind == "replace"


def test_weights_are_taken_off_and_put_on(clip):
    prompt, tokens = read_prompt(clip, "a (red:1.3) heart")
    _, plain = read_prompt(clip, "a red heart")
    assert reweighted(clip, tokens, [1.0] * 77) == plain
    assert reweighted(clip, plain, [token.weight for token in prompt.tokens]) == tokens
    with pytest.raises(ValueError, match="different numbers"):
        reweighted(clip, tokens, [1.0] * 76)


def test_rows_are_the_texts_alone(clip):
    long = "a heart " * 60
    with torch.inference_mode():
        alone = [encode_tokens(clip, read_prompt(clip, text)[1]) for text in ("a red heart", long)]
        ((rows, options),) = as_rows(alone)
    length = alone[1][0][0].shape[1]
    assert rows.shape == (2, length, 32)
    assert torch.equal(rows[1:], alone[1][0][0])
    assert torch.equal(rows[:1, :77], alone[0][0][0]) and torch.equal(rows[:1, 77:154], alone[0][0][0])
    assert options["pooled_output"].shape[0] == 2


def test_encoders_without_words_are_a_sentence():
    class Other:
        tokenizer = object()

        def tokenize(self, text):
            return {"t5xxl": [[(1, 1.0)]]}

    with pytest.raises(ValueError, match="words of this text encoder cannot be separated"):
        read_prompt(Other(), "a heart")
