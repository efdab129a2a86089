"""Motion guidance as the paper has it in longer runs, on one motion of each kind: what more evaluations bring.

As long as the runs that `motion.py` compares costs with, but with four times the paper's weight: its 500 levels of 10
recursions pull sixty times as often, and so few pulls bring things nearer to their goals if they are stronger. The fast
mode with the flow network has the same motions.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..results import Row
from .cases import COUNTS
from .cost import FAITHFUL_STEPS, RECURSION
from .paired_runs import Faithful, pair_rows

TECHNIQUE = "Motion Guidance, faithful at more length"
TECHNIQUES = (TECHNIQUE,)
LENGTH = Faithful(FAITHFUL_STEPS, RECURSION, strength=4.0)


def rows(context) -> Iterable[Row]:
    yield from pair_rows(context, TECHNIQUE, dict.fromkeys(COUNTS, 1), LENGTH)
