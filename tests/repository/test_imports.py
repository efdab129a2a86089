"""No import cycle in the project, imports inside functions included."""

from __future__ import annotations

import ast
from pathlib import Path

from palimpsest.tools.places import ROOT

FOLDERS = ("inversion", "guidance", "morphing", "host", "nodes", "papercut", "benchmarks", "tools")


def modules(root: Path) -> dict[str, Path]:
    """Every module of the project by its dotted name below the root."""
    paths = [path for folder in FOLDERS for path in (root / folder).rglob("*.py")]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imported(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the project that one of them imports anywhere, also inside functions."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            found |= {f"{module}.{one.name}" if f"{module}.{one.name}" in known else module for one in node.names}
    return (found & set(known)) - {name}


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of two and more nodes that reach each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def test_a_cycle_is_found_and_a_chain_is_none():
    assert cycles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert cycles({"a": {"b"}, "b": {"a"}, "c": {"d"}, "d": {"e"}, "e": {"c"}}) == [["a", "b"], ["c", "d", "e"]]


def test_an_import_inside_a_function_counts(tmp_path):
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "a.py").write_text("def f():\n    from .b import g\n")
    (tmp_path / "host" / "b.py").write_text("from . import a\n")
    known = modules(tmp_path)
    assert cycles({name: imported(name, path, known) for name, path in known.items()}) == [["host.a", "host.b"]]


def test_no_module_imports_itself_by_way_of_others():
    known = modules(ROOT)
    assert cycles({name: imported(name, path, known) for name, path in known.items()}) == []
