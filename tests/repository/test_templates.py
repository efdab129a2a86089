"""What the Templates dialog lists, what it loads, and what the pages say of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from palimpsest.tools.examples import EXAMPLES, examples, facts_of
from palimpsest.tools.places import ROOT
from palimpsest.tools.stamp import files, own_nodes, pack
from palimpsest.tools.workflow import read

PAGES = [ROOT / "README.md", *sorted((ROOT / "web" / "docs").glob("*.md"))]
SHOWN = [path for path in examples() if path.parent == EXAMPLES]
FILES = files()
# The loader nodes of files that somebody publishes; what a person makes (LoRA, predictor) has no link.
LOADERS = {
    "CheckpointLoaderSimple", "CLIPLoader", "CLIPVisionLoader", "ControlNetLoader", "DualCLIPLoader",
    "OpticalFlowLoader", "UNETLoader", "VAELoader",
}  # fmt: skip
CHOICES = {"enable", "disable", "fixed", "randomize", "increment", "decrement"}
# The paper's (arXiv 2312.07409).
MORPHING = {"PalimpsestAttentionBlend": "ddim_uniform"}
NAMES = {path.relative_to(EXAMPLES).with_suffix("").as_posix() for path in examples()}


def test_the_dialog_lists_a_dozen_in_an_order_that_their_numbers_give():
    numbers = [facts_of(read(path))["number"] for path in SHOWN]
    assert numbers == sorted(set(numbers)) and numbers[-1] <= 12


def test_names_are_written_for_people_and_each_is_one_of_a_kind():
    stems = [path.stem for path in examples()]
    assert len(set(stems)) == len(stems)
    for stem in stems:
        assert re.fullmatch(r"[A-Z][A-Za-z-]*( [A-Za-z-]+)*", stem), stem


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_templates_that_exist(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"\*\d\d_\w+\*", text)
    italic = r"(?<![*\w])\*([^*|]+)\*(?!\*)"
    named = {" ".join(one.split()) for one in re.findall(italic, text)}
    assert {one for one in named if one.startswith("techniques/")} <= NAMES
    for sentence in re.findall(r"workflow templates?\s((?:(?!blueprint)[^.])*)", text):
        assert {" ".join(one.split()) for one in re.findall(italic, sentence)} <= NAMES, sentence


def nodes_of(workflow: dict) -> Iterator[dict]:
    """All nodes, those inside subgraphs included."""
    for level in (workflow, *workflow.get("definitions", {}).get("subgraphs", ())):
        yield from level["nodes"]


def models_of(workflow: dict) -> set[tuple[str, str, str, str]]:
    """(loader, name, address, folder) of each file that the loaders offer to fetch."""
    entries = ((node, one) for node in nodes_of(workflow) for one in node.get("properties", {}).get("models") or ())
    return {(node["type"], one["name"], one["url"], one["directory"]) for node, one in entries}


@cache
def host_templates() -> list[dict]:
    """The templates that the host itself requires, those that load a model."""
    spec = find_spec("comfyui_workflow_templates_json") or find_spec("comfyui_workflow_templates")
    if spec is None:
        pytest.skip("the host's own templates are not installed")
    found = []
    for path in Path(next(iter(spec.submodule_search_locations))).parent.glob("comfyui_workflow_templates*/**/*.json"):
        text = path.read_text(encoding="utf-8")
        if any(f'"{loader}"' in text for loader in LOADERS) and '"models"' in text:
            workflow = json.loads(text)
            found += [workflow] if isinstance(workflow, dict) and "nodes" in workflow else []
    return found


def published() -> set[tuple[str, str, str, str]]:
    """models_of all of those."""
    return set().union(*map(models_of, host_templates()))


def sampling_of(workflow: dict) -> set[str]:
    """What a workflow samples with: names of samplers and schedules, and the kinds of nodes that shift a model's."""
    found = set()
    for node in nodes_of(workflow):
        values = [one for one in node.get("widgets_values") or () if isinstance(one, str)]
        if node["type"] in ("KSampler", "KSamplerAdvanced", "KSamplerSelect", "BasicScheduler"):
            found |= {one for one in values if one not in CHOICES}
        found |= {node["type"]} if node["type"].startswith("ModelSampling") else set()
    return found


@pytest.mark.host
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_model_has_the_link_that_the_host_s_own_templates_have(path):
    workflow = read(path)
    assert models_of(workflow) <= published()
    for node in nodes_of(workflow):
        if node["type"] in LOADERS:
            (model,) = node["properties"]["models"]
            assert node["widgets_values"][0] == model["name"], f"{path.stem}, node {node['id']}"


@pytest.mark.host
@pytest.mark.parametrize("path", examples(), ids=lambda path: path.stem)
def test_each_model_is_sampled_as_in_the_host_s_own_templates(path):
    workflow = read(path)
    names = {name for _, name, *_ in models_of(workflow) if name.startswith(("v1-5", "sd_xl"))}
    theirs = (one for one in host_templates() if names & {name for _, name, *_ in models_of(one)})
    own = {MORPHING[node["type"]] for node in nodes_of(workflow) if node["type"] in MORPHING}
    assert sampling_of(workflow) <= own.union(*map(sampling_of, theirs))


@pytest.mark.parametrize("path", examples(), ids=lambda path: path.stem)
def test_a_template_loads_the_picture_that_every_comfyui_has(path):
    for node in nodes_of(read(path)):
        if node["type"] in ("LoadImage", "LoadImageMask"):
            assert node["widgets_values"][0] == "example.png", f"node {node['id']}"


@pytest.mark.parametrize("path", examples(), ids=lambda path: path.stem)
def test_the_note_begins_with_what_to_choose_and_press(path):
    workflow = read(path)
    number = facts_of(workflow)["number"]
    notes = [node["widgets_values"][0].split("\n")[0] for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    start = f"{number} of 12. " if path.parent == EXAMPLES else "A technique. "
    (first,) = (one for one in notes if one.startswith(start))
    assert "**Run**" in first and "hoose" in first


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_node_of_ours_says_which_pack_it_is_of(path):
    for node in own_nodes(read(path)):
        said = {key: node["properties"].get(key) for key in pack()}
        assert said == pack(), f"node {node['id']} of {path.name}: run 'make stamp'"
