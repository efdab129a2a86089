"""DragBench's samples: their points are read from pickles that may make arrays and numbers, and call nothing else."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from palimpsest.benchmarks.judge import dragbench
from palimpsest.guidance.flow.canvas import canvas_flow, parse_canvas
from palimpsest.tools.steps import Problem
from PIL import Image

HEIGHT, WIDTH = 48, 64
POINTS = [(20, 16), (30, 18), [24.0, 20.0], [34.0, 22.0]]


def square() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[10:26, 12:32] = 1
    return mask


def write_sample(folder: Path, meta: object = None, category: str = "animals", protocol: int = 4) -> Path:
    """One sample as DragBench is unpacked; returns the set's folder."""
    place = folder / "drag_bench_data" / category / "cat_0"
    place.mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT), "grey").save(place / "original_image.png")
    known = {"prompt": "a photo of a cat", "mask": square(), "points": POINTS} if meta is None else meta
    (place / "meta_data.pkl").write_bytes(pickle.dumps(known, protocol))
    return folder


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_sample_is_read_in_every_protocol(tmp_path, protocol):
    assert dragbench.is_here(write_sample(tmp_path, protocol=protocol))
    (case,) = dragbench.read(tmp_path)
    assert (case.id, case.kind, case.source) == ("animals/cat_0", "animals", "a photo of a cat")
    assert case.points == ((20, 16), (30, 18), (24, 20), (34, 22)) and case.mask(HEIGHT, WIDTH) is None


def test_numbers_of_numpy_are_read_too(tmp_path):
    points = [tuple(np.array(pair)) for pair in POINTS]
    write_sample(tmp_path, {"prompt": np.str_("a cat"), "mask": square().astype(bool), "points": points})
    assert dragbench.read(tmp_path)[0].points[0] == (20, 16)


def test_the_drag_carries_what_may_change_as_far_as_the_handles_on_the_mean(tmp_path):
    (case,) = dragbench.read(write_sample(tmp_path))
    flow, _, areas = canvas_flow(parse_canvas(case.drag), HEIGHT, WIDTH)
    assert torch.equal(areas[0] > 0, torch.from_numpy(square()) > 0)
    inside = flow[0][torch.from_numpy(square()) > 0]
    assert torch.allclose(inside, torch.tensor([10.0, 2.0]).expand_as(inside), atol=1e-4)
    assert float(flow.abs().amax(-1)[0][torch.from_numpy(square()) == 0].max()) == 0


@pytest.mark.parametrize("full", [False, True])
def test_masks_of_all_and_of_the_first_pixel(full):
    mask = torch.full((4, 6), full)
    mask[0, 0] = True
    runs = json.loads(dragbench.canvas(mask, ((0.0, 0.0), (1.0, 1.0))))["regions"][0]["area"]["runs"]
    assert runs == ([0, 24, 0] if full else [0, 1, 23])


class Calls:
    """What a malicious pickle does."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "call", [(os.system, ("touch {}",)), (eval, ("open('{}', 'w')",)), (Path, ("{}",)), (np.load, ("{}",))]
)
def test_a_pickle_calls_nothing(tmp_path, call):
    function, (text,) = call
    trace = tmp_path / "trace"
    write_sample(tmp_path, {"prompt": Calls(function, (text.format(trace),)), "mask": square(), "points": POINTS})
    with pytest.raises(Problem, match=r"meta_data\.pkl cannot be read \(it would call .*, which no points need\)"):
        dragbench.read(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "meta", [[], {"prompt": "a"}, {"prompt": "a", "mask": square(), "points": POINTS[:3]},
             {"prompt": "a", "mask": square()[0], "points": POINTS}]
)  # fmt: skip
def test_what_is_damaged_is_named(tmp_path, meta):
    with pytest.raises(Problem, match=r"meta_data\.pkl cannot be read"):
        dragbench.read(write_sample(tmp_path, meta))


def test_a_missing_picture_is_a_sentence(tmp_path):
    (write_sample(tmp_path) / "drag_bench_data" / "animals" / "cat_0" / "original_image.png").unlink()
    with pytest.raises(Problem, match=r"1 of the 1 pictures .*original_image\.png"):
        dragbench.read(tmp_path)
