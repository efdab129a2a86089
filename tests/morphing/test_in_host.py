"""The morph nodes through POST /prompt: fitted on weights of loader nodes, taken by stock nodes, twice, interrupted."""

import json
import time

import pytest
import torch
from palimpsest.benchmarks.morphing.pace import plain_steps
from palimpsest.morphing.reschedule import variation
from safetensors.torch import load_file

from ..host.prompts import latent, run
from ..tiny_models import tiny_file
from .scene import Morph


def loss_of(result, node):
    """Preview as Text shows the LOSS_MAP as JSON or as Python's own words."""
    (text,) = result.texts(node)
    return json.loads(text.replace("'", '"'))["loss"]


def test_the_fit_lowers_the_loss_and_stock_nodes_take_what_it_makes(host, host_client):
    scene = Morph()
    fit = scene.fit(steps=40, seed=1)
    shown = scene.add("PreviewAny", source=[fit, 2])
    scene.add("LossGraphNode", loss=[fit, 2], filename_prefix="loss")
    scene.add("SaveImage", images=[fit, 1], filename_prefix="loss-plot")
    scene.add("SaveLoRA", lora=[fit, 0], prefix="loras/fitted")
    loss = loss_of(run(host_client, scene), shown)
    assert len(loss) == 40
    assert sum(loss[-10:]) < sum(loss[:10])
    files = sorted((host.base / "output" / "loras").glob("fitted*.safetensors"))
    assert len(files) == 2
    # Each file through the stock loader is what LoRA Interpolator makes of the same LoRA.
    folder = host.base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    for place, file in enumerate(files):
        (folder / f"fitted-{place}.safetensors").write_bytes(file.read_bytes())
        assert all(value.dtype == torch.float32 for value in load_file(file).values())
    scene = Morph()
    fit, schedule = scene.fit(steps=40, seed=1), scene.schedule(2)
    plain, saved = scene.model, []
    for place in range(2):
        name = f"fitted-{place}.safetensors"
        scene.model = [scene.add("LoraLoaderModelOnly", model=plain, lora_name=name, strength_model=1.0), 0]
        stock = scene.stock()
        fixed = {"mixture": "one for all frames", "fixed_alpha": float(place)}
        scene.model = scene.mixed(plain, [[fit, 0]], [schedule, 0], **fixed)
        saved.append((stock, scene.stock()))
    kept = [scene.add("PalimpsestLoadLoRAWeights", file=f"{file.name} [output]") for file in files]
    scene.model = scene.mixed(plain, [[one, 0] for one in kept], [schedule, 0], **fixed)
    saved.append((saved[1][0], scene.stock()))
    scene.model = plain
    bare = scene.stock()
    result = run(host_client, scene)
    for stock, ours in saved:
        stock, ours = latent(host_client, result, stock), latent(host_client, result, ours)
        assert torch.allclose(stock, ours, atol=1e-3)
        assert not torch.allclose(latent(host_client, result, bare), stock, atol=1e-2)


def test_the_papers_graph_runs_twice_alike_and_its_ends_are_each_pictures_own(host_client):
    frames = []
    for _ in range(2):
        scene = Morph()
        made, _ = scene.whole()
        saved = scene.save(made)
        frames.append(latent(host_client, run(host_client, scene), saved))
        host_client.free()
    assert frames[0].shape[0] == 5 and torch.equal(frames[0], frames[1])
    ends = Morph()
    made, _ = ends.whole(frames=2, blend=False)
    saved = ends.save(made)
    alone = latent(host_client, run(host_client, ends), saved)
    assert torch.allclose(frames[0][[0, 4]], alone, atol=5e-3)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sd3", "flux"])
def test_in_every_family_a_key_picture_s_frame_is_what_it_gives_alone(host_client, family):
    """Prediction of noise, of v and of flow; Attention Blend where the model has a UNet."""
    scene = Morph(family)
    made, _ = scene.whole(frames=3, blend=family in ("sd1", "sd2", "sdxl"))
    saved = [scene.save(made), *(scene.save(scene.alone(key, frames=3)) for key in range(2))]
    result = run(host_client, scene)
    frames, *alone = [latent(host_client, result, node) for node in saved]
    assert frames.shape[0] == 3 and torch.allclose(frames[[0, 2]], torch.cat(alone), atol=5e-3, rtol=1e-3)
    assert not torch.allclose(frames[0], frames[1], atol=0.1)


