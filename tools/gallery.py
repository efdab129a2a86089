"""The demo's page: one file of HTML with its style inside, and relative links to the pictures beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from itertools import groupby
from pathlib import Path

STYLE = Path(__file__).with_name("gallery.css")
VIDEOS = (".mp4", ".webm", ".mov")
SCRIPT = """
for (const pair of document.querySelectorAll(".pair")) {
  const slider = pair.querySelector("input");
  const show = () => pair.style.setProperty("--cut", slider.value + "%");
  slider.addEventListener("input", show);
  show();
}
"""


@dataclass(frozen=True)
class Item:
    """What one node showed. files: paths seen from the page; texts: its words."""

    node: str
    title: str
    kind: str
    files: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exhibit:
    """One workflow of the demo; paths are seen from the page. source: the workflow's own
    file; model: the checkpoint that it ran on."""

    name: str
    title: str
    story: str
    workflow: str
    seconds: float
    error: str = ""
    before: str = ""
    after: str = ""
    items: tuple[Item, ...] = ()
    source: str = ""
    model: str = ""


def write_gallery(
    folder: Path, exhibits: Sequence[Exhibit], rows: Sequence[dict], figures: Sequence[Path] = ()
) -> Path:
    """Writes `index.html` into the folder and returns its path; `exhibits.json` holds the same for other tools.

    rows: benchmarks/results.json. figures: the benchmarks' plots, which are copied beside the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "exhibits.json").write_text(json.dumps([asdict(one) for one in exhibits], indent=1), encoding="utf-8")
    page = folder / "index.html"
    for path in figures:
        (folder / "figures").mkdir(exist_ok=True)
        shutil.copyfile(path, folder / "figures" / path.name)
    page.write_text(page_html(exhibits, rows, [f"figures/{path.name}" for path in figures]), encoding="utf-8")
    return page


def page_html(exhibits: Sequence[Exhibit], rows: Sequence[dict], figures: Sequence[str] = ()) -> str:
    cards = "".join(map(card_html, exhibits))
    body = "".join(map(exhibit_html, exhibits)) or "<p>There are no example workflows yet.</p>"
    numbers = '<p><a href="#numbers">What was measured</a></p>' if rows else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Palimpsest</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<header>
<h1>Palimpsest</h1>
<p>Edits of existing pictures, each made a moment ago by a real ComfyUI from the workflow that is linked beside it.</p>
{numbers}<nav class="cards">{cards}</nav>
</header>
<main>
{body}{rows_html(rows, figures)}</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def card_html(one: Exhibit) -> str:
    """What came of a workflow, small, with its title: the way to its section."""
    still = [file for item in one.items for file in item.files if not file.lower().endswith(VIDEOS)]
    picture = one.after or one.before or next(iter(still), "")
    image = f'<img src="{escape(picture)}" alt="" loading="lazy">' if picture else '<span class="blank"></span>'
    return f'<a class="card" href="#{escape(one.name)}">{image}<span>{escape(one.title)}</span></a>'


def exhibit_html(one: Exhibit) -> str:
    story = f"<p>{escape(one.story)}</p>" if one.story else ""
    error = f'<p class="error">This workflow failed. {escape(one.error)}</p>' if one.error else ""
    hero = {one.before, one.after} if one.before and one.after else set()
    # A batch is shown whole, even if its first picture is under the slider.
    shown = [item for item in one.items if item.texts or not set(item.files) <= hero]
    between = "".join(map(item_html, shown))
    between = f'<div class="between">{between}</div>' if between else ""
    return f"""<section id="{escape(one.name)}">
<h2>{escape(one.title)}</h2>
{story}{error}{pair_html(one)}{between}
<p class="facts"><a href="{escape(one.workflow)}" download>Workflow</a> to open in ComfyUI,
{one.seconds:.1f} s for everything</p>
</section>
"""


def pair_html(one: Exhibit) -> str:
    """Before and after under one slider, or the one picture that there is."""
    if one.before and one.after:
        return f"""<div class="pair">
<img src="{escape(one.after)}" alt="After">
<img class="before" src="{escape(one.before)}" alt="Before">
<span class="label left">before</span><span class="label right">after</span>
<input type="range" min="0" max="100" value="50" aria-label="Before and after">
</div>
"""
    single = one.after or one.before
    return f'<div class="pair">{media_html(single, one.title)}</div>\n' if single else ""


def item_html(item: Item) -> str:
    """What a node showed, with its name under it."""
    media = "".join(media_html(file, item.title) for file in item.files)
    strip = f'<div class="strip">{media}</div>' if media else ""
    texts = "".join(f"<pre>{escape(text)}</pre>" for text in item.texts)
    count = f" ({len(item.files)})" if len(item.files) > 1 else ""
    return f"<figure>{strip}{texts}<figcaption>{escape(item.title)}{count}</figcaption></figure>\n"


def media_html(file: str, title: str) -> str:
    if file.lower().endswith(VIDEOS):
        return f'<video src="{escape(file)}" controls loop muted autoplay playsinline></video>'
    return f'<a href="{escape(file)}"><img src="{escape(file)}" alt="{escape(title)}" loading="lazy"></a>'


def value_text(value: object) -> str:
    """A measured value with four significant digits; a dash where it was not measured."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def rows_html(rows: Sequence[dict], figures: Sequence[str] = ()) -> str:
    """The measured numbers: the plots, and a table a technique."""
    if not rows:
        return ""
    marks = {True: '<td class="met">met</td>', False: '<td class="missed">missed</td>', None: "<td></td>"}
    tables = ""
    for technique, group in groupby(rows, key=lambda row: row["technique"]):
        lines = "".join(
            f"<tr><td>{escape(row['measure'])}</td><td>{escape(row['mode'])}</td>"
            f'<td class="number">{escape(value_text(row["value"]))} {escape(row["unit"])}</td>'
            f"<td>{escape(row['target'])}</td>{marks[row['met']]}</tr>"
            for row in group
        )
        head = "<tr><th>measure</th><th>mode</th><th>value</th><th>target</th><th></th></tr>"
        table = f'<div class="table"><table>{head}{lines}</table></div>'
        tables += f"<details><summary>{escape(technique)}</summary>{table}</details>"
    plots = "".join(media_html(file, Path(file).stem.replace("_", " ")) for file in figures)
    plots = f'<div class="plots">{plots}</div>' if plots else ""
    where = "; ".join(sorted({f"{row['machine']}, {row['date']}" for row in rows}))
    return f'<section id="numbers"><h2>Measured</h2>{plots}{tables}<p class="facts">{escape(where)}</p></section>\n'
