"""DragBench (DragDiffusion, arXiv 2306.14435): drags of points, and where the picture may change.

`<category>/<sample>/original_image.png` with `meta_data.pkl`: a pickled dict of prompt, mask (H, W) and points (x, y),
alternately a handle and its target.
"""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...tools.steps import Problem
from .cases import Case, encoded_mask, require_pictures

FOLDER, META, PICTURE = "drag_bench_data", "meta_data.pkl", "original_image.png"
# A pickle calls what it names: these make arrays and numbers, and nothing else is called.
MAKERS = (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
ALLOWED = {(f"numpy.{core}.{module}", name) for core in ("core", "_core") for module, name in MAKERS} | {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class PlainUnpickler(pickle.Unpickler):
    """Dicts, lists, tuples, words, numbers and numpy's arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it would call {module}.{name}, which no points need")
        return super().find_class(module, name)


def place_of(folder: Path) -> Path:
    return folder / FOLDER if (folder / FOLDER).is_dir() else folder


def is_here(folder: Path) -> bool:
    return next(place_of(folder).glob(f"*/*/{META}"), None) is not None


def read(folder: Path) -> list[Case]:
    """All samples by category and name. Raises Problem where one is damaged or incomplete."""
    files = sorted(place_of(folder).glob(f"*/*/{META}"))
    require_pictures([file.with_name(PICTURE) for file in files], folder)
    return [_case(file) for file in files]


def _case(file: Path) -> Case:
    try:
        known = PlainUnpickler(io.BytesIO(file.read_bytes())).load()
        points = tuple((float(x), float(y)) for x, y in known["points"])
        mask = torch.from_numpy(np.array(known["mask"], dtype=np.float32)) > 0
        prompt = str(known["prompt"])
        if not points or len(points) % 2 or mask.ndim != 2:
            raise ValueError("its points are no pairs, or its mask is no picture")
    except Exception as error:  # of whatever kind: the file is anybody's
        raise Problem(f"{file} cannot be read ({error}): download DragBench again.") from None
    name = f"{file.parent.parent.name}/{file.parent.name}"
    drawing = canvas(mask, points)
    return Case(name, file.with_name(PICTURE), prompt, prompt, file.parent.parent.name, drag=drawing, points=points)


def canvas(mask: Tensor, points: tuple[tuple[float, float], ...]) -> str:
    """The drag as Flow Canvas keeps it: what may change is carried as far as the handles are on the mean."""
    height, width = mask.shape
    pairs = torch.tensor(points, dtype=torch.float64).reshape(-1, 2, 2)
    pivot, move = pairs[:, 0].mean(0), (pairs[:, 1] - pairs[:, 0]).mean(0)
    region = {
        "area": {"runs": alternating(encoded_mask(mask), mask.numel()), "size": [width, height]},
        "pivot": pivot.tolist(), "move": move.tolist(), "turn": 0, "scale": [1, 1], "still": False,
    }  # fmt: skip
    return json.dumps({"version": 1, "width": width, "height": height, "regions": [region]})


def alternating(runs: list[int], total: int) -> list[int]:
    """Starts and lengths -> lengths that alternate, the first of what is outside."""
    found, place = [], 0
    for start, length in zip(runs[::2], runs[1::2]):
        found += [start - place, length]
        place = start + length
    return [*found, total - place]
