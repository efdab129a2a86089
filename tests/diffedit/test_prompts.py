"""DiffEdit through POST /prompt on tiny models: mask, anchored decode, repeats, interruption and warnings."""

import io
import json

import numpy as np
import pytest
import torch
from palimpsest.tools.examples import example, for_demo
from palimpsest.tools.workflow import read, to_prompt
from PIL import Image

from ..host.prompts import Scene, latent, run

ROOT = __import__("pathlib").Path(__file__).resolve().parents[2]


def masked(scene: Scene, **changes) -> str:
    other = [scene.add("TestTinyConditioning", family="sd1", seed=5, batch=1), 0]
    inputs = dict(
        seed=0,
        noises=3,
        strength=0.5,
        threshold="adaptive",
        level=0.5,
        outliers="drop the extreme noises",
        gap=1,
        fill_holes=True,
        parts=0,
        complement=False,
        grow=0,
        soft_edge=8,
    )
    inputs |= dict(model=scene.model, reference=scene.positive, query=other, latent=scene.latent)
    scene.query = changes.get("query", other)
    return scene.add("PalimpsestDiffEditMask", **{**inputs, **changes})


def edited(scene: Scene, mask: list | None, sampler: str = "euler", **anchor) -> str:
    """Inversion, anchor and stock sampling; returns the id of the node that saves the latent."""
    invert = scene.add(
        "PalimpsestDDIMInvert",
        model=scene.model,
        latent=scene.latent,
        sigmas=scene.sigmas,
        cfg=1.0,
        refinement=0,
        positive=scene.positive,
    )
    if mask:
        anchor["mask"] = mask
    anchor = scene.add("PalimpsestTrajectoryAnchor", model=scene.model, trajectory=[invert, 0], **anchor)
    guider = scene.add("CFGGuider", model=[anchor, 0], positive=scene.query, negative=scene.negative, cfg=4.0)
    chosen = scene.add("KSamplerSelect", sampler_name=sampler)
    noise = scene.add("RandomNoise", noise_seed=7)
    sampled = scene.add(
        "SamplerCustomAdvanced",
        noise=[noise, 0],
        guider=[guider, 0],
        sampler=[chosen, 0],
        sigmas=scene.sigmas,
        latent_image=scene.latent,
    )
    return scene.save([sampled, 0])


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2s_ancestral"])
def test_the_whole_edit_twice_in_a_row(host_client, sampler):
    scene = Scene("sd1")
    mask = masked(scene)
    shown = scene.add("MaskPreview", mask=[mask, 0])
    note = scene.add("PreviewAny", source=[mask, 3])
    source, result = scene.save(scene.latent), edited(scene, [mask, 0], sampler, start_from_source=True)
    first = run(host_client, scene)
    assert "samples of the network" in first.texts(note)[0] and first.files(shown)
    before, after = latent(host_client, first, source), latent(host_client, first, result)
    kept = (before == after).all(1)
    assert 0 < int(kept.sum()) < kept.numel()
    host_client.free()  # fresh weights, empty caches
    assert torch.equal(latent(host_client, run(host_client, scene), result), after)


def test_the_depth_is_the_host_s_own_splitting_of_the_schedule(host_client):
    """Of the same picture and mask the low part of Split Sigmas changes less; what is kept is exact at either depth."""
    scene = Scene("sd1")
    mask, source = [masked(scene, seed=3), 0], scene.save(scene.latent)
    deep = edited(scene, mask, start_from_source=True)
    scene.sigmas = [scene.add("SplitSigmas", sigmas=scene.sigmas, step=4), 1]
    shallow = edited(scene, mask, start_from_source=True)
    result = run(host_client, scene)
    before, *after = (latent(host_client, result, node) for node in (source, deep, shallow))
    more, less = ((before - one).abs().amax(1) for one in after)
    assert torch.equal(more == 0, less == 0) and (more == 0).any()
    assert 0 < float(less.mean()) < 0.8 * float(more.mean())


