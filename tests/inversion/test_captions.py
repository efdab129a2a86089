"""The text a trajectory was made with: found in the graph, kept in the file, compared, and never made up."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from palimpsest.host import compatibility, prompts
from palimpsest.inversion.trajectory_file import read_trajectory, write_trajectory
from palimpsest.nodes.inversion import InversionCheck
from palimpsest.nodes.inversion_null_text import NullTextOptimize

from ..tiny_models import tiny_cond, tiny_vae
from .test_nodes import TinyClip, calm, inverted
from .test_trajectory import make

ENCODE = {"class_type": "CLIPTextEncode", "inputs": {"text": "a red kite", "clip": ["9", 1]}}
OTHER = {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["9", 1]}}


def behind(node: dict, slot: int = 0) -> object:
    """What is read behind an input that `node` is connected to; it may use the encoders "1" and "2"."""
    ours = {"class_type": "PalimpsestDDIMInvert", "inputs": {"positive": ["3", slot]}}
    return prompts.text_behind({"1": ENCODE, "2": OTHER, "3": node, "4": ours}, "4", "positive")


def test_a_plain_encoder_says_it_all():
    assert behind(ENCODE) == prompts.Text("a red kite", whole=True)
    assert behind({"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["9", 1]}}) == prompts.Text(
        "", whole=True
    )


@pytest.mark.parametrize(
    "inputs",
    [
        {"conditioning": ["1", 0], "control_net": ["8", 0], "strength": 1.0},
        {"positive": ["1", 0], "negative": ["2", 0], "control_net": ["8", 0]},
        {"conditioning": ["1", 0], "width": 64, "height": 64, "x": 0, "y": 0, "strength": 1.0},
        {"text": "a red kite", "clip": ["9", 1], "width": 1024, "height": 1024},
        {"text_g": "a red kite", "text_l": "a red kite", "clip": ["9", 1], "width": 1024},
        {"clip_l": "a red kite", "t5xxl": "a red kite", "clip": ["9", 1], "guidance": 3.5},
    ],
)
def test_more_than_the_text_is_known_to_be_more(inputs):
    assert behind({"class_type": "Any", "inputs": inputs}) == prompts.Text("a red kite", whole=False)


@pytest.mark.parametrize(
    "inputs",
    [
        {"conditioning_1": ["1", 0], "conditioning_2": ["2", 0]},
        {"conditioning_to": ["1", 0], "conditioning_from": ["2", 0], "conditioning_to_strength": 0.5},
        {"text_g": "a red kite", "text_l": "kite", "clip": ["9", 1]},
        {"clip_l": "kite", "t5xxl": "a red kite", "clip": ["9", 1]},
        {"text": ["7", 0], "clip": ["9", 1]},
        {"picture": ["7", 0]},
    ],
)
def test_what_is_not_one_text_is_unknown(inputs):
    assert behind({"class_type": "Any", "inputs": inputs}) is None


def test_the_negative_side_is_followed():
    both = {"class_type": "ControlNetApplyAdvanced", "inputs": {"positive": ["1", 0], "negative": ["2", 0]}}
    assert behind(both, slot=1).text == "blurry"


@pytest.fixture(scope="module")
def models():
    return {"sd1": calm("sd1")}


def test_an_open_prompt_is_known_to_be_empty(models):
    made = inverted(models, positive=None, clip=TinyClip(), refinement=0)[0]
    assert made.prompt == "" and made.prompt_is_all


def test_what_the_graph_does_not_say_is_unknown(models):
    made = inverted(models, refinement=0)[0]
    assert made.prompt is None and not made.prompt_is_all


@pytest.mark.parametrize(("prompt", "whole"), [(None, False), ("a kite", False)])
def test_the_check_asks_for_a_prompt_that_it_cannot_make_again(models, prompt, whole):
    trajectory = replace(inverted(models, refinement=0)[0], prompt=prompt, prompt_is_all=whole)
    with pytest.raises(ValueError, match="connect the positive prompt"):
        InversionCheck.execute(models["sd1"], tiny_vae(), trajectory, clip=TinyClip())


def test_the_check_encodes_a_prompt_that_was_all(models):
    clip = TinyClip()
    trajectory = replace(inverted(models, refinement=0)[0], prompt="a kite", prompt_is_all=True)
    InversionCheck.execute(models["sd1"], tiny_vae(), trajectory, clip=clip)
    assert clip.texts == ["a kite"]


@pytest.mark.parametrize(
    ("made", "given", "differ"),
    [
        ("a red kite", "a red kite", False),
        ("a red kite", " a  red\nkite ", False),
        ("a red kite", "a blue kite", True),
        ("", "a blue kite", True),
        (None, "a blue kite", False),
        ("a red kite", None, False),
    ],
)
def test_another_caption_is_named(caplog, made, given, differ):
    compatibility.warn_of_another_caption(make(prompt=made), given, "The positive prompt")
    assert ("a blue kite" in caplog.text and "inverted with" in caplog.text) == differ


def test_null_text_compares_the_captions(models, caplog):
    trajectory = replace(inverted(models, refinement=0)[0], prompt="a red kite")
    graph = {"1": OTHER, "2": {"class_type": "x", "inputs": {"positive": ["1", 0]}}}

    class Node(NullTextOptimize):
        hidden = SimpleNamespace(prompt=graph, unique_id="2", extra_pnginfo=None)

    with torch.inference_mode():
        Node.execute(models["sd1"], trajectory, tiny_cond("sd1"), cfg=3.0, inner_steps=1)
    assert "blurry" in caplog.text


def test_the_check_compares_the_captions(models, caplog):
    """Or else it would advise more refinement where another prompt is the cause."""
    trajectory = replace(inverted(models, refinement=0)[0], prompt="a red kite")
    graph = {"1": OTHER, "2": {"class_type": "x", "inputs": {"positive": ["1", 0]}}}

    class Node(InversionCheck):
        hidden = SimpleNamespace(prompt=graph, unique_id="2", extra_pnginfo=None)

    with torch.inference_mode():
        Node.execute(models["sd1"], tiny_vae(), trajectory, positive=tiny_cond("sd1"))
    assert "blurry" in caplog.text


@pytest.mark.parametrize(("prompt", "whole"), [(None, False), ("", True), ("a kite", False)])
def test_a_file_keeps_what_is_known(tmp_path, prompt, whole):
    write_trajectory(make(prompt=prompt, prompt_is_all=whole), tmp_path / "one.safetensors")
    read = read_trajectory(tmp_path / "one.safetensors")
    assert (read.prompt, read.prompt_is_all) == (prompt, whole)
