"""Which entries of a positive prompt are those of a Prompt-to-Prompt, and which of them a model call asks for.

Other prompts may stand beside it (Conditioning Combine, areas, masks, timestep ranges). They act as on the plain model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ...guidance.prompt_to_prompt.plan import EditPlan
from ...guidance.prompt_to_prompt.token_alignment import Prompt
from ..conds import own_bounds
from .tokens import LENGTHS

# In an entry of CONDITIONING: the texts of its rows.
TEXTS = "palimpsest_prompt_to_prompt"
# The number of a conditioning among those asked for, and the host's id of an entry of it.
Asked = tuple[int, object]


def marked(positive: list, plan: EditPlan) -> list:
    """CONDITIONING that says which texts its rows are."""
    return [[embedding, {**facts, TEXTS: plan.texts}] for embedding, facts in positive]


def own_entries(positive: Sequence[dict], plan: EditPlan) -> list[dict]:
    """The plan's entries of the guider's positive prompt; where none is marked, those with a row for each text."""
    found = [entry for entry in positive if entry.get(TEXTS) == plan.texts]
    return found or [
        entry
        for entry in positive
        if TEXTS not in entry
        and isinstance(entry.get("cross_attn"), Tensor)
        and entry["cross_attn"].shape[0] == plan.rows
    ]


def require_own(positive: Sequence[dict], plan: EditPlan) -> None:
    """Raises ValueError where the positive prompt has no entry of the plan's, or one with more than its texts."""
    entries = own_entries(positive, plan)
    if not entries:
        raise ValueError(
            "The positive prompt is not the one of Prompt-to-Prompt, which has a row for each text: connect that "
            "node's CONDITIONING to the sampler or guider."
        )
    for entry in entries:
        rows = zip(entry["cross_attn"], plan.prompts * (len(entry["cross_attn"]) // plan.rows))
        lengths = entry.get(LENGTHS)
        if not (_repeated(rows) if lengths is None else _fits(lengths, entry["cross_attn"].shape[1])):
            raise ValueError(
                "The positive prompt holds more than the texts of Prompt-to-Prompt, whose words then cannot be "
                "separated: join another prompt to it with Conditioning Combine, not with Conditioning Concat."
            )


def _fits(lengths: Sequence[int], count: int) -> bool:
    """Whether rows of these lengths, filled up to one, have `count` tokens; up to a multiple of 32 in some families."""
    return max(lengths) <= count < max(lengths) + 32


def _repeated(rows: Iterable[tuple[Tensor, Prompt]]) -> bool:
    """Whether the tokens (K, D) of each row are those of its prompt, again and again."""
    for tokens, prompt in rows:
        count, length = tokens.shape[0], len(prompt)
        if count % length or not torch.equal(tokens, tokens[:length].repeat(count // length, 1)):
            return False
    return True


def asked_entries(guider, conds: Sequence[list | None], plan: EditPlan) -> dict[Asked, dict]:
    """The plan's entries among the conditionings of one model call, which may be copies of the guider's.

    The host makes a negative entry for every area out of the positive one, with the id of that; its embedding
    is another one.
    """
    known = getattr(guider, "conds", {})
    own = {entry.get("uuid") for entry in own_entries(known.get("positive") or [], plan)}
    others = {id(_embedding(entry)) for name, cond in known.items() if name != "positive" for entry in cond or ()}
    return {
        (number, entry.get("uuid")): entry
        for number, cond in enumerate(conds)
        for entry in cond or ()
        if entry.get("uuid") in own and id(_embedding(entry)) not in others
    }


def is_due(entry: dict, sigma: float) -> bool:
    """Whether the host evaluates the entry at this noise level, whatever else is asked for."""
    upper, lower = own_bounds(entry)
    return lower <= sigma <= upper and "default" not in entry


def _embedding(entry: dict):
    return entry.get("model_conds", {}).get("c_crossattn")
