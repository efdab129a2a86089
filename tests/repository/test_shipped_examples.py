"""Every example as it ships, on the models and the picture that people have: real host, real loaders, narrow networks.

See tests/narrow_models.py for the networks. Sizes and steps are cut, since what is asked here is whether it runs.
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from palimpsest.tools import own_model
from palimpsest.tools.client import Client
from palimpsest.tools.demo import show
from palimpsest.tools.examples import example, examples
from palimpsest.tools.own_model import with_checkpoint
from palimpsest.tools.places import HOST, Installation
from palimpsest.tools.serve import keep_demo
from palimpsest.tools.workflow import read, to_prompt

from ..browser import browse, needs_browser
from ..narrow_models import FILES, FLOW, write_models
from .test_templates import models_of

each_example = pytest.mark.parametrize("path", examples(), ids=lambda path: path.stem)
BRIEF = {
    "ImageScaleToTotalPixels": {"megapixels": 1 / 64}, "EmptyLatentImage": {"width": 128, "height": 128},
    "PalimpsestKeyPictures": {"width": 128, "height": 128}, "PalimpsestSketchPrepare": {"width": 128, "height": 128},
    "ImageCrop": {"width": 128, "height": 128, "x": 0, "y": 0}, "SolidMask": {"width": 64, "height": 128},
    "BasicScheduler": {"steps": 3}, "KSampler": {"steps": 2}, "PalimpsestLoRAFit": {"steps": 2},
    "PalimpsestEdgePredictorTrain": {"steps": 10, "batch_size": 2}, "PalimpsestPromptList": {"count": 2},
    "PalimpsestMorphSchedule": {"frames": 4}, "PalimpsestReschedule": {"frames": 4},
    "PalimpsestNullTextOptimize": {"iterations": 2}, "PalimpsestCropToMask": {"megapixels": 1 / 64},
}  # fmt: skip


TYPED = "a photo of a {} on a lawn"
# What a person does with a template of a wish: the pictures to choose, what is typed over what, whether they drag.
DONE = {
    "Edit by words": (1, ["dog", "fox"], False), "Change only that": (1, ["dog", "fox"], False),
    "Remove": (1, ["dog"], False), "Move it": (1, [], True), "Draw it": (1, ["dog"], False), "Morph": (2, [], False),
    "Train an edge predictor": (0, [], False),
}  # fmt: skip
each_wish = pytest.mark.parametrize("name", DONE)


@pytest.fixture(scope="module")
def stocked(host):
    """The host with the public models under their names, and the picture of every ComfyUI, also in a folder."""
    picture = host.base / "input" / "example.png"
    folder = host.base / "input" / "my_pictures"
    folder.mkdir()
    for place in (picture, folder / "example.png"):
        shutil.copy(HOST / "ComfyUI" / "input" / "example.png", place)
    write_models(host.base / "models")
    yield host
    for path in (picture, *(host.base / "models" / name for name in (*FILES, FLOW))):
        path.unlink()
    shutil.rmtree(folder)


def briefly(prompt: dict) -> dict:
    for entry in prompt.values():
        entry["inputs"] |= {k: v for k, v in BRIEF.get(entry["class_type"], {}).items() if k in entry["inputs"]}
    return prompt


def opened(host, missing: bool) -> dict[str, dict]:
    """What the front end says of each example that it opens."""
    paths = {path.stem: str(path) for path in examples()}
    script = Path(__file__).with_name("shipped_browser.mjs")
    found = browse(script, host, False, workflows=paths, missing=missing)
    assert found.keys() == paths.keys()
    return found


@needs_browser
def test_what_is_missing_is_offered_with_its_link(host):
    places = [host.base / "models" / name for name in (*FILES, FLOW)]
    away = {place: place.rename(place.with_suffix(".away")) for place in places if place.exists()}
    try:
        found = opened(host, missing=True)
    finally:
        for place, aside in away.items():
            aside.rename(place)
    for path in examples():
        models = models_of(read(path))
        assert sorted(found[path.stem]["files"]) == sorted(name for _, name, *_ in models), path.stem
        # The page of the file, where the download's address is known to the front end.
        links = {link.replace("/blob/", "/resolve/") for link in found[path.stem]["links"]}
        assert links == {url for _, _, url, _ in models}, path.stem


@needs_browser
def test_nothing_is_red_where_the_files_are_there(stocked):
    assert {name: seen["red"] for name, seen in opened(stocked, missing=False).items() if seen["red"]} == {}


def test_the_gallery_can_be_made_with_a_model_of_ones_own(stocked, tmp_path):
    """The demo's own way, on the narrow Stable Diffusion."""
    name = Path(next(iter(FILES))).name
    client = Client(stocked.client.url)  # one that has not yet asked which files there are
    prepare = partial(with_checkpoint, name=name, megapixels=1 / 64)
    exhibit = show(client, example("Instant move"), "own", tmp_path / "own", prepare)
    assert exhibit.error == "" and (tmp_path / exhibit.after).is_file()
    kept = read(tmp_path / "own" / "own.json")
    assert [node["widgets_values"] for node in kept["nodes"] if node["type"] == "CheckpointLoaderSimple"] == [[name]]
    nobody = show(client, example("Instant move"), "own", tmp_path / "no", partial(prepare, name="nobody"))
    assert "CHECKPOINT=nobody is not there: choose from" in nobody.error and name in nobody.error


