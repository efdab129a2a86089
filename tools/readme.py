"""`make readme`: renews the README's tables of nodes and of measurements between their markers."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ..benchmarks.results import HEAD, Row, cells, summary
from ..benchmarks.results import load as load_rows
from .common import ROOT

README = ROOT / "README.md"
GROUPS = ("inversion", "editing", "motion", "sketch", "morph")


def first_sentence(text: str) -> str:
    """The first sentence of a description, on one line, safe inside a table."""
    line = " ".join((text or "").split()).replace("|", "\\|")
    return re.split(r"(?<=[.!?]) (?=[A-Z0-9])", line, maxsplit=1)[0]


def nodes_table(schemas: Sequence[Any]) -> str:
    """A line a node, grouped by category, in the order of the work. schemas: the nodes' V3 schemas."""
    if not schemas:
        return "There are no nodes yet."
    lines = ["| | node | what it does |", "|---|---|---|"]
    ordered = sorted(schemas, key=lambda one: (_place(one.category), one.category))
    for category, members in groupby(ordered, key=lambda one: one.category):
        for index, schema in enumerate(members):
            page = ROOT / "web" / "docs" / f"{schema.node_id}.md"
            name = f"[{schema.display_name}](web/docs/{page.name})" if page.exists() else schema.display_name
            group = category.rsplit("/", 1)[-1] if index == 0 else ""
            lines.append(f"| {group} | {name} | {first_sentence(schema.description)} |")
    return "\n".join(lines)


def _place(category: str) -> int:
    group = category.rsplit("/", 1)[-1]
    return GROUPS.index(group) if group in GROUPS else len(GROUPS)


def bench_table(rows: Sequence[Row]) -> str:
    """What has a target, a table a technique, with the rest folded away below it; and how many targets are met."""
    if not rows:
        return "Nothing has been measured yet; `make bench` does it."
    parts = []
    for technique, group in groupby(rows, key=lambda row: row.technique):
        group = list(group)
        aimed, rest = [row for row in group if row.target], [row for row in group if not row.target]
        parts.append(f"**{technique}**")
        if aimed:
            parts.append(_lines(aimed))
        if rest:
            parts.append(f"<details><summary>Beside these ({len(rest)})</summary>\n\n{_lines(rest)}\n\n</details>")
    return "\n\n".join([*parts, summary(rows)])


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
    return replaced(replaced(text, "nodes", nodes_table(schemas)), "bench", bench_table(rows))


def registered_schemas() -> list[Any]:
    """The schemas of all nodes of the pack, loaded into this process as the host loads them."""
    from ..nodes import PalimpsestExtension

    async def load_nodes() -> list[Any]:
        extension = PalimpsestExtension()
        await extension.on_load()
        return await extension.get_node_list()

    return [node.GET_SCHEMA() for node in asyncio.run(load_nodes())]


def main(path: Path = README) -> int:
    from .inprocess import enter_host

    enter_host()
    text = path.read_text(encoding="utf-8")
    fresh = renewed(text, registered_schemas(), load_rows())
    path.write_text(fresh, encoding="utf-8")
    print(f"{path.name} {'is renewed' if fresh != text else 'was up to date'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
