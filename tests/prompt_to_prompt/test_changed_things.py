"""Blend words that nobody has named: the nouns of what a text changes."""

import pytest
from palimpsest.guidance.prompt_to_prompt.changed_things import changed_things
from palimpsest.guidance.prompt_to_prompt.plan import LocalBlend
from palimpsest.guidance.prompt_to_prompt.token_alignment import align

from .texts import prompt

# source, edit, the source's things, the edit's
NAMED = [
    ("a red striped heart on a checked ground", "a blue striped heart on a checked ground", "heart", "heart"),
    ("a red heart on a cream ground", "a red star on a cream ground", "heart", "star"),
    ("a red heart on a cream ground", "a red heart on a mint ground", "ground", "ground"),
    ("a photo of a cat on a sofa", "a photo of a dog on a sofa", "cat", "dog"),
    ("a red heart on a ground", "a ground", "heart", ""),
    ("a cat on a mat", "a cat under a mat", "mat", "mat"),
    ("a cat sitting on a chair", "a cat standing on a chair", "chair", "chair"),
    ("un chat noir", "un chien noir", "chat", "chien"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "edit", "old", "new"), NAMED)
def test_what_changes_is_named_by_its_noun(source, edit, old, new):
    first, second = prompt(source), prompt(edit)
    found = changed_things(first, second, align(first, second))
    assert [" ".join(word.text for word in side) for side in found] == [old, new]


def test_a_weighed_word_names_its_noun_in_both_texts():
    first = prompt("a red heart on a ground")
    second = prompt("a {red:2} heart on a ground")
    found = changed_things(first, second, align(first, second))
    assert [[word.text for word in side] for side in found] == [["heart"], ["heart"]]


def test_each_edit_has_the_source_words_that_it_changes():
    blend = LocalBlend(((1, 2), (1,), (2,)), sources=((1,), (2,)))
    assert [blend.pair(i) for i in range(2)] == [((1,), (1,)), ((2,), (2,))]
    assert LocalBlend(((1, 2), (1,), (2,))).pair(1) == ((1, 2), (2,))
