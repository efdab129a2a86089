"""Motion guidance as the paper has it, on all of the test split's motions, beside the fast mode with the flow network.

The paper's 500 levels of 10 recursions are days of a CPU for a hundred motions. A run here has 15 evaluations of the
model; 5 levels of 3 bring things nearer to their goals than 16 levels of 1 or 8 of 2. `suite_long_runs.py` has longer
runs on a motion of each kind; `motion.py` has what both modes cost, and the flow error's target.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..results import Row
from .cases import COUNTS
from .paired_runs import Faithful, pair_rows

TECHNIQUE = "Motion Guidance, faithful in short"
TECHNIQUES = (TECHNIQUE,)
LENGTH = Faithful(5, 3)


def rows(context) -> Iterable[Row]:
    yield from pair_rows(context, TECHNIQUE, COUNTS, LENGTH)
