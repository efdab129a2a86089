"""Which words of two captions belong together: by phrases, and from the right where a language has no such words."""

import pytest
from palimpsest.guidance.prompt_to_prompt.plan import plan_edits
from palimpsest.guidance.prompt_to_prompt.token_alignment import align

from .texts import prompt

# source, edit, swaps, new, gone
BY_PHRASE = [
    ("a photo of a cat", "a photo of a dog in the snow", [("cat", "dog")], "in the snow", ""),
    ("portrait of a woman", "portrait of an old man with a beard", [("woman", "man")], "old with a beard", ""),
    ("a girl with red hair", "a boy", [("girl", "boy")], "", "with red hair"),
    (
        "a yellow dotted moon on a mint plain ground",
        "a yellow dotted heart and a red cross on a mint plain ground", [("moon", "heart")], "and a red cross", "",
    ),
    ("a girl with red hair", "a boy on a bike", [("girl", "boy")], "on a bike", "with red hair"),
    ("a woman in a garden", "a man", [("woman", "man")], "", "in a garden"),
    ("a car", "a red sports car parked in front of a house", [], "red sports parked in front of a house", ""),
    ("a cat, oil painting", "a dog on a mat, oil painting", [("cat", "dog")], "on a mat", ""),
    ("a man wearing a hat", "a man holding an umbrella in the rain", [("wearing", "holding"), ("hat", "umbrella")],
     "in the rain", ""),
    ("a cat sitting on a chair", "a tiger with wings sitting on a chair", [("cat", "tiger")], "with wings", ""),
    ("a dog and a cat", "a cat", [], "", "a dog and"),
    ("two dogs on a beach", "three cats on a beach at night", [("two", "three"), ("dogs", "cats")], "at night", ""),
    ("a red striped heart", "a blue heart", [("striped", "blue")], "", "red"),
    ("a heart on grey", "a heart in snow", [("on", "in"), ("grey", "snow")], "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("source", "edit", "swaps", "new", "gone"), BY_PHRASE, ids=range(len(BY_PHRASE)))
def test_heads_are_paired_within_their_phrases(source, edit, swaps, new, gone):
    found = align(prompt(source), prompt(edit))
    assert (list(found.swaps), list(found.added), list(found.dropped)) == (swaps, new.split(), gone.split())


@pytest.mark.parametrize(("source", "edit"), [case[:2] for case in BY_PHRASE], ids=range(len(BY_PHRASE)))
def test_no_word_takes_the_sum_of_several(source, edit):
    """Each column of a word draws on the columns of one word, as much in all as one map."""
    old, fresh = prompt(source), prompt(edit)
    found = align(old, fresh)
    words = {column: word for word in old.words for column in word.columns}
    for word in fresh.words:
        rows = found.take[:, list(word.columns)].any(1).nonzero().flatten().tolist()
        assert len({words[row].columns for row in rows}) <= 1


def test_the_old_pairing_is_one_choice_away():
    source, edit = prompt("a photo of a cat"), prompt("a photo of a dog in the snow")
    found = align(source, edit, "from the right")
    assert found.swaps == (("cat", "snow"),) and found.added == ("dog", "in", "the")
    gone = align(prompt("a girl with red hair"), prompt("a boy"), "from the right")
    assert gone.swaps == (("girl with red hair", "boy"),)
    plan = plan_edits(source, [edit], pairing="from the right")
    assert plan.alignments[0].swaps == found.swaps


@pytest.mark.parametrize(("source", "edit", "guessed"), [
    ("gato", "perro en la nieve", True), ("un chat", "un chien dans la neige", True), ("gato", "perro", False),
    ("a cat", "a dog in the snow", False),
])  # fmt: skip
def test_a_language_without_such_words_is_paired_as_before_with_a_warning(source, edit, guessed):
    found, before = (align(prompt(source), prompt(edit), method) for method in ("by phrase", "from the right"))
    assert found.guessed == guessed
    if guessed:
        assert (found.swaps, found.added) == (before.swaps, before.added)
    assert ("check" in plan_edits(prompt(source), [prompt(edit)]).report()) == guessed


def test_the_report_says_how_both_texts_were_read():
    plan = plan_edits(prompt("portrait of a woman"), [prompt("portrait of an old man with a beard")])
    assert plan.report().splitlines()[1] == (
        "row 1, replace and refine: 'woman' becomes 'man', 'old' is new, 'with a beard' is new"
    )
