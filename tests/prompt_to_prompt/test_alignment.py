"""Which word takes over which word's attention: tables, and what holds for every pair of prompts."""

import pytest
import torch
from palimpsest.guidance.prompt_to_prompt.plan import LocalBlend, chosen_columns, plan_edits, uncovered
from palimpsest.guidance.prompt_to_prompt.token_alignment import align

from .texts import prompt

SWAPS = [
    ("a red heart", "a blue heart", "replace", [("red", "blue")], [], []),
    ("a red heart, on grey.", "a blue heart, on grey.", "replace", [("red", "blue")], [], []),
    ("a red heart", "a red heart, painted by hand", "refine", [], [",", "painted", "by", "hand"], []),
    ("a red striped heart", "a red heart", "refine", [], [], ["striped"]),
    ("a heart", "a big blue heart", "refine", [], ["big", "blue"], []),
    ("a dog on grass", "a small cat on grass", "replace and refine", [("dog", "cat")], ["small"], []),
    ("a red striped heart", "a blue heart", "replace and refine", [("striped", "blue")], [], ["red"]),
    ("a cat and a dog", "a cow and a pig", "replace", [("cat", "cow"), ("dog", "pig")], [], []),
    ("a red heart", "A  red heart", "identical", [], [], []),
    ("a red heart", "a {red:1.5} heart", "re-weight", [], [], []),
    ("a {red:1.5} heart", "a {red:1.5} heart", "identical", [], [], []),
    ("a red heart and a blue star", "a blue star", "refine", [], [], ["a", "red", "heart", "and"]),
    ("a cat", "a hippopotamus", "replace", [("cat", "hippopotamus")], [], []),
]


@pytest.mark.parametrize(("source", "edit", "kind", "swaps", "added", "dropped"), SWAPS)
def test_table_of_edits(source, edit, kind, swaps, added, dropped):
    found = align(prompt(source), prompt(edit))
    assert (found.kind, list(found.swaps), list(found.added), list(found.dropped)) == (kind, swaps, added, dropped)


def test_runs_of_neighbours_match_together():
    """'a blue star' is taken from the end, not its article from the beginning."""
    source, edit = prompt("a red heart and a blue star"), prompt("a blue star")
    found = align(source, edit)
    assert [int(found.take[:, c].argmax()) for c in (1, 2, 3)] == [5, 6, 7]


def test_matched_words_take_their_own_columns():
    source, edit = prompt("a red heart on grey"), prompt("a very red heart on grey")
    found = align(source, edit)
    names = lambda p, c: p.tokens[c].piece
    for column in range(len(edit)):
        rows = found.take[:, column].nonzero().flatten().tolist()
        if edit.tokens[column].kind == "word":
            assert [names(source, row) for row in rows] == ([] if found.new[column] else [names(edit, column)])
    assert found.new.nonzero().flatten().tolist() == [2]


def test_padding_never_takes_over_a_word():
    source, edit = prompt("one two three four five six"), prompt("one two")
    found = align(source, edit)
    for column, token in enumerate(edit.tokens):
        kinds = {source.tokens[row].kind for row in found.take[:, column].nonzero().flatten().tolist()}
        assert kinds <= {token.kind}
        assert found.new[column] == (not kinds)
    assert found.take[7, 3] == 1.0 and edit.tokens[3].kind == source.tokens[7].kind == "end"


def test_words_of_several_pieces_divide_what_they_take():
    source, edit = prompt("a cat"), prompt("a hippopotamus")
    found = align(source, edit)
    assert torch.equal(found.take[2, 2:5], torch.full((3,), 1 / 3))
    back = align(edit, source)
    assert torch.equal(back.take[2:5, 2], torch.ones(3))
    same = align(prompt("a kangaroo"), prompt("a crocodile"))
    assert torch.equal(same.take[2:4, 2:4], torch.eye(2))


@pytest.mark.parametrize("lengths", [(3, 3), (3, 30), (30, 3), (30, 31), (45, 20)])
def test_attention_is_neither_made_nor_lost_at_any_length(lengths):
    """Where no word is new or gone every column of the source is given away exactly once."""
    words = [f"w{i}" for i in range(60)]
    a, b = (prompt(" ".join(words[:n])) for n in lengths)
    found = align(a, b)
    kept = min(lengths)
    given = found.take.sum(1)
    for column, token in enumerate(a.tokens):
        if token.kind == "word":
            continue
        if token.kind != "pad":
            assert given[column] == pytest.approx(1.0)
    assert found.take[[c for w in a.words[:kept] for c in w.columns]].sum() == pytest.approx(
        sum(len(w.columns) for w in a.words[:kept])
    )


def test_chunks_shift_words_but_not_their_columns():
    source = prompt(" ".join(f"w{i}" for i in range(20)))
    edit = prompt("new " + source.text)
    found = align(source, edit)
    assert len(source) == len(edit) == 32 and found.added == ("new",)
    for old, fresh in zip(source.words, edit.words[1:]):
        assert found.take[old.columns[0], fresh.columns[0]] == 1.0


def test_emphasis_is_measured_against_the_source():
    found = align(prompt("a {red:1.5} heart"), prompt("a {red:3.0} heart"))
    assert found.scale[2] == 2.0 and found.kind == "re-weight"
    assert align(prompt("a red heart"), prompt("a {red:0} heart")).scale[2] == 0.0


def test_identity_is_the_identity():
    source = prompt("a red heart, on a grey ground")
    found = align(source, source)
    assert torch.equal(found.take, torch.eye(len(source))) and not found.new.any() and found.identity


def test_words_are_found_through_punctuation():
    text = prompt("a red heart, a red star.")
    assert text.find(prompt("red")) == (2, 6)
    assert text.find(prompt("red star")) == (6, 7)
    assert text.find(prompt("heart")) == (3,)
    assert text.find(prompt("star heart")) == text.find(prompt("")) == ()


def test_plans_that_make_no_sense_are_sentences():
    source = prompt("a red heart")
    with pytest.raises(ValueError, match="source text is empty"):
        plan_edits(prompt(""), [source])
    with pytest.raises(ValueError, match="no edited text"):
        plan_edits(source, [])
    with pytest.raises(ValueError, match="Edited text 2 is empty"):
        plan_edits(source, [prompt("a blue heart"), prompt("")])
    with pytest.raises(ValueError, match="says the same"):
        plan_edits(source, [prompt("a  red heart")])
    with pytest.raises(ValueError, match="'moon', which is in none of the texts: choose from a, red, heart, blue"):
        chosen_columns([source, prompt("a blue heart")], [prompt("moon")])


def test_blend_words_may_stand_in_either_text():
    texts = [prompt("a red heart"), prompt("a red star"), prompt("a red moon")]
    columns = chosen_columns(texts, [prompt("heart"), prompt("star")])
    assert columns == ((3,), (3,), ())
    plan = plan_edits(texts[0], texts[1:], blend=LocalBlend(((), (3,), ())))
    assert uncovered(plan) == [2]


def test_the_report_says_what_happens():
    plan = plan_edits(prompt("a red heart"), [prompt("a blue heart"), prompt("a {red:2} heart")])
    assert plan.report().splitlines() == [
        "row 0, the source: a red heart",
        "row 1, replace: 'red' becomes 'blue'",
        "row 2, re-weight: 'red' counts 2 times",
    ]
