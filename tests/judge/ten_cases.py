"""Ten edits in PIE-Bench's exact schema, of flat pictures whose every measure can be worked out by hand.

A source is one grey, its edit one colour, so that outside of the mask all pixels differ by the same. KEPT counts the
pixels outside of mask and border, MSE is their share of the picture times the squared difference. SSIM of two flat
pictures under one mask has a closed form in the share of kept pixels in each Gaussian window; `ssim_by_hand` is that,
in numpy, and SSIM what it gave.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import correlate1d

SIDE = 512


class Flat(NamedTuple):
    """runs: of the mask; source: a grey of 0..255; edit: a colour; kept, ssim: by hand, None where nothing is kept."""

    kind: str
    folder: str
    runs: list[int]
    source: int
    edit: tuple[int, int, int]
    kept: int
    ssim: float | None
    words: str = ""


def rectangle(top: int, left: int, height: int, width: int) -> list[int]:
    return [number for row in range(top, top + height) for number in (row * SIDE + left, width)]


CASES = [
    Flat("0", "0_random_140", [], 128, (128, 128, 128), 510 * 510, 1.0),
    Flat("1", "1_change_object_80/1_artificial/1_animal", [0, 256 * SIDE], 128, (148, 148, 148), 255 * 510, 0.994521),
    Flat("2", "2_add_object_80/2_natural/2_human", rectangle(100, 200, 200, 200), 100, (110, 100, 90),
         510 * 510 - 200 * 200, 0.997062, "cat dog"),
    Flat("3", "3_delete_object_80/1_artificial/3_indoor", rectangle(1, 1, 510, 255), 30, (60, 60, 60), 510 * 255,
         0.89704),
    Flat("4", "4_change_attribute_content_40/2_natural/4_outdoor", [131172, 1], 200, (190, 200, 210), 510 * 510 - 1,
         0.999162),
    Flat("5", "5_change_attribute_pose_40/1_artificial/1_animal", [0, SIDE * SIDE], 10, (250, 0, 0), 0, None),
    Flat("6", "6_change_attribute_color_40/2_natural/1_animal", rectangle(0, 0, 512, 511), 50, (90, 90, 90), 0, None),
    Flat("7", "7_change_attribute_material_40/1_artificial/2_human", rectangle(256, 256, 255, 255), 0, (255, 255, 255),
         510 * 510 - 255 * 255, 0.241225),
    Flat("8", "8_change_background_80/2_natural/3_indoor", [262143, 100], 220, (10, 220, 220), 510 * 510, 0.696847),
    Flat("9", "9_change_style_80/1_artificial/4_outdoor", rectangle(1, 1, 510, 509), 255, (0, 0, 0), 510, 0.997071),
]  # fmt: skip


def mse_by_hand(case: Flat) -> float:
    fraction = case.kept / SIDE**2
    return fraction * sum(((case.source - one) / 255) ** 2 for one in case.edit) / 3


def ssim_by_hand(case: Flat) -> float:
    """With m, the Gaussian share of kept pixels around a pixel, a flat value a has the mean a m and the variance
    a^2 m (1 - m); two of them the covariance a b m (1 - m). Pixels nearer than 5 to a side are left out."""
    kept = np.ones(SIDE * SIDE)
    for start, length in zip(case.runs[::2], case.runs[1::2]):
        kept[start : start + length] = 0
    kept = kept.reshape(SIDE, SIDE)
    kept[[0, -1]] = kept[:, [0, -1]] = 0
    window = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    for axis in (0, 1):
        kept = correlate1d(kept, window / window.sum(), axis)
    m, found = kept[5:-5, 5:-5], []
    for one in case.edit:
        a, b, c1, c2 = case.source / 255, one / 255, 0.01**2, 0.03**2
        light = (2 * a * b * m**2 + c1) / ((a * a + b * b) * m**2 + c1)
        shape = (2 * a * b * m * (1 - m) + c2) / ((a * a + b * b) * m * (1 - m) + c2)
        found.append((light * shape).mean())
    return float(np.mean(found))


def identifier(number: int) -> str:
    return f"{CASES[number].kind}{number:011d}"


def write_set(folder: Path) -> Path:
    """The set as PIE-Bench is unpacked; returns the folder that holds mapping_file.json."""
    entries = {}
    for number, case in enumerate(CASES):
        name = identifier(number)
        place = folder / "annotation_images" / case.folder / f"{name}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIDE, SIDE), (case.source,) * 3).save(place, quality=100)
        entries[name] = {
            "image_path": f"{case.folder}/{name}.jpg",
            "original_prompt": "a [grey] wall (of stone)",
            "editing_prompt": "a [coloured] wall (of stone)",
            "editing_instruction": "Change the colour of the wall",
            "editing_type_id": case.kind,
            "blended_word": case.words,
            "mask": case.runs,
        }
    (folder / "mapping_file.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def write_edit(number: int, place: Path) -> Path:
    Image.new("RGB", (SIDE, SIDE), CASES[number].edit).save(place)
    return place
