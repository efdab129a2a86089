"""Load Edge Predictor's newest file: what a template loads that cannot know its name."""

import os
from pathlib import Path

import pytest
from palimpsest.guidance.sketch.files import write_predictor
from palimpsest.host import folders
from palimpsest.nodes.sketch_files import NEWEST, LoadEdgePredictor
from palimpsest.tools.examples import example
from palimpsest.tools.workflow import read

from ..tiny_models import tiny_model
from .fixtures import tiny_predictor


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """put(name, model, age in s): a predictor that the node finds."""

    def put(name: str, model, age: float, seed: int) -> None:
        write_predictor(tiny_predictor(model, seed=seed), tmp_path / name)
        now = (tmp_path / name).stat().st_mtime
        os.utime(tmp_path / name, (now - age, now - age))

    monkeypatch.setattr(folders, "file_names", lambda kind: sorted(path.name for path in tmp_path.glob("*")))
    monkeypatch.setattr(folders, "existing_file", lambda kind, name: tmp_path / name)
    return put


def test_the_newest_that_fits_the_model_is_loaded(shelf):
    sd1, sdxl = tiny_model("sd1"), tiny_model("sdxl")
    for seed, (name, model, age) in enumerate((("old", sd1, 50), ("new", sd1, 20), ("other", sdxl, 1))):
        shelf(f"{name}.safetensors", model, age, seed)
    weights = lambda predictor: next(iter(predictor.network.parameters()))
    found = LoadEdgePredictor.execute(NEWEST, sd1).args[0]
    assert (weights(found) == weights(LoadEdgePredictor.execute("new.safetensors", sd1).args[0])).all()
    assert LoadEdgePredictor.execute(NEWEST, sdxl).args[0].spec.family == "sdxl"
    assert LoadEdgePredictor.execute(NEWEST).args[0].spec.family == "sdxl"
    assert LoadEdgePredictor.validate_inputs(NEWEST) is True
    before = LoadEdgePredictor.fingerprint_inputs(NEWEST)
    shelf("newer.safetensors", sd1, 0, 7)
    assert LoadEdgePredictor.fingerprint_inputs(NEWEST) != before


def test_without_any_the_template_that_makes_one_is_named(shelf):
    assert "Train an edge predictor" in LoadEdgePredictor.validate_inputs(NEWEST)
    shelf("other.safetensors", tiny_model("sdxl"), 0, 0)
    with pytest.raises(ValueError, match="Train an edge predictor"):
        LoadEdgePredictor.execute(NEWEST, tiny_model("sd1"))


def test_the_template_names_no_file_that_nobody_has():
    """One that is not there is a red node as soon as the template is opened."""
    for path in (example("Draw it"), Path(example("Draw it")).parent / "api" / "Draw it.json"):
        assert "my_edges" not in path.read_text(encoding="utf-8")
    (node,) = (one for one in read(example("Draw it"))["nodes"] if one["type"] == "PalimpsestLoadEdgePredictor")
    assert node["widgets_values"] == [NEWEST]
