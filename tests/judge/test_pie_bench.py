"""PIE-Bench is read as it is published, and what is damaged or missing in it is said in a sentence."""

from __future__ import annotations

import json
import re

import pytest
import torch
from palimpsest.benchmarks.judge import pie_bench
from palimpsest.benchmarks.judge.cases import decoded_mask, encoded_mask, read_picture
from palimpsest.tools.steps import Problem

from .ten_cases import CASES, SIDE, identifier, write_set


@pytest.fixture
def folder(tmp_path):
    return write_set(tmp_path)


def test_all_of_a_case_is_read(folder):
    cases = pie_bench.read(folder)
    assert [case.id for case in cases] == [identifier(number) for number in range(10)]
    assert [case.kind for case in cases][:3] == ["random", "change object", "add object"]
    third = cases[2]
    assert (third.source, third.target) == ("a grey wall (of stone)", "a coloured wall (of stone)")
    assert third.blend == ("cat", "dog") and cases[0].blend == ("", "")
    assert third.picture.is_file() and float(read_picture(third.picture).unique()) == pytest.approx(100 / 255)


@pytest.mark.parametrize("number", range(10))
def test_a_mask_covers_what_was_counted_by_hand(folder, number):
    mask = pie_bench.read(folder)[number].mask(SIDE, SIDE)
    assert int((1 - mask).sum()) == CASES[number].kept
    assert bool((mask[[0, -1]] == 1).all()) and bool((mask[:, [0, -1]] == 1).all())


def test_a_mask_comes_back_from_its_runs():
    mask = torch.rand(64, 96, generator=torch.Generator().manual_seed(0)) > 0.7
    mask[[0, -1]] = mask[:, [0, -1]] = True
    assert torch.equal(decoded_mask(encoded_mask(mask), 64, 96) > 0, mask)


def damaged(folder, change):
    """The sentence on a set whose list `change` has altered; one line, with the way out."""
    file = folder / pie_bench.FILE
    entries = json.loads(file.read_text(encoding="utf-8"))
    text = change(entries)
    file.write_text(json.dumps(entries) if text is None else text, encoding="utf-8")
    with pytest.raises(Problem) as problem:
        pie_bench.read(folder)
    assert re.fullmatch(r"[^\n]+\.", str(problem.value))
    return str(problem.value)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda entries: '{"0000', "is damaged"),
        (lambda entries: "[]", "holds no edits by their names"),
        (lambda entries: entries[identifier(3)].pop("mask") and None, f"edit {identifier(3)} has no mask"),
        (lambda entries: entries[identifier(3)].update(mask=[1, 2, 3]), "starts and lengths"),
        (lambda entries: entries[identifier(3)].update(mask="0 10"), "starts and lengths"),
        (lambda entries: entries.update(extra=7), "edit extra has no image_path"),
    ],
)
def test_a_damaged_list_is_a_sentence(folder, change, words):
    assert words in damaged(folder, change)


def test_missing_pictures_are_counted_and_the_first_is_named(folder):
    places = sorted((folder / "annotation_images").rglob("*.jpg"))
    for place in places[:2]:
        place.unlink()
    with pytest.raises(Problem, match=rf"2 of the 10 pictures .*{places[0].name}: unpack"):
        pie_bench.read(folder)


def test_a_damaged_picture_is_named(folder):
    place = pie_bench.read(folder)[4].picture
    place.write_bytes(b"no picture")
    with pytest.raises(Problem, match=rf"{place.name} cannot be read"):
        read_picture(place)
