"""Papercut's edits by words in the layouts of the field's sets: the judge is proved on what our own benchmark measures.

python -m palimpsest.benchmarks.judge.papercut FOLDER [COUNT]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..prompt_to_prompt.cases import WordEdit, word_edits
from . import pie_bench
from .cases import encoded_mask

SPLIT = "validation"
TYPES = {"colour": "6", "shape": "1", "pattern": "7", "ground": "8", "add": "2", "remove": "3", "re-weight": "6"}


def export_pie_bench(folder: Path, edits: Sequence[WordEdit]) -> Path:
    """Writes the edits with their true masks as PIE-Bench has its own; returns the folder."""
    entries = {}
    for number, edit in enumerate(edits):
        name = f"{number:012d}"
        place = Path(f"{TYPES[edit.kind]}_{edit.kind}", f"{name}.png")
        save(edit, folder / pie_bench.PICTURES / place)
        words = edit.words.split(", ")
        entries[name] = {
            "image_path": place.as_posix(),
            "original_prompt": edit.caption,
            "editing_prompt": edit.after.caption,
            "editing_instruction": f"change the {edit.kind}",
            "editing_type_id": TYPES[edit.kind],
            "blended_word": f"{words[0]} {words[-1]}" if words[0] else "",
            "mask": encoded_mask(edit.mask),
        }
    (folder / pie_bench.FILE).write_text(json.dumps(entries), encoding="utf-8")
    return folder


def save(edit: WordEdit, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    pixels = (edit.before.render().movedim(0, -1) * 255).round().byte()
    Image.fromarray(pixels.numpy()).save(place)


if __name__ == "__main__":
    export_pie_bench(Path(sys.argv[1]), word_edits(int(sys.argv[2]) if sys.argv[2:] else 28, SPLIT))
