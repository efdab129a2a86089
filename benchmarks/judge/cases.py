"""One case of a set of edits, whatever layout it came in, and the sentences for sets that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ...tools.steps import Problem


@dataclass(frozen=True)
class Case:
    """An edit to be made. source, target: prompts, the first "" where a set has none. kind: what is changed.

    runs: the mask as start, length, start, length, ... in row order, None where a set has none; blend: the words of
    source and target that the published edits blend by, "" where there is none; drag: of a set of drags what Flow
    Canvas keeps; points: its handles and targets in turn, (x, y) in pixels.
    """

    id: str
    picture: Path
    source: str
    target: str
    kind: str = ""
    runs: tuple[int, ...] | None = None
    blend: tuple[str, str] = ("", "")
    drag: str = ""
    points: tuple[tuple[float, float], ...] = ()

    def mask(self, height: int, width: int) -> Tensor | None:
        """(H, W) of 0 and 1, 1 = to be edited."""
        return None if self.runs is None else decoded_mask(self.runs, height, width)


def decoded_mask(runs: Sequence[int], height: int, width: int) -> Tensor:
    """(H, W) of 0 and 1. As the official reader has it, the outermost pixels on all four sides count as edited."""
    flat = torch.zeros(height * width)
    for start, length in zip(runs[::2], runs[1::2]):
        flat[start : start + length] = 1
    mask = flat.reshape(height, width)
    mask[[0, -1]] = 1
    mask[:, [0, -1]] = 1
    return mask


def encoded_mask(mask: Tensor) -> list[int]:
    """(H, W) bool -> the runs of what is true: the inverse of `decoded_mask`, but for the border."""
    flat = torch.cat([torch.zeros(1), mask.flatten().float(), torch.zeros(1)])
    steps = flat.diff()
    starts, ends = (steps > 0).nonzero().flatten(), (steps < 0).nonzero().flatten()
    return torch.stack([starts, ends - starts], 1).flatten().tolist()


def read_json(path: Path, what: str) -> Any:
    """A file's content. Raises Problem, which says what the file is."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise Problem(f"There is no {path}, which is {what}: give the folder that holds it as SET.") from None
    except ValueError as error:
        raise Problem(f"{path} is damaged ({error}): download {what} again.") from None


def require_pictures(paths: Sequence[Path], where: Path) -> None:
    """Raises Problem where pictures of a set are missing."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise Problem(
            f"{len(missing)} of the {len(paths)} pictures of the set in {where} are missing, the first is "
            f"{missing[0]}: unpack them again."
        )


def read_picture(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """(H, W, 3) in 0..1. size: (height, width) that the picture is brought to. Raises Problem where it is damaged."""
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise Problem(f"The picture {path} cannot be read ({error}): download it again.") from None
    if size and picture.size != size[::-1]:
        picture = picture.resize(size[::-1], Image.BICUBIC)
    return torch.from_numpy(np.array(picture)).float() / 255
