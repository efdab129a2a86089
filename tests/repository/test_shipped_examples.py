"""Every example as it ships, on the models and the picture that people have: real host, real loaders, narrow networks.

See tests/narrow_models.py for the networks. Sizes and steps are cut, since what is asked here is whether it runs.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from palimpsest.tools.examples import examples
from palimpsest.tools.places import HOST
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
    "PalimpsestNullTextOptimize": {"iterations": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def stocked(host):
    """The host with the public models under their names, and the picture that every ComfyUI brings."""
    picture = host.base / "input" / "example.png"
    shutil.copy(HOST / "ComfyUI" / "input" / "example.png", picture)
    write_models(host.base / "models")
    yield host
    for path in (picture, *(host.base / "models" / name for name in (*FILES, FLOW))):
        path.unlink()


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
    """Before the fixture below has put the files in their places."""
    assert not any((host.base / "models" / name).exists() for name in FILES)
    found = opened(host, missing=True)
    for path in examples():
        models = models_of(read(path))
        assert sorted(found[path.stem]["files"]) == sorted(name for _, name, *_ in models), path.stem
        # The page of the file, where the download's address is known to the front end.
        links = {link.replace("/blob/", "/resolve/") for link in found[path.stem]["links"]}
        assert links == {url for _, _, url, _ in models}, path.stem


@needs_browser
def test_nothing_is_red_where_the_files_are_there(stocked):
    assert {name: seen["red"] for name, seen in opened(stocked, missing=False).items() if seen["red"]} == {}


@each_example
def test_an_example_runs_as_it_ships(path, stocked):
    prompt = briefly(to_prompt(read(path), stocked.client.object_info()))
    result = stocked.client.run(prompt, 300.0)
    assert result.status == "success", f"{prompt.get(result.error_node, {}).get('class_type')}: {result.error}"
    assert result.files()
    stocked.check_alive()
