"""The prompts for programs, and their client: a process that knows nothing of this project."""

import json
import subprocess
import sys

import pytest
from palimpsest.benchmarks.sketch.suite_taught import work
from palimpsest.tools.examples import EXAMPLES
from palimpsest.tools.places import ROOT
from PIL import Image

API = EXAMPLES / "api"
PICTURES = ROOT / "papercut" / "pictures"
BRIEF = {"checkpoint": "papercut.safetensors", "picture": PICTURES / "papercut_source.png", "steps": 2}
CANVAS = {"version": 1, "width": 256, "height": 256, "regions": [
    {"area": {"ellipse": [125, 130, 70, 66]}, "pivot": [125, 130], "move": [20, 0], "turn": 0, "scale": [1, 1]}
]}  # fmt: skip
ASKED = {
    "Edit by words": {"caption": "a red heart on a cream ground", "edits": "a blue heart on a cream ground"},
    "Change only that": {"what_it_shows": "a red heart", "what_it_becomes": "a blue heart"},
    "Remove": {"what_goes": "a red heart"},
    "Move it": {"caption": "a red heart", "canvas": json.dumps(CANVAS)},
    "Draw it": {"picture": PICTURES / "papercut_star_sketch.png", "edge_predictor": "papercut-edges.safetensors",
                "caption": "a purple star", "width": 128, "height": 128},
    "Train an edge predictor": {"pictures": 2, "width": 64, "height": 64, "learning": 10, "file": "by_a_program"},
    "Morph": {"picture2": PICTURES / "papercut_star.png", "frames": 3, "lora_steps": 1},
}  # fmt: skip


def test_there_is_a_prompt_for_each_wish_and_the_client_is_short():
    assert {path.stem for path in API.glob("*.json")} == set(ASKED)
    assert len((API / "run.py").read_text(encoding="utf-8").splitlines()) <= 40


def test_painting_costs_no_more_than_learning():
    prompt = json.loads((API / "Train an edge predictor.json").read_text(encoding="utf-8"))
    assert 1 < work(prompt) <= 2


@pytest.mark.parametrize("name", ASKED)
def test_the_client_runs_it_and_fetches_a_picture(host, host_client, tmp_path, name):
    sized = {} if name in ("Draw it", "Morph", "Train an edge predictor") else {"megapixels": 0.03}
    words = [f"{key}={value}" for key, value in {**BRIEF, **sized, **ASKED[name]}.items()]
    command = [sys.executable, API / "run.py", API / f"{name}.json", f"url={host_client.url}", f"to={tmp_path}"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    if name == "Train an edge predictor":
        assert list((host.base / "output" / "edge_predictors").glob("by_a_program_*"))
        return
    (made,) = tmp_path.iterdir()
    with Image.open(made) as picture:
        assert picture.width > 100 and getattr(picture, "n_frames", 1) == (3 if name == "Morph" else 1)


def test_the_client_says_why_a_run_failed(host_client, tmp_path):
    words = ["steps=2", "checkpoint=papercut.safetensors", "what_goes=a heart", f"url={host_client.url}"]
    prompt = json.loads((API / "Remove.json").read_text(encoding="utf-8"))
    prompt["2"]["inputs"]["image"] = "nothing.png"
    (tmp_path / "broken.json").write_text(json.dumps(prompt), encoding="utf-8")
    command = [sys.executable, API / "run.py", tmp_path / "broken.json", f"to={tmp_path}", *words]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode != 0
