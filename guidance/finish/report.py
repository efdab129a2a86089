"""What was found and undone, in plain words."""

from __future__ import annotations

from .colour import Cast
from .finish import Finished

LEAST_SHIFT, LEAST_SCALE, LEAST_TURN, LEAST_TONE = 0.05, 0.0005, 0.02, 0.002
"""Pixels, fractions, degrees and fractions of full scale that are worth a word."""


def report(done: Finished) -> str:
    """One line: "moved by 3.2 px, enlarged 1.1 %, warmer by 2.0 %; 6.4 % of the picture changed; outside ..."."""
    found = [*_moved(done), *_toned(done.cast)]
    undone = ", ".join(found) if found else "neither moved nor recoloured"
    return (
        f"The edited picture was {undone}; {100 * done.fraction:.1f} % of the picture changed; outside the mask "
        f"{done.outside} pixels changed."
    )


def _moved(done: Finished) -> list[str]:
    move = done.alignment.move()
    said = []
    shift = (move.right**2 + move.down**2) ** 0.5
    if shift >= LEAST_SHIFT:
        said.append(f"moved by {shift:.1f} px")
    if abs(move.wider - move.higher) < 2 * LEAST_SCALE:
        size = (move.wider * move.higher) ** 0.5 - 1
        said += [_scaled(size, "enlarged", "reduced")] if abs(size) >= LEAST_SCALE else []
    else:
        said += [
            f"{_scaled(size - 1, 'stretched', 'squeezed')} {side}"
            for size, side in ((move.wider, "in width"), (move.higher, "in height"))
            if abs(size - 1) >= LEAST_SCALE
        ]
    if abs(move.turned) >= LEAST_TURN:
        said.append(f"turned by {abs(move.turned):.2f} degrees {'right' if move.turned > 0 else 'left'}")
    return said


def _scaled(size: float, more: str, less: str) -> str:
    return f"{more if size > 0 else less} {100 * abs(size):.1f} %"


def _toned(cast: Cast) -> list[str]:
    said = []
    for value, more, less in ((cast.brighter, "brighter", "darker"), (cast.warmer, "warmer", "cooler")):
        if abs(value) >= LEAST_TONE:
            said.append(f"{more if value > 0 else less} by {100 * abs(value):.1f} %")
    return said