def test_anchored_everywhere_is_the_source_and_an_empty_mask_keeps_all(host_client):
    scene = Scene("sd1")
    mask = masked(scene, grow=-200)
    source = scene.save(scene.latent)
    everywhere, empty = edited(scene, None, "dpmpp_sde"), edited(scene, [mask, 0])
    note = scene.add("PreviewAny", source=[mask, 3])
    result = run(host_client, scene)
    before = latent(host_client, result, source)
    assert torch.equal(latent(host_client, result, everywhere), before)
    assert torch.equal(latent(host_client, result, empty), before)
    assert "empty" in result.texts(note)[0]


def test_the_warning_reaches_the_user(host_client):
    """As an event that names the running node, which web/warnings.js shows there; and in the note."""
    scene, message = Scene("sd1"), "The mask of picture 0 is empty"
    mask = masked(scene, grow=-200, seed=9)  # of no other test: a remembered mask would say nothing
    scene.add("PreviewAny", source=[mask, 3])
    with host_client.listen() as socket:
        result = host_client.run(scene.nodes)
        events = map(json.loads, iter(lambda: socket.receive(timeout=5.0), None))
        warnings = [event["data"] for event in events if event["type"] == "palimpsest.warning"]
    assert any(message in one["text"] and one["node"] == mask for one in warnings)
    assert result.status == "success" and message in result.texts()[0]


def test_interrupted_half_way_nothing_is_left(host_client):
    scene = Scene("sd1", batch=2)
    mask = masked(scene, noises=64)
    result = edited(scene, [mask, 0])
    expected = latent(host_client, run(host_client, scene), result)
    host_client.free()
    stopped = []

    def stop(event, data):
        if event == "progress" and not stopped:
            stopped.append(event)
            host_client.interrupt()

    slow = Scene("sd1", batch=8)
    edited(slow, [masked(slow, noises=64, seed=1), 0])
    assert host_client.run(slow.nodes, listener=stop).status == "interrupted"
    assert torch.equal(latent(host_client, run(host_client, scene), result), expected)


def test_a_batch_of_prompts_gets_a_mask_each_or_a_sentence(host_client):
    scene = Scene("sd1", batch=1)
    three = [scene.add("TestTinyConditioning", family="sd1", seed=5, batch=3), 0]
    mask = masked(scene, query=three)
    shown, note = scene.add("MaskPreview", mask=[mask, 0]), scene.add("PreviewAny", source=[mask, 3])
    result = run(host_client, scene)
    assert len(result.files(shown)) == 3 and result.texts(note)[0].count("of the area") == 3

    scene = Scene("sd1", batch=2)
    three = [scene.add("TestTinyConditioning", family="sd1", seed=5, batch=3), 0]
    scene.add("MaskPreview", mask=[masked(scene, query=three), 0])
    result = host_client.run(scene.nodes)
    assert result.status == "error" and "2 pictures and 3 prompts" in result.error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": 0.0}, "leaves no noise"),
        ({"strength": 1.0}, "leaves no picture"),
        ({"same": True}, "are the same"),
    ],
)
def test_errors_are_sentences(host_client, changes, message):
    scene = Scene("sd1")
    if changes.pop("same", False):
        changes["query"] = scene.positive
    scene.add("MaskPreview", mask=[masked(scene, **changes), 0])
    result = host_client.run(scene.nodes)
    assert result.status == "error" and message in result.error


def test_a_trajectory_of_another_size_or_model_gets_a_sentence(host_client):
    scene = Scene("sd1")
    small = [scene.add("TestTinyLatent", family="sd1", seed=0, batch=2, size=4), 0]
    scene.query, mine, scene.latent = scene.negative, scene.latent, small
    edited(scene, None)
    for node in scene.nodes.values():
        if node["class_type"] == "SamplerCustomAdvanced":
            node["inputs"]["latent_image"] = mine
    result = host_client.run(scene.nodes)
    assert result.status == "error" and "4 x 4 x 4" in result.error

    flow = Scene("sd3")
    flow.query = flow.negative
    edited(flow, None)
    other_model = flow.add("TestTinyModel", family="sd1", seed=0)
    for node in flow.nodes.values():
        if node["class_type"] == "PalimpsestTrajectoryAnchor":
            node["inputs"]["model"] = [other_model, 0]
    result = host_client.run(flow.nodes)
    assert result.status == "error" and "The trajectory was made with a flow model" in result.error


