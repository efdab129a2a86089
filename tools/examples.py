"""The example workflows: where they lie, in which order they are shown, and what each says of itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from .common import ROOT
from .workflow import WorkflowError, read

EXAMPLES = ROOT / "example_workflows"


def facts_of(workflow: Mapping) -> dict:
    """What a workflow says of itself: number, title, story, and the nodes of the pictures before and after."""
    return (workflow.get("extra") or {}).get("palimpsest") or {}


def examples(folder: Path = EXAMPLES) -> list[Path]:
    """All of them by number: those of the Templates dialog, then those in techniques/, which it does not list."""

    def place(path: Path) -> tuple[bool, float, str]:
        try:
            number = facts_of(read(path)).get("number")
        except WorkflowError:
            number = None
        return path.parent != folder, float("inf") if number is None else number, path.stem

    return sorted([*folder.glob("*.json"), *folder.glob("techniques/*.json")], key=place)


def example(name: str) -> Path:
    """The example of that name, wherever it lies."""
    (path,) = (path for path in examples() if path.stem == name)
    return path


def slug(name: str) -> str:
    """A name as part of an address: "Re-weight words" -> "re-weight-words"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
