"""Rows of prepared conditions: what belongs to some pictures of a batch."""

from __future__ import annotations

from typing import Any

import comfy.conds
from torch import Tensor


def pick_rows(model_conds: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    """Prepared conditions (comfy.conds) of some rows of a batch; what holds for all rows alike is left as it is."""

    def pick(one: Any) -> Any:
        value = one.cond
        if isinstance(one, comfy.conds.CONDConstant) or not isinstance(value, Tensor) or value.shape[0] == 1:
            return one
        return one._copy_with(value[rows.to(value.device) % value.shape[0]])

    return {key: pick(one) for key, one in model_conds.items()}
