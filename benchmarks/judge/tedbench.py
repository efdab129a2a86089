"""TEdBench (arXiv 2210.09276): pictures in `originals` and a list of what each is to become; no masks, no captions.

The list is a file beside that folder: lines of a picture's name and a text (.txt, .csv, .tsv), or JSON's pairs of both.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from ...tools.steps import Problem
from .cases import Case, require_pictures

PICTURES = "originals"
LISTS = (".txt", ".csv", ".tsv", ".json")
LINE = re.compile(r"\W*(?P<picture>[^\t,;:]+?\.(?:png|jpe?g|webp))\W+(?P<text>\S.*?)[\s\"',)\]]*", re.IGNORECASE)


def is_here(folder: Path) -> bool:
    return (folder / PICTURES).is_dir()


def read(folder: Path) -> list[Case]:
    """All pairs in the list's order. Raises Problem where there is no list, or where it is damaged."""
    lists = [path for path in sorted(folder.iterdir()) if path.suffix in LISTS]
    pairs = next((found for path in lists if (found := _pairs(path))), [])
    if not pairs:
        raise Problem(
            f"There is no list of pictures and texts beside {folder / PICTURES}: put TEdBench's there, as lines of a "
            "picture's name and its text."
        )
    cases = [
        Case(f"{number:03d}-{Path(picture).stem}", folder / PICTURES / Path(picture).name, "", text)
        for number, (picture, text) in enumerate(pairs)
    ]
    require_pictures([case.picture for case in cases], folder)
    return cases


def _pairs(path: Path) -> list[tuple[str, str]]:
    """What a file lists; nothing where it is no list of pictures and texts."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix != ".json":
        found = [LINE.fullmatch(line.strip()) for line in text.splitlines()]
        return [(one["picture"].strip(), one["text"]) for one in found if one]
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise Problem(f"{path} is damaged ({error}): download TEdBench's list again.") from None
    pairs = entries.items() if isinstance(entries, dict) else entries
    wanted = [pair for pair in pairs if isinstance(pair, (list, tuple)) and len(pair) == 2]
    return [(str(picture), str(text)) for picture, text in wanted]
