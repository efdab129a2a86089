"""`make readme`: renews the README's tables of nodes and of headlines between their markers, and all of RESULTS.md."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from ..benchmarks.cost.table import cost_table
from ..benchmarks.headlines import HEADLINES, headline_cells
from ..benchmarks.results import HEAD, Row, cells, load as load_rows, load_test_runs, summary
from .places import ROOT

README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
GROUPS = ("inversion", "editing", "motion", "sketch", "morph")
# In the order of work, a line a group; what is not named here comes last in its group.
ORDER = (
    "DDIMInvert InversionCheck SaveTrajectory LoadTrajectory NegativePromptInversion NullTextOptimize ProximalGuidance "
    "TrajectoryAnchor "
    "PromptToPrompt WordAttentionMask SourceGuidance InversionFreeEdit DiffEditMask DiffEditHeadStart EditReport "
    "FlowCanvas FlowFromTransform FlowFromPoints FlowFromImages FlowCompose FlowPreview SaveFlow LoadFlow FlowWarp "
    "FlowGuidanceSampler FlowGuidanceReport "
    "SketchPrepare LoadEdgePredictor EdgePredictorGuidance BestSeed EdgePredictorTrain EdgePredictorPreview "
    "SaveEdgePredictor "
    "KeyPictures MorphSchedule MorphLatents MorphConditioning LoRAFit LoadLoRAWeights LoRAInterpolator AttentionBlend "
    "Reschedule"
).split()
RESULTS_HEAD = """# Results

Made by `make bench` and `make readme`; do not edit. Every row is one of `results.json`, where its machine and day stand
as well. *faithful* takes the paper's steps one by one; for motion guidance its runs are shortened to what a CPU allows,
and the rows say to how many of the paper's 5000 evaluations. *fast* is what the nodes do by default, or by a setting
that the row names. The list below says how often each technique was measured on the test split. How
settings are chosen and numbers reported: [CONTRIBUTING](../CONTRIBUTING.md#benchmarks).
"""


def first_sentence(text: str) -> str:
    """The first sentence of a description, on one line, safe inside a table."""
    line = " ".join((text or "").split()).replace("|", "\\|")
    return re.split(r"(?<=[.!?]) (?=[A-Z0-9])", line, maxsplit=1)[0]


def nodes_table(schemas: Sequence[Any]) -> str:
    """A line a node, grouped by category, in the order of the work. schemas: the nodes' V3 schemas."""
    if not schemas:
        return "There are no nodes yet."
    lines = ["| | node | what it does |", "|---|---|---|"]
    for category, members in groupby(sorted(schemas, key=_place), key=lambda one: one.category):
        for index, schema in enumerate(members):
            page = ROOT / "web" / "docs" / f"{schema.node_id}.md"
            name = f"[{schema.display_name}](web/docs/{page.name})" if page.exists() else schema.display_name
            group = category.rsplit("/", 1)[-1] if index == 0 else ""
            lines.append(f"| {group} | {name} | {first_sentence(schema.description)} |")
    return "\n".join(lines)


def _place(schema: Any) -> tuple[int, str, int]:
    group, name = schema.category.rsplit("/", 1)[-1], schema.node_id.removeprefix("Palimpsest")
    return (
        GROUPS.index(group) if group in GROUPS else len(GROUPS),
        schema.category,
        ORDER.index(name) if name in ORDER else len(ORDER),
    )


def headline_table(rows: Sequence[Row]) -> str:
    """The README's fifteen rows. Raises ValueError where a suite no longer has one of them."""
    lines = ["| | Palimpsest | spread | beside |", "|---|---|---|---|"]
    return "\n".join(lines + [f"| {' | '.join(headline_cells(one, rows))} |" for one in HEADLINES])


def entry(name: str, runs: int) -> str:
    """A line of the list of techniques: its link, and how often it was measured on the test split."""
    times = f"{runs} time" + ("s" if runs != 1 else "")
    return f"- [{name}](#{anchor(name)}): {f'{times} on the test split' if runs else 'on other scenes, or none'}"


def results_page(rows: Sequence[Row], test_runs: Mapping[str, int]) -> str:
    """All rows: first how the targets stand, then a section a technique: what has a target, then the rest."""
    if not rows:
        return f"{RESULTS_HEAD}\nNothing has been measured yet; `make bench` does it.\n"
    names = dict.fromkeys(row.technique for row in rows)
    parts = [
        RESULTS_HEAD,
        summary(rows),
        "\n".join(entry(name, test_runs.get(name, 0)) for name in names),
    ]
    for technique, group in groupby(rows, key=lambda row: row.technique):
        group = list(group)
        aimed, rest = [row for row in group if row.target], [row for row in group if not row.target]
        parts += [f"## {technique}", _origin(group)]
        parts += [_lines(aimed)] if aimed else []
        parts += ["Without a target:"] if aimed and rest else []
        parts += [_lines(rest)] if rest else []
    figures = sorted(path.name for path in (RESULTS.parent / "figures").glob("*.svg"))
    parts += ["## Figures"] + [f"![{name.removesuffix('.svg').replace('_', ' ')}](figures/{name})" for name in figures]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def anchor(title: str) -> str:
    """The name by which a heading is linked to, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _origin(rows: Sequence[Row]) -> str:
    """Where and when the rows were measured, in a line."""
    return "; ".join(sorted({f"{row.machine}, {row.date}" for row in rows}))


def _lines(rows: Sequence[Row]) -> str:
    head = f"| {' | '.join(HEAD)} |\n|---|---|---|---|---|\n"
    return head + "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in cells(row))} |" for row in rows)


def replaced(text: str, marker: str, content: str) -> str:
    """The text with what stands between `<!-- marker -->` and `<!-- /marker -->` replaced."""
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"The README has no place between <!-- {marker} --> and <!-- /{marker} -->.")
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def renewed(text: str, schemas: Sequence[Any], rows: Sequence[Row]) -> str:
    """The README as it should be."""
    made = {"nodes": nodes_table(schemas), "headlines": headline_table(rows), "costs": cost_table(rows)}
    for marker, content in made.items():
        text = replaced(text, marker, content)
    return text


def registered_schemas() -> list[Any]:
    """The schemas of all nodes of the pack, loaded into this process as the host loads them."""
    from ..nodes import PalimpsestExtension

    async def load_nodes() -> list[Any]:
        extension = PalimpsestExtension()
        await extension.on_load()
        return await extension.get_node_list()

    return [node.GET_SCHEMA() for node in asyncio.run(load_nodes())]


def main() -> int:
    from .inprocess import enter_host

    enter_host()
    rows = load_rows()
    fresh = {
        README: renewed(README.read_text(encoding="utf-8"), registered_schemas(), rows),
        RESULTS: results_page(rows, load_test_runs()),
    }
    for path, text in fresh.items():
        changed = not path.is_file() or path.read_text(encoding="utf-8") != text
        path.write_text(text, encoding="utf-8")
        print(f"{path.name} {'is renewed' if changed else 'was up to date'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