def test_the_masks_serve_the_host_s_own_inpainting(host_client):
    """Set Latent Noise Mask with the soft mask, Differential Diffusion with the heat map."""
    scene = Scene("sd1", batch=1)
    mask = masked(scene)
    differential = scene.add("DifferentialDiffusion", model=scene.model, strength=1.0)
    strength = scene.add("ImageToMask", image=[mask, 1], channel="red")
    ends = []
    for model, link in ((scene.model, [mask, 2]), ([differential, 0], [strength, 0])):
        noised = scene.add("SetLatentNoiseMask", samples=scene.latent, mask=link)
        sampled = scene.add(
            "KSampler",
            model=model,
            seed=1,
            steps=4,
            cfg=4.0,
            sampler_name="euler",
            scheduler="normal",
            positive=scene.query,
            negative=scene.negative,
            latent_image=[noised, 0],
            denoise=0.8,
        )
        ends.append(scene.save([sampled, 0]))
    result = run(host_client, scene)
    assert all(np.isfinite(latent(host_client, result, end).numpy()).all() for end in ends)


def test_outside_the_soft_mask_an_odd_picture_keeps_every_pixel(host_client, host):
    """The template "replace an object" on a picture whose sides are no multiples of 8."""
    picture = Image.open(ROOT / "papercut" / "pictures" / "papercut_two.png").convert("RGB").resize((250, 206))
    picture.save(host.base / "input" / "odd_sides.png")
    info = host_client.object_info()
    prompt = to_prompt(for_demo(read(example("Replace an object")), info), info)
    node = lambda kind: next(key for key, one in prompt.items() if one["class_type"] == kind)
    prompt[node("LoadImage")]["inputs"]["image"] = "odd_sides.png"
    prompt[node("BasicScheduler")]["inputs"]["steps"] = 2
    prompt[node("ImageScaleToTotalPixels")]["inputs"]["megapixels"] = 250 * 206 / 2**20
    source = {"images": [node("ImageScaleToTotalPixels"), 0]}
    prompt |= {
        "source": {"class_type": "PreviewImage", "inputs": source},
        "soft": {"class_type": "MaskToImage", "inputs": {"mask": [node("PalimpsestDiffEditMask"), 2]}},
        "shown": {"class_type": "PreviewImage", "inputs": {"images": ["soft", 0]}},
    }
    result = host_client.run(prompt)
    assert result.status == "success", result.error

    def pixels(key: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(host_client.view(result.files(key)[0]))).convert("RGB"), dtype=int)

    before, soft, after = pixels("source"), pixels("shown")[..., 0], pixels(node("SaveImage"))
    assert before.shape == after.shape == (208, 248, 3) and soft.shape == (208, 248)
    # A pixel more, since a preview rounds the faintest of the soft edge to nothing.
    touched = torch.nn.functional.max_pool2d(torch.tensor(soft)[None].float(), 3, 1, 1)[0].numpy() > 0
    assert 0.02 < touched.mean() < 0.6
    assert (before[~touched] == after[~touched]).all() and (before[soft == 255] != after[soft == 255]).mean() > 0.3


def test_the_subgraph_is_served_and_runs(host_client):
    """The blueprint "Change Only That", put on a canvas with a tiny model."""
    served = host_client.json("/global_subgraphs")
    assert any(entry["name"] == "Change Only That" for entry in served.values())
    blueprint = read(ROOT / "subgraphs" / "Change Only That.json")
    prompt = to_prompt(blueprint, host_client.object_info())
    kinds = {node["class_type"] for node in prompt.values()}
    ours = {"DiffEditMask", "DDIMInvert", "TrajectoryAnchor", "DiffEditHeadStart"}
    assert {f"Palimpsest{name}" for name in ours} <= kinds
