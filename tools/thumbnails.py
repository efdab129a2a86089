"""`make thumbnails`: a picture beside every example workflow, cut from what the demo has just made.

The Templates dialog shows `<workflow>.jpg`: the picture before on the left of a slanted cut, that after on the right.
Pictures that were made on Papercut say so, since the examples themselves load models that people have.
All of those together are the README's picture.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFont

from .places import ROOT

SIZE = 384
SLANT = 40
EXHIBITS = ROOT / "demo" / "exhibits.json"
SHEET = ROOT / "web" / "examples.jpg"
SHEET_TILE, SHEET_COLUMNS = 220, 6


def square(path: Path) -> Image.Image:
    """The middle square of a picture (of an animation: of its middle frame), SIZE x SIZE."""
    picture = Image.open(path)
    picture.seek(getattr(picture, "n_frames", 1) // 2)
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.convert("RGB").crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.LANCZOS)


def middle(before: Image.Image, after: Image.Image) -> int:
    """The column left of which half of the difference lies; never near the border, and the middle of equal pictures."""
    columns = ImageChops.difference(before, after).convert("L").resize((SIZE, 1), Image.BOX).tobytes()
    total, seen = sum(columns), 0
    for place, value in enumerate(columns):
        seen += value
        if total and 2 * seen >= total:
            return min(max(place, SIZE // 4), 3 * SIZE // 4)
    return SIZE // 2


def cut(before: Image.Image, after: Image.Image) -> Image.Image:
    """Both pictures in one, along a slanted white line through the middle of what differs."""
    place = middle(before, after)
    top, bottom = place + SLANT, place - SLANT
    mask = Image.new("L", (SIZE, SIZE), 0)
    ImageDraw.Draw(mask).polygon([(0, 0), (top, 0), (bottom, SIZE), (0, SIZE)], fill=255)
    both = Image.composite(before, after, mask)
    ImageDraw.Draw(both).line([(top, -1), (bottom, SIZE)], fill="white", width=4)
    return both


def labelled(picture: Image.Image, model: str) -> Image.Image:
    """The picture, with a word on the model where that is the demo's own."""
    if model != "papercut":
        return picture
    font = ImageFont.load_default(size=17)
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = draw.textbbox((10, SIZE - 32), "made on Papercut", font=font)
    draw.rectangle((left - 6, top - 4, right + 6, bottom + 4), fill="#202020")
    draw.text((10, SIZE - 32), "made on Papercut", font=font, fill="white")
    return picture


def thumbnail(exhibit: dict, folder: Path) -> Image.Image | None:
    """The thumbnail of one exhibit of the demo; None where it shows no picture. folder: the gallery's."""
    before, after = exhibit["before"], exhibit["after"]
    if before and after:
        return cut(square(folder / before), square(folder / after))
    files = [file for item in exhibit["items"] for file in item["files"] if not file.endswith((".mp4", ".webm"))]
    shown = after or before or (files[-1] if files else "")
    return square(folder / shown) if shown else None


def sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """The pictures side by side in rows, on white; the last row is filled up with nothing."""
    columns, gap = min(SHEET_COLUMNS, len(pictures)), 6
    rows = -(-len(pictures) // columns)
    step = SHEET_TILE + gap
    out = Image.new("RGB", (columns * step - gap, rows * step - gap), "white")
    for index, picture in enumerate(pictures):
        small = picture.resize((SHEET_TILE, SHEET_TILE), Image.LANCZOS)
        out.paste(small, (index % columns * step, index // columns * step))
    return out


def main(exhibits: Path = EXHIBITS, together: Path = SHEET) -> int:
    if not exhibits.is_file():
        sys.stderr.write("There is no gallery to cut thumbnails from: run 'make demo' first.\n")
        return 1
    changes = []
    for exhibit in json.loads(exhibits.read_text(encoding="utf-8")):
        picture = None if exhibit["error"] else thumbnail(exhibit, exhibits.parent)
        if picture is None:
            sys.stderr.write(f"{exhibit['name']} shows no picture; its thumbnail stays as it was.\n")
            continue
        target = Path(exhibit["source"]).with_suffix(".jpg")
        labelled(picture.copy(), exhibit.get("model", "")).save(target, quality=85, optimize=True)
        print(target.name)
        if exhibit["before"] and exhibit["after"]:
            changes.append(picture)
    if changes:
        sheet(changes).save(together, quality=85, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