def test_the_demos_host_sees_the_models_of_the_comfyui_that_runs(host, tmp_path, monkeypatch):
    monkeypatch.setattr(own_model, "HOST", tmp_path)
    installation = Installation("python", str(HOST / "ComfyUI"), str(tmp_path))
    flag, path = own_model.lend(installation)
    assert flag == "--extra-model-paths-config"
    assert all((tmp_path / "input" / name).is_file() for name in ("example.png", "my_pictures/example.png"))
    config = json.loads(Path(path).read_text())["own"]
    assert config["base_path"] == str(HOST / "ComfyUI" / "models") and config["checkpoints"] == "checkpoints"


def test_what_an_example_loads_is_made_before():
    names = [path.stem for path in own_model.in_order(examples())]
    assert sorted(names) == sorted(path.stem for path in examples())
    assert names.index("Train an edge predictor") < names.index("Draw it")


def run_briefly(stocked, name: str) -> None:
    prompt = briefly(to_prompt(read(example(name)), stocked.client.object_info()))
    assert stocked.client.run(prompt, 300.0).status == "success"


def teach(stocked, prompt: dict) -> None:
    """The predictor that a prompt loads, made by the example that its note names."""
    made = stocked.base / "output" / "edge_predictors"
    before = set(made.glob("*"))
    run_briefly(stocked, "Train an edge predictor")
    (file,) = set(made.glob("*")) - before
    for entry in prompt.values():
        if entry["class_type"] == "PalimpsestLoadEdgePredictor":
            entry["inputs"]["file"] = file.name


def face_of(workflow: dict) -> dict[str, object]:
    """The values of a template's blueprint by the names of its controls."""
    (node,) = (one for one in workflow["nodes"] if one["type"] == workflow["definitions"]["subgraphs"][0]["id"])
    names = [slot["name"] for slot in node["inputs"] if slot.get("widget")]
    return dict(zip(names, node["widgets_values"], strict=True))


@pytest.fixture(scope="module")
def first_runs(stocked, tmp_path_factory):
    """What came of each template in the hands of a person with pictures of their own, and how much they did."""
    folder, asked = tmp_path_factory.mktemp("own"), {}
    pictures = [str(shutil.copy(HOST / "ComfyUI" / "input" / "example.png", folder / f"mine_{i}.png")) for i in (1, 2)]
    run_briefly(stocked, "Train an edge predictor")  # the predictor that is at hand
    for name, (count, words, drag) in DONE.items():
        workflow = read(example(name))
        typed = [value for value in face_of(workflow).values() if isinstance(value, str) and len(value) > 10]
        texts = [[old, TYPED.format(word)] for old, word in zip(typed, words)]
        asked[name] = {"path": str(example(name)), "pictures": pictures[:count], "texts": texts, "drag": drag}
    return browse(Path(__file__).with_name("first_run_browser.mjs"), stocked, False, templates=asked, brief=BRIEF)


@needs_browser
@each_wish
def test_at_most_four_actions_lead_to_the_first_picture(first_runs, name):
    seen = first_runs[name]
    assert seen["error"] == "" and len(seen["actions"]) <= 4, seen
    assert seen["actions"][0] == "open" and seen["actions"][-1] == "run"
    assert any(kind == ("temp" if name.startswith("Train") else "output") for kind, _ in seen["files"])


@needs_browser
@pytest.mark.parametrize("name", list(DONE)[:3])
def test_the_first_three_open_as_apps_with_the_controls_that_they_name(first_runs, name):
    data, values = read(example(name))["extra"]["linearData"], face_of(read(example(name)))
    texts = [values[control] for node, control in data["inputs"][1:]]
    assert first_runs[name]["app"] == {"pictures": 1, "texts": texts}


@each_wish
def test_the_first_three_are_apps_of_what_is_in_their_graph(name):
    workflow = read(example(name))
    extra, nodes = workflow["extra"], {str(node["id"]): node for node in workflow["nodes"]}
    assert extra.get("linearMode", False) == ("linearData" in extra) == (name in list(DONE)[:3])
    if "linearData" in extra:
        (picture, *texts), (saved,) = extra["linearData"]["inputs"], extra["linearData"]["outputs"]
        assert nodes[picture[0]]["type"] == "LoadImage" and nodes[saved]["type"] == "SaveImage"
        assert {nodes[node]["type"] for node, _ in texts} == {workflow["definitions"]["subgraphs"][0]["id"]}
        assert {control for _, control in texts} <= face_of(workflow).keys()


@each_example
def test_an_example_runs_as_it_ships(path, stocked):
    prompt = briefly(to_prompt(read(path), stocked.client.object_info()))
    if any(entry["class_type"] == "PalimpsestLoadEdgePredictor" for entry in prompt.values()):
        teach(stocked, prompt)
    result = stocked.client.run(prompt, 300.0)
    assert result.status == "success", f"{prompt.get(result.error_node, {}).get('class_type')}: {result.error}"
    assert result.files()
    stocked.check_alive()


def test_the_served_host_has_the_demos_among_its_workflows(host):
    folder = keep_demo(host)
    kept = {path.stem: read(path) for path in folder.glob("*.json")}
    assert kept.keys() == {path.stem for path in examples()}
    for name, workflow in kept.items():
        loaded = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "CheckpointLoaderSimple"]
        assert set(loaded) <= {"papercut.safetensors"}, name
