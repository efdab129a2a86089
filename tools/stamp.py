"""`make stamp`: writes into the examples and blueprints of which pack and version their nodes are.

By `cnr_id` and `ver` the Manager finds the pack that a workflow lacks. Both are read from pyproject.toml.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from .examples import examples
from .places import ROOT

PREFIX = "Palimpsest"


def pack() -> dict[str, str]:
    """What each node of the pack carries: {"cnr_id": ..., "ver": ...}."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    name, version = (re.search(rf'^{key} = "(.+)"$', text, re.MULTILINE)[1] for key in ("name", "version"))
    return {"cnr_id": name, "ver": version}


def files() -> list[Path]:
    return [*examples(), *sorted((ROOT / "subgraphs").glob("*.json"))]


def own_nodes(workflow: dict) -> Iterator[dict]:
    """The nodes of the pack, those inside subgraphs included."""
    for level in (workflow, *workflow.get("definitions", {}).get("subgraphs", ())):
        yield from (node for node in level["nodes"] if node["type"].startswith(PREFIX))


def text_of(workflow: dict) -> str:
    """A workflow as the examples are written: a line for each node, link and group."""
    parts = []
    for key, value in workflow.items():
        if key in ("nodes", "links", "groups") and value:
            lines = ",\n".join(f"  {json.dumps(one, ensure_ascii=False)}" for one in value)
            parts.append(f' "{key}": [\n{lines}\n ]')
        else:
            parts.append(f' "{key}": {json.dumps(value, ensure_ascii=False)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> int:
    for path in files():
        text = path.read_text(encoding="utf-8")
        workflow = json.loads(text)
        for node in own_nodes(workflow):
            node["properties"] = {**node.get("properties", {}), **pack()}
        new = text_of(workflow)
        if new != text:
            path.write_text(new, encoding="utf-8")
            print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
