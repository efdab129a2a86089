"""What the Templates dialog lists, and what the pages say of it."""

from __future__ import annotations

import re

import pytest
from palimpsest.tools.examples import EXAMPLES, examples, facts_of
from palimpsest.tools.places import ROOT
from palimpsest.tools.workflow import read

PAGES = [ROOT / "README.md", *sorted((ROOT / "web" / "docs").glob("*.md"))]
SHOWN = [path for path in examples() if path.parent == EXAMPLES]
NAMES = {path.relative_to(EXAMPLES).with_suffix("").as_posix() for path in examples()}


def test_the_dialog_lists_a_dozen_in_an_order_that_their_numbers_give():
    numbers = [facts_of(read(path))["number"] for path in SHOWN]
    assert numbers == sorted(set(numbers)) and numbers[-1] <= 12


def test_names_are_written_for_people_and_each_is_one_of_a_kind():
    stems = [path.stem for path in examples()]
    assert len(set(stems)) == len(stems)
    for stem in stems:
        assert re.fullmatch(r"[A-Z][A-Za-z-]*( [A-Za-z-]+)*", stem), stem


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_templates_that_exist(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"\*\d\d_\w+\*", text)
    italic = r"(?<![*\w])\*([^*|]+)\*(?!\*)"
    named = {" ".join(one.split()) for one in re.findall(italic, text)}
    assert {one for one in named if one.startswith("techniques/")} <= NAMES
    for sentence in re.findall(r"workflow templates?\s((?:(?!blueprint)[^.])*)", text):
        assert {" ".join(one.split()) for one in re.findall(italic, sentence)} <= NAMES, sentence
