"""Rows of masks and of edits, alike in both suites of DiffEdit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from ..results import Row
from .batch_edits import Judged
from .methods import Scores


def mask_rows(context, technique: str, label: str, mode: str, scores: Scores) -> Iterator[Row]:
    """label: ", ..." what these masks are of."""
    yield context.row(technique, f"IoU{label}", mode, float(scores.iou.mean()), "")
    yield context.row(technique, f"recall{label}", mode, float(scores.recall.mean()), "")


def mask_rows_by(context, technique: str, mode: str, scores: Scores, chosen: Mapping[str, Tensor]) -> Iterator[Row]:
    """chosen: (B,) bool by name."""
    for name, rows in chosen.items():
        yield from mask_rows(context, technique, f", {name}", mode, Scores(*(values[rows] for values in scores)))


def edit_rows(context, technique: str, label: str, mode: str, found: Judged) -> Iterator[Row]:
    """label: ", ..." what these edits are."""
    values = {name: float(one.mean()) for name, one in found._asdict().items()}
    yield context.row(technique, f"edits that the classifier confirms{label}", mode, values["right"], "")
    yield context.row(technique, f"edits with the whole caption right{label}", mode, values["whole"], "")
    kept = f"background PSNR outside the true mask, at most 60{label}"
    yield context.row(technique, kept, mode, values["kept"], "dB")
