"""PIE-Bench (arXiv 2310.01506): 700 pictures with source and target prompts, kinds of edits and masks."""

from __future__ import annotations

from pathlib import Path

from ...tools.steps import Problem
from .cases import Case, read_json, require_pictures

FILE, PICTURES = "mapping_file.json", "annotation_images"
WHAT = "PIE-Bench's list of edits"
KINDS = {
    "0": "random", "1": "change object", "2": "add object", "3": "delete object", "4": "change content",
    "5": "change pose", "6": "change colour", "7": "change material", "8": "change background", "9": "change style",
}  # fmt: skip
KEYS = ("image_path", "original_prompt", "editing_prompt", "editing_type_id", "blended_word", "mask")


def is_here(folder: Path) -> bool:
    return (folder / FILE).is_file()


def read(folder: Path) -> list[Case]:
    """All cases of the set in `folder`, in the file's order. Raises Problem where it is damaged or incomplete."""
    entries = read_json(folder / FILE, WHAT)
    if not isinstance(entries, dict) or not entries:
        raise Problem(f"{folder / FILE} is damaged (it holds no edits by their names): download {WHAT} again.")
    cases = [_case(folder, name, entry) for name, entry in entries.items()]
    require_pictures([case.picture for case in cases], folder)
    return cases


def _case(folder: Path, name: str, entry: dict) -> Case:
    missing = [key for key in KEYS if key not in entry] if isinstance(entry, dict) else list(KEYS)
    if missing:
        raise Problem(f"{folder / FILE} is damaged (edit {name} has no {missing[0]}): download {WHAT} again.")
    kind = str(entry["editing_type_id"])
    words = str(entry["blended_word"] or "").split()
    return Case(
        name,
        folder / PICTURES / str(entry["image_path"]),
        plain(str(entry["original_prompt"])),
        plain(str(entry["editing_prompt"])),
        KINDS.get(kind, kind),
        _runs(folder, name, entry["mask"]),
        (words[0], words[1]) if len(words) == 2 else ("", ""),
    )


def plain(prompt: str) -> str:
    """A prompt without the brackets around the words that differ."""
    return " ".join(prompt.replace("[", "").replace("]", "").split())


def _runs(folder: Path, name: str, mask: object) -> tuple[int, ...]:
    numbers = mask if isinstance(mask, list) else [None]
    if len(numbers) % 2 or not all(isinstance(one, int) and one >= 0 for one in numbers):
        raise Problem(
            f"{folder / FILE} is damaged (the mask of edit {name} is no list of starts and lengths): download {WHAT} "
            "again."
        )
    return tuple(numbers)
