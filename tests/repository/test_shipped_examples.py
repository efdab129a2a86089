"""Every example as it ships, on the models and the picture that people have: real host, real loaders, narrow networks.

See tests/narrow_models.py for the networks. Sizes and steps are cut, since what is asked here is whether it runs.
"""

from __future__ import annotations

import shutil

import pytest
from palimpsest.tools.common import HOST
from palimpsest.tools.examples import examples
from palimpsest.tools.workflow import read, to_prompt

from ..narrow_models import write_models

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
    write_models(host.base / "models")
    shutil.copy(HOST / "ComfyUI" / "input" / "example.png", host.base / "input" / "example.png")
    return host


def briefly(prompt: dict) -> dict:
    for entry in prompt.values():
        entry["inputs"] |= {k: v for k, v in BRIEF.get(entry["class_type"], {}).items() if k in entry["inputs"]}
    return prompt


@each_example
def test_an_example_runs_as_it_ships(path, stocked):
    prompt = briefly(to_prompt(read(path), stocked.client.object_info()))
    result = stocked.client.run(prompt, 300.0)
    assert result.status == "success", f"{prompt.get(result.error_node, {}).get('class_type')}: {result.error}"
    assert result.files()
    stocked.check_alive()
