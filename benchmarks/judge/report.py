"""The judge's page: the table, and of each technique the best, the median and the worst edit beside their sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ...tools.gallery import STYLE
from .cases import Case
from .records import Record, Records
from .tables import COLUMNS, Line, rows_of
from .techniques import Technique

PAGE, SHOWN = "index.html", "shown"
SIDE = 512
RANKED_BY = ("structure", "fidelity", "psnr", "lpips", "clip")
OWN_STYLE = """
.edits { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1.5rem; }
.edits .both { display: grid; grid-template-columns: 1fr 1fr; gap: 3px; }
.edits img { display: block; width: 100%; height: auto; border-radius: 6px; }
.edits figcaption b { color: var(--ink); }
td.number { white-space: nowrap; }
tr.published td { color: var(--soft); }
"""


class Page(NamedTuple):
    """facts: sentences on what was judged and with what; notes: on what is missing and where numbers come from."""

    title: str
    facts: Sequence[str]
    notes: Sequence[str]
    lines: Sequence[Line]


def write_report(folder: Path, page: Page, techniques: Sequence[Technique], cases: Sequence[Case]) -> Path:
    """Writes index.html into the folder of the records, with the pictures that it shows; returns its path."""
    records = Records(folder)
    known = {case.id: case for case in cases}
    parts = [technique_html(records, technique, known) for technique in techniques]
    path = folder / PAGE
    path.write_text(page_html(page, "".join(parts)), encoding="utf-8")
    return path


def page_html(page: Page, body: str) -> str:
    facts = "".join(f"<p>{escape(one)}</p>" for one in page.facts)
    notes = "".join(f'<p class="facts">{escape(one)}</p>' for one in page.notes)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(page.title)}</title>
<style>
{STYLE.read_text(encoding="utf-8")}{OWN_STYLE}</style>
</head>
<body>
<header><h1>{escape(page.title)}</h1>{facts}</header>
<main>
<section><h2>Measured</h2><div class="table">{table_html(page.lines)}</div>{notes}</section>
{body}</main>
</body>
</html>
"""


def table_html(lines: Sequence[Line]) -> str:
    head, *body = rows_of(lines)
    cells = lambda row: f"<td>{escape(row[0])}</td>" + "".join(f'<td class="number">{escape(x)}</td>' for x in row[1:])
    rows = "".join(
        f"<tr{' class=published' if line.published else ''}>{cells(row)}</tr>" for line, row in zip(lines, body)
    )
    return f"<table><tr>{''.join(f'<th>{escape(one)}</th>' for one in head)}</tr>{rows}</table>"


def ranked(records: Mapping[str, Record]) -> tuple[str, list[Record]]:
    """The measure that orders a technique's edits, and the edits that have it, best first."""
    for name in RANKED_BY:
        having = [one for one in records.values() if not one.error and name in one.measures]
        if having:
            return name, sorted(having, key=lambda one: one.measures[name], reverse=bool(COLUMNS[name].up))
    return "", []


def technique_html(records: Records, technique: Technique, cases: Mapping[str, Case]) -> str:
    here = {case: record for case, record in records.of(technique.name).items() if case in cases}
    name, order = ranked(here)
    errors = [record for record in here.values() if record.error]
    failed = f'<p class="error">{len(errors)} failed: {escape(errors[0].error)}</p>' if errors else ""
    if not order:
        return f"<section><h2>{escape(technique.title)}</h2>{failed or '<p>Nothing was measured.</p>'}</section>\n"
    places = dict.fromkeys((0, (len(order) - 1) // 2, len(order) - 1))
    words = dict(zip((0, len(order) - 1, (len(order) - 1) // 2), ("best", "worst", "median")))
    figures = "".join(edit_html(records, cases[order[i].case], order[i], name, words[i]) for i in places)
    by = f"Best, median and worst by {COLUMNS[name].head}, the source on the left."
    return f"""<section>
<h2>{escape(technique.title)}</h2>
<p>{by}</p>{failed}
<div class="edits">{figures}</div>
</section>
"""


def edit_html(records: Records, case: Case, record: Record, name: str, word: str) -> str:
    column = COLUMNS[name]
    value = f"{column.head} {column.factor * record.measures[name]:.2f}"
    before = shown(records.folder, case.picture, f"source-{case.id}")
    after = shown(records.folder, records.picture(record.technique, case.id), f"{record.technique}-{case.id}")
    prompts = " \N{RIGHTWARDS ARROW} ".join(text for text in (case.source, case.target) if text)
    return (
        f'<figure><div class="both"><img src="{escape(before)}" alt="Source"><img src="{escape(after)}" alt="Edit">'
        f"</div><figcaption><b>{word}</b>, {value}<br>{escape(prompts)}</figcaption></figure>\n"
    )


def shown(folder: Path, picture: Path, name: str) -> str:
    """A small copy of a picture beside the page; its path seen from there."""
    place = folder / SHOWN / f"{name.replace('/', '-')}.jpg"
    place.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(picture) as opened:
        small = opened.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.LANCZOS)
    small.save(place, quality=90)
    return f"{SHOWN}/{place.name}"
