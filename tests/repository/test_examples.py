"""Every example workflow: complete, and through the real host twice, once interrupted, with nothing left behind."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
from palimpsest.tools.examples import examples, for_demo
from palimpsest.tools.places import ROOT
from palimpsest.tools.setup import WEIGHTS, missing_weights
from palimpsest.tools.workflow import node_types, read, to_prompt
from PIL import Image

WORKFLOWS = examples()
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


@each_workflow
def test_a_workflow_has_a_thumbnail_and_a_story(path):
    assert path.with_suffix(".jpg").is_file(), f"{path.name} needs a thumbnail {path.stem}.jpg"
    assert path.with_suffix(".jpg").stat().st_size < 200_000
    workflow = read(path)
    facts = workflow["extra"]["palimpsest"]
    assert facts["title"] and facts["story"].endswith(".")
    here = {str(node["id"]) for node in workflow["nodes"]}
    assert {str(facts[key]).split(":")[0] for key in ("before", "after") if key in facts} <= here


@each_workflow
def test_a_workflow_names_only_nodes_that_exist_and_files_that_ship(path, host_client):
    info = host_client.object_info()
    workflow = for_demo(read(path), info)
    assert node_types(workflow) <= set(info)
    pictures = {file.name for file in (ROOT / "papercut" / "pictures").glob("*")}
    for entry in to_prompt(workflow, info).values():
        for name, value in entry["inputs"].items():
            if str(value).endswith(".safetensors") and entry["class_type"].endswith(("Loader", "LoaderSimple")):
                assert value in WEIGHTS, f"{path.name} loads {value}"
            if entry["class_type"] == "LoadImage" and name == "image":
                assert value in pictures, f"{path.name} loads {value}"


def digests(client, result) -> dict[str, list[str]]:
    """What every node showed, as checksums of the pictures; files are matched by their node and order."""
    nodes = sorted(result.outputs)
    return {node: [hashlib.sha256(client.view(file)).hexdigest() for file in result.files(node)] for node in nodes}


def half_way(client):
    """A listener that interrupts when half of the nodes that had to run have run, or at a first step in one of them."""
    pressed: list[str] = []

    def listen(event: str, data: dict) -> None:
        states = data.get("nodes", {}).values() if event == "progress_state" else ()
        if not pressed and any(one["max"] > 2 and 2 * one["value"] >= one["max"] for one in states):
            pressed.append(event)
            client.interrupt()

    return listen


SHORT = {
    "PalimpsestLoRAFit": ("steps", 8),
    "PalimpsestEdgePredictorTrain": ("steps", 60),
    "PalimpsestPromptList": ("count", 4),
}


def briefly(prompt: dict) -> dict:
    """The prompt with short fits and lessons: each takes a minute, three times here; the demo makes them in full."""
    for entry in prompt.values():
        name, most = SHORT.get(entry["class_type"], ("", 0))
        if isinstance(entry["inputs"].get(name), int):
            entry["inputs"][name] = min(entry["inputs"][name], most)
    return prompt


def changes_its_picture(client, result, prompt: dict, facts: dict) -> bool:
    """Whether what the gallery shows as the result is another picture than the one before."""
    before, after = (str(facts.get(key, "")) for key in ("before", "after"))
    files = result.files(after)
    if prompt.get(before, {}).get("class_type") != "LoadImage" or not files:
        return True
    source = Image.open(ROOT / "papercut" / "pictures" / prompt[before]["inputs"]["image"]).convert("RGB")
    made = Image.open(io.BytesIO(client.view(files[0]))).convert("RGB")
    return made.size != source.size or made.tobytes() != source.tobytes()


@each_workflow
def test_a_workflow_gives_the_same_again_after_an_interruption(path, host_client):
    info = host_client.object_info()
    prompt = briefly(to_prompt(for_demo(read(path), info), info))
    values = {str(value) for entry in prompt.values() for value in entry["inputs"].values()}
    missing = values & set(missing_weights())
    if missing:
        pytest.skip(f"the weights {missing} are not here")
    first = host_client.run(prompt)
    assert first.status == "success", f"{first.error_node}: {first.error}"
    assert first.files(), "it shows nothing"
    assert changes_its_picture(host_client, first, prompt, read(path)["extra"]["palimpsest"])
    host_client.free()
    stopped = host_client.run(prompt, listener=half_way(host_client))
    assert stopped.status in ("interrupted", "success"), f"{stopped.error_node}: {stopped.error}"
    again = host_client.run(prompt)
    assert again.status == "success", f"{again.error_node}: {again.error}"
    assert digests(host_client, again) == digests(host_client, first)


def test_there_are_workflows_to_show():
    assert WORKFLOWS and all(isinstance(path, Path) for path in WORKFLOWS)
