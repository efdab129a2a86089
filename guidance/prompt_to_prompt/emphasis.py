"""Emphasis as artists write it, "a (red:1.3) heart", for text encoders that read it as nothing but text."""

from __future__ import annotations

import re

WEIGHT = r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$"


def take_emphasis(text: str, weight: float = 1.0) -> tuple[str, list[float]]:
    """The text without its weights, and the weight of each of its characters.

    weight: of what has none of its own. Only "(words:number)" is emphasis, and of nested weights the inner one counts:
    brackets without a number are text, as these encoders were trained on. "\\(" is a bracket that opens no weight.
    """
    plain, weights = "", list[float]()
    place = 0
    while place < len(text):
        end = _closing(text, place) if text[place] == "(" else None
        found = re.search(WEIGHT, text[place + 1 : end]) if end else None
        if end and found:
            letters, inner = take_emphasis(text[place + 1 :][: found.start()], float(found[1]))
            place = end + 1
        else:
            place += _is_escaped(text, place)
            letters, inner = text[place], [weight]
            place += 1
        plain, weights = plain + letters, weights + inner
    return plain, weights


def _is_escaped(text: str, place: int) -> bool:
    return text[place] == "\\" and text[place + 1 : place + 2] in ("(", ")")


def _closing(text: str, opening: int) -> int | None:
    """The place of the bracket that closes the one at `opening`; None where there is none."""
    depth, place = 0, opening
    while place < len(text):
        if _is_escaped(text, place):
            place += 1
        elif text[place] in "()":
            depth += 1 if text[place] == "(" else -1
            if depth == 0:
                return place
        place += 1
    return None
