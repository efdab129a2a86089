"""TEdBench's pictures and texts, in the ways in which such a list is written."""

from __future__ import annotations

import json

import pytest
from palimpsest.benchmarks.judge import tedbench
from palimpsest.tools.steps import Problem
from PIL import Image

PAIRS = [("dog.jpeg", "A photo of a sitting dog."), ("dog.jpeg", "A jumping dog, at night"), ("a tree.png", "An oak")]


def write(folder, name, text):
    (folder / "originals").mkdir(exist_ok=True, parents=True)
    for picture, _ in PAIRS:
        Image.new("RGB", (64, 64)).save(folder / "originals" / picture)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "name, text",
    [
        ("input_list.txt", "\n".join(f"{picture}: {text}" for picture, text in PAIRS)),
        ("input_list.txt", "\n".join(f"('{picture}', '{text}')," for picture, text in PAIRS)),
        ("list.csv", "\n".join(f'{picture},"{text}"' for picture, text in PAIRS)),
        ("list.tsv", "picture\ttext\n" + "\n".join(f"{picture}\t{text}" for picture, text in PAIRS)),
        ("list.json", json.dumps(PAIRS)),
    ],
)
def test_every_pair_is_a_case(tmp_path, name, text):
    assert tedbench.is_here(write(tmp_path, name, text))
    (tmp_path / "a_readme.txt").write_text("Nothing but words.")
    cases = tedbench.read(tmp_path)
    assert [(case.picture.name, case.target) for case in cases] == PAIRS
    assert len({case.id for case in cases}) == 3
    assert all(case.source == "" and case.mask(8, 8) is None for case in cases)


def test_what_is_missing_or_damaged_is_a_sentence(tmp_path):
    with pytest.raises(Problem, match="There is no list of pictures and texts"):
        tedbench.read(write(tmp_path, "list.txt", "nothing"))
    with pytest.raises(Problem, match=r"list\.json is damaged"):
        tedbench.read(write(tmp_path, "list.json", "[["))
    (tmp_path / "list.json").write_text(json.dumps([["gone.png", "a text"]]))
    with pytest.raises(Problem, match=r"1 of the 1 pictures .*gone\.png: unpack"):
        tedbench.read(tmp_path)