def test_a_curve_comes_by_wire_and_is_no_widget(host_client):
    """A widget's curve would be sent whether it is wanted or not."""
    spec = host_client.object_info()["PalimpsestMorphSchedule"]["input"]["optional"]["curve"]
    assert spec[0] == "CURVE" and spec[1]["forceInput"]
    scene = Morph()
    points = {"points": [[0.0, 0.0], [0.5, 0.25], [1.0, 1.0]], "interpolation": "linear"}
    curve = scene.add("CurveEditor", curve=points)
    schedule = scene.schedule(3, pace="curve", curve=[curve, 0])
    shown = scene.add("PreviewAny", source=[schedule, 0])
    (text,) = run(host_client, scene).texts(shown)
    assert "0.25" in text


def test_machines_that_split_a_morph_make_the_whole(host_client):
    pieces = []
    for options in ({}, {"start": 0, "count": 3}, {"start": 3, "count": 3}, {"start": 6, "count": 0}):
        scene = Morph(pictures=3)
        made, _ = scene.whole(frames=8, cyclic=True, **options)
        saved = scene.save(made)
        pieces.append(latent(host_client, run(host_client, scene), saved))
    assert torch.allclose(torch.cat(pieces[1:]), pieces[0], atol=5e-3)


def test_a_probe_feeds_one_final_run_with_its_key_pictures_fixed(host_client):
    scene, even = Morph(), {"hold_keys": True, "avoid_torn": False}
    made, alphas = scene.whole(frames=5, blend=False)
    rescheduled = scene.add("PalimpsestReschedule", alphas=alphas, measure="latents", frames=7, latent=made, **even)
    scene.add("SaveImage", images=[rescheduled, 1], filename_prefix="reschedule")
    expected = scene.add("PreviewAny", source=[rescheduled, 2])
    texts = scene.texts([rescheduled, 0])
    starts = next(key for key, node in scene.nodes.items() if node["class_type"] == "PalimpsestMorphLatents")
    again = {**scene.nodes[starts]["inputs"], "alphas": [rescheduled, 0]}
    fit = next(key for key, node in scene.nodes.items() if node["class_type"] == "PalimpsestLoRAFit")
    model = scene.mixed(scene.model, [[fit, 0]], [rescheduled, 0])
    starts = scene.add("PalimpsestMorphLatents", **again)
    anchor = {"model": model, "trajectory": [starts, 2], "rows": "", "alphas": [rescheduled, 0]}
    made = scene.sampled([scene.add("PalimpsestTrajectoryAnchor", **anchor), 0], texts, starts)
    saved, keys = scene.save(made), scene.save(scene.latent)
    remembered = scene.add(
        "PalimpsestReschedule", alphas=[rescheduled, 0], measure="latents", frames=5, latent=made, **even
    )
    evener, chosen = scene.add("PreviewAny", source=[remembered, 2]), scene.save([remembered, 3])
    result = run(host_client, scene)
    frames = latent(host_client, result, saved)
    assert frames.shape[0] == 7
    assert torch.allclose(frames[[0, -1]], latent(host_client, result, keys), atol=1e-5)
    assert 0 < float(result.texts(evener)[0]) < float(result.texts(expected)[0])
    # Of all that was looked at, five frames: evener than the five of the first look, which were among them.
    evenest = latent(host_client, result, chosen)
    assert len(evenest) == 5 and torch.equal(evenest[[0, -1]], frames[[0, -1]])
    assert variation(plain_steps(evenest)) < float(result.texts(expected)[0])


