"""Counts a host's model calls and watches its memory: POST /palimpsest_meter begins anew, GET reads.

A pack for the host that the judge starts; it adds no node. calls: of the model, rows: pictures times prompts in them.
"""

from __future__ import annotations

from pathlib import Path

import comfy.model_base
import torch
from aiohttp import web
from server import PromptServer

COUNTED = {"calls": 0, "rows": 0}
ORIGINAL = comfy.model_base.BaseModel.apply_model
ROUTES = PromptServer.instance.routes
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
NODE_CLASS_MAPPINGS: dict = {}


def apply_model(self, x, *arguments, **named):
    COUNTED["calls"] += 1
    COUNTED["rows"] += len(x)
    return ORIGINAL(self, x, *arguments, **named)


comfy.model_base.BaseModel.apply_model = apply_model


def begin_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif RESET.exists():
        RESET.write_text("5")  # the largest size of the process begins anew


def peak_memory() -> int | None:
    """The most bytes since the beginning: of the GPU's allocator, or of the process; None where neither is known."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if not STATUS.exists():
        return None
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


@ROUTES.post("/palimpsest_meter")
async def begin(_):
    COUNTED.update(calls=0, rows=0)
    begin_memory()
    return web.json_response({})


@ROUTES.get("/palimpsest_meter")
async def read(_):
    return web.json_response({**COUNTED, "peak": peak_memory()})
