"""Exact replay of Trajectory Anchor: edits with it and without it, on the same noise and the same inversion.

Prompt-to-Prompt with its source anchored, and the masked decode of DiffEdit with a mask that an artist would paint.
Structure is SSIM inside the true mask to the scene as it is drawn with the edit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..context import every_core
from ..prompt_to_prompt.cases import word_edits
from ..prompt_to_prompt.fixtures import (
    CFG,
    Case,
    Fixtures,
    background,
    by_prompt_to_prompt,
    cases,
    decoded,
    edits_of,
    encode,
    known,
    load_fixtures,
    painted,
    sampled,
    succeeded,
)
from ..results import Row, error_of_mean, mean

TECHNIQUE = "Exact replay"
TECHNIQUES = (TECHNIQUE,)
TEST_SPLIT = False
EDITS = 100
MODES = {"plain": False, "exact replay": True}
MEASURES = {
    "edit success": "%",
    "structure inside the true mask, SSIM": "",
    "background outside the true mask": "dB",
}


def masked_decode(fixtures: Fixtures, case: Case, exact: bool) -> Tensor:
    """The picture (256, 256, 3) of the new caption, anchored outside a painted mask."""
    from ...nodes.inversion_anchor import TrajectoryAnchor

    (model,) = TrajectoryAnchor.execute(
        fixtures.model, case.trajectory, painted(case.edit)[None], exact_replay=exact
    ).args
    edited, empty = encode(fixtures, case.edit.edited), encode(fixtures, "")
    return decoded(fixtures, sampled(fixtures, model, case, edited, empty, 1))[0]


def prompt_to_prompt_edit(fixtures: Fixtures, case: Case, exact: bool) -> Tensor:
    """The picture (256, 256, 3) of Prompt-to-Prompt, its source anchored."""
    return edits_of(fixtures, by_prompt_to_prompt(fixtures, case, exact=exact))[0]


EDITORS = {"Prompt-to-Prompt": prompt_to_prompt_edit, "DiffEdit's decode": masked_decode}


def judged(fixtures: Fixtures, case: Case, made: Tensor) -> tuple[float, float, float | None]:
    """The values of `MEASURES`."""
    from ...inversion.quality import ssim

    wanted = case.edit.after.render().movedim(0, -1)
    structure = float(ssim(made[None], wanted[None], mask=case.edit.mask[None].float()))
    return 100.0 * succeeded(fixtures, made, case.edit), structure, background(made, case)


def measured(count: int, split: str = "validation") -> Iterator[tuple[str, str, tuple]]:
    """(editor, mode, values) of every edit."""
    with torch.inference_mode(), every_core():
        fixtures = load_fixtures()
        for case in cases(fixtures, word_edits(count, split)):
            for editor, make in EDITORS.items():
                for mode, exact in MODES.items():
                    yield editor, mode, judged(fixtures, case, make(fixtures, case, exact))


def rows(context) -> Iterable[Row]:
    found: dict[tuple[str, str], list[tuple]] = {(editor, mode): [] for editor in EDITORS for mode in MODES}
    for editor, mode, values in measured(EDITS) if known() else ():
        found[editor, mode].append(values)
    for place, (measure, unit) in enumerate(MEASURES.items()):
        for editor in EDITORS:
            columns = [[one[place] for one in found[editor, mode]] for mode in MODES]
            for mode, column in zip(MODES, columns):
                label = f"{measure}, {EDITS} validation edits, CFG {CFG:g}"
                yield context.row(TECHNIQUE, label, f"{editor}, {mode}", mean(column), unit)
            gains = [b - a for a, b in zip(*columns) if a is not None]
            yield context.row(TECHNIQUE, f"{measure}: gain by exact replay", editor, mean(gains), unit)
            yield context.row(TECHNIQUE, f"{measure}: standard error of the gain", editor, error_of_mean(gains), unit)