def test_pictures_fitted_before_are_reused(host, host_client):
    """A third picture joins: two are known by their content, though the node and its batch are new."""
    for pictures in (2, 3):
        scene = Morph(pictures=pictures, seed=5)
        scene.latent = [scene.add("TestTinyLatent", family="sd1", seed=40, batch=2, size=8), 0]
        if pictures == 3:
            other = [scene.add("TestTinyLatent", family="sd1", seed=41, batch=1, size=8), 0]
            scene.latent = [scene.add("LatentBatch", samples1=scene.latent, samples2=other), 0]
        scene.add("SaveLoRA", lora=[scene.fit(seed=pictures - pictures), 0], prefix="loras/reused")
        run(host_client, scene)
    assert "2 of 3 pictures had been fitted before" in host.text()


def test_what_was_fitted_goes_with_its_model_and_outlives_an_unloading(host, host_client):
    """A fit takes minutes: unloading to the CPU keeps it. Once the host lets the model go, the fit goes as well."""

    def times_reused(copies):
        """Fit the same two pictures, by a batch that is put together anew, so that the node runs again."""
        before = host.text().count("pictures had been fitted before")
        scene = Morph(pictures=2, seed=77)
        for _ in range(copies):
            scene.latent = [scene.add("RepeatLatentBatch", samples=scene.latent, amount=1), 0]
        scene.add("SaveLoRA", lora=[scene.fit(seed=7, steps=3), 0], prefix="loras/kept")
        run(host_client, scene)
        return host.text().count("pictures had been fitted before") - before

    host_client.free()
    assert times_reused(0) == 0
    host_client.json("/free", {"unload_models": True, "free_memory": False})
    assert times_reused(1) == 1
    host_client.free()
    assert times_reused(2) == 0


def test_an_interrupted_fit_leaves_no_trace(host_client):
    def stock():
        scene = Morph(seed=6)
        saved = scene.stock()
        return latent(host_client, run(host_client, scene), saved)

    before = stock()
    scene = Morph(seed=6)
    scene.add("SaveLoRA", lora=[scene.fit(steps=5000, seed=3, patience=0), 0], prefix="loras/never")
    with host_client.listen() as socket:
        prompt = host_client.post(scene.nodes)
        end = time.monotonic() + 120
        while time.monotonic() < end:
            message = socket.receive(timeout=5.0)
            if message and '"progress"' in message and prompt in message:
                break
        host_client.interrupt()
    assert host_client.wait(prompt, timeout=120).status == "interrupted"
    host_client.free()
    assert torch.equal(stock(), before)
    scene = Morph(seed=6)
    scene.add("SaveLoRA", lora=[scene.fit(seed=3), 0], prefix="loras/after")
    run(host_client, scene)


def test_the_hosts_own_trained_lora_serves_as_well(host, host_client):
    """All that Train LoRA changes (matrices, norms, biases), equal to the stock loader's merged weights."""
    folder = host.base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    tiny_file("sd3", folder / "tiny-morph.safetensors")
    scene = Morph("sd3", file="tiny-morph.safetensors")
    trained = scene.add(
        "TrainLoraNode",
        model=scene.model,
        latents=scene.latent,
        positive=scene.positive,
        batch_size=1,
        grad_accumulation_steps=1,
        steps=2,
        learning_rate=0.01,
        rank=2,
        optimizer="AdamW",
        loss_function="MSE",
        seed=0,
        training_dtype="none",
        lora_dtype="fp32",
        quantized_backward=False,
        algorithm="LoRA",
        gradient_checkpointing=False,
        checkpoint_depth=1,
        offloading=False,
        existing_lora="[None]",
        bucket_mode=False,
        bypass_mode=False,
    )
    plain, schedule = scene.model, scene.schedule(2)
    scene.model = [scene.add("LoraModelLoader", model=plain, lora=[trained, 0], strength_model=1.0, bypass=False), 0]
    stock = scene.stock(cfg=1.0)
    fixed = {"mixture": "one for all frames", "fixed_alpha": 0.4}
    scene.model = scene.mixed(plain, [[trained, 0], [trained, 0]], [schedule, 0], **fixed)
    ours = scene.stock(cfg=1.0)
    result = run(host_client, scene)
    assert torch.allclose(latent(host_client, result, stock), latent(host_client, result, ours), atol=1e-3)
