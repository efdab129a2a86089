"""Nodes that work on pictures, masks and flows without a network can be interrupted at any of their operations."""

import json
from functools import cache

import comfy.model_management as management
import pytest
import torch
from palimpsest.host import folders
from palimpsest.nodes import _arrows, collect_nodes
from palimpsest.nodes._checked import NETWORKS

from .test_junk_inputs import EVERY, executed, good, socket_of, values

folders.register()
NODES = {node.GET_SCHEMA().node_id.removeprefix("Palimpsest"): node for node in collect_nodes()}
NAMES = (
    "FlowFromTransform",
    "FlowFromPoints",
    "FlowCompose",
    "FlowPreview",
    "FlowWarp",
    "FlowCanvas",
    "SketchPrepare",
    "EditReport",
    "CropToMask",
    "PixelTrueFinish",
)
TRIANGLE = {"area": {"polygon": [[20, 20], [40, 20], [30, 40]]}, "move": [6, 2]}
CANVAS = json.dumps({"version": 1, "width": 64, "height": 64, "regions": [TRIANGLE]})
# Flow Compose has the fewest operations; on 24 megapixels each takes a fraction of a second.
LEAST = 15


@cache
def inputs(name):
    one = next(one for node, one in EVERY if node == name)
    found = values(name, one, good()[socket_of(one)])
    if name == "FlowFromPoints":
        found["points"] = '[{"x": 30, "y": 30}, {"x": 34, "y": 31}]'
    if name == "FlowCanvas":
        found["canvas"] = CANVAS
    if name == "SketchPrepare":
        found["image"] = torch.ones(1, 64, 64, 3)
        found["image"][:, 30:33, 8:56] = 0.1
    return found


def test_these_nodes_have_no_network():
    assert not [
        n for n in NAMES if NETWORKS & {one.io_type for one in NODES[n].GET_SCHEMA().inputs if not one.optional}
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_node_asks_often(name, monkeypatch):
    asked = []
    monkeypatch.setattr(management, "throw_exception_if_processing_interrupted", lambda: asked.append(1))
    executed(NODES[name], **inputs(name))
    assert len(asked) >= LEAST


@pytest.mark.parametrize("name", NAMES)
def test_an_interruption_takes_hold(name):
    management.interrupt_current_processing(True)
    try:
        with pytest.raises(management.InterruptProcessingException):
            executed(NODES[name], **inputs(name))
    finally:
        management.interrupt_current_processing(False)


def test_flow_preview_asks_between_arrows(monkeypatch):
    asked, at_arrows, draw = [], [], _arrows._arrow
    monkeypatch.setattr(management, "throw_exception_if_processing_interrupted", lambda: asked.append(1))
    monkeypatch.setattr(_arrows, "_arrow", lambda *given: (at_arrows.append(len(asked)), draw(*given)))
    executed(NODES["FlowPreview"], flow=torch.ones(1, 64, 64, 2), spacing=8)
    assert len(at_arrows) == 64 == len(set(at_arrows))
