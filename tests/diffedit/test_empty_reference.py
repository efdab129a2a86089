"""The reference may be an empty text: the map then shows what the query names, whether it changes or not."""

import pytest
import torch
from palimpsest.benchmarks.diffedit import methods
from palimpsest.benchmarks.diffedit.fixtures import papercut
from palimpsest.guidance.diffedit.heat_map import heat_map
from palimpsest.tools.examples import example, for_demo
from palimpsest.tools.workflow import read, to_prompt


@pytest.fixture(scope="module")
def found():
    """Eight edits of objects on the shipped weights; their masks with captions and with an empty text for reference."""
    with torch.inference_mode():
        fixtures = papercut(22)
        fixtures = fixtures.part([i for i in range(8, 22) if not fixtures.grounds[i]][-8:])
        maps = {
            name: methods.our_search(fixtures, noises=4, references=texts)[0]
            for name, texts in {"captions": None, "empty": fixtures.empty}.items()
        }
        return fixtures, maps, {name: methods.our_masks(fixtures, one) for name, one in maps.items()}


def test_it_finds_the_object_without_a_text_for_what_it_was(found):
    fixtures, _, masks = found
    scores = methods.scored(masks["empty"], fixtures)
    assert float(scores.recall.mean()) > 0.85 and float(scores.iou.mean()) > 0.6


def test_what_the_query_names_besides_lights_up_too(found):
    """Of what stays as it is, more lights up than where the reference names it as well."""
    fixtures, maps, _ = found
    inside = torch.stack([edit.mask for edit in fixtures.edits])[:, ::8, ::8]
    fraction = {}
    for name, one in maps.items():
        heat = heat_map(one)
        fraction[name] = float(heat[~inside].mean() / heat[inside].mean())
    assert fraction["empty"] > fraction["captions"]


def test_it_runs_through_the_host_s_own_text_nodes(host_client):
    info = host_client.object_info()
    prompt = to_prompt(for_demo(read(example("Three thresholds")), info), info)
    texts = [one["inputs"] for one in prompt.values() if one["class_type"] == "CLIPTextEncode"]
    (old,) = (one for one in texts if one["text"].startswith("a red"))
    old["text"] = ""
    mask = next(key for key, one in prompt.items() if one["class_type"] == "PalimpsestDiffEditMask")
    prompt["note"] = {"class_type": "PreviewAny", "inputs": {"source": [mask, 3]}}
    result = host_client.run(prompt)
    assert result.status == "success", result.error
    (note,) = result.texts("note")
    fraction = float(note.split("Picture 0: ")[1].split(" %")[0])
    assert 2 < fraction < 80 and "samples of the network" in note
