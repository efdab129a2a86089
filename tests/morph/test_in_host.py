"""The morph nodes through POST /prompt: fitted on weights of loader nodes, taken by stock nodes, twice, interrupted."""

import json
import time

import pytest
import torch
from safetensors.torch import load_file

from ..host.prompts import Scene, latent, run
from ..tiny_models import tiny_file

STEPS = 6


class Morph(Scene):
    """Two or more key pictures of a tiny model, and what is made of them."""

    def __init__(self, family="sd1", pictures=2, **options):
        super().__init__(family, batch=pictures, **options)
        self.family, self.pictures = family, pictures
        self.prompts = [[self.add("TestTinyConditioning", family=family, seed=s, batch=1), 0] for s in range(pictures)]

    def numbered(self, names, name, links):
        return {f"{names}.{name}{place}": link for place, link in enumerate(links)}

    def fit(self, **options):
        settings = {"steps": STEPS, "rank": 2, "learning_rate": 0.005, "seed": 0} | options
        prompts = self.numbered("prompts", "prompt", self.prompts)
        return self.add("PalimpsestLoRAFit", model=self.model, latent=self.latent, **settings, **prompts)

    def schedule(self, frames, **options):
        settings = {"pace": "uniform", "cyclic": False} | options
        return self.add("PalimpsestMorphSchedule", frames=frames, keyframes=self.pictures, **settings)

    def mixed(self, model, loras, alphas, **options):
        settings = {"mixing": "product", "strength": 1.0} | options
        loras = self.numbered("loras", "lora", loras)
        return [self.add("PalimpsestLoRAInterpolator", model=model, alphas=alphas, **settings, **loras), 0]

    def texts(self, alphas):
        prompts = self.numbered("prompts", "prompt", self.prompts)
        return [self.add("PalimpsestMorphConditioning", alphas=alphas, **prompts), 0]

    def inverted(self, model, positive):
        node = self.add(
            "PalimpsestDDIMInvert", model=model, latent=self.latent, sigmas=self.sigmas, cfg=1.0, refinement=0,
            positive=positive,
        )  # fmt: skip
        return [node, 0]

    def sampled(self, model, positive, starts):
        guider = self.add("BasicGuider", model=model, conditioning=positive)
        sampler = self.add("KSamplerSelect", sampler_name="euler")
        node = self.add(
            "SamplerCustomAdvanced", noise=[starts, 0], guider=[guider, 0], sampler=[sampler, 0], sigmas=self.sigmas,
            latent_image=[starts, 1],
        )  # fmt: skip
        return [node, 0]

    def whole(self, frames=5, blend=True, **options):
        """The paper's graph; returns the frames' latent and their ALPHAS."""
        schedule, loras = self.schedule(frames, **options), [[self.fit(), 0]]
        alphas, keys = [schedule, 0], [schedule, 1]
        ways = self.inverted(self.mixed(self.model, loras, keys), self.texts(keys))
        model = self.mixed(self.model, loras, alphas)
        trajectories = self.numbered("trajectories", "trajectory", [ways])
        starts = self.add("PalimpsestMorphLatents", model=model, alphas=alphas, adain=True, **trajectories)
        if blend:
            blended = self.add(
                "PalimpsestAttentionBlend", model=model, alphas=alphas, strength=1.0, until=0.6, keys=[starts, 2]
            )
            model = [blended, 0]
        return self.sampled(model, self.texts(alphas), starts), alphas


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


def test_machines_that_share_a_morph_make_the_whole(host_client):
    pieces = []
    for options in ({}, {"start": 0, "count": 3}, {"start": 3, "count": 3}, {"start": 6, "count": 0}):
        scene = Morph(pictures=3)
        made, _ = scene.whole(frames=8, cyclic=True, **options)
        saved = scene.save(made)
        pieces.append(latent(host_client, run(host_client, scene), saved))
    assert torch.allclose(torch.cat(pieces[1:]), pieces[0], atol=5e-3)


def test_a_probe_feeds_one_final_run(host_client):
    scene = Morph()
    made, alphas = scene.whole(frames=5, blend=False)
    rescheduled = scene.add(
        "PalimpsestReschedule", alphas=alphas, measure="latents", frames=7, hold_keys=True, latent=made
    )
    scene.add("SaveImage", images=[rescheduled, 1], filename_prefix="reschedule")
    told = scene.add("PreviewAny", source=[rescheduled, 2])
    texts = scene.texts([rescheduled, 0])
    starts = next(key for key, node in scene.nodes.items() if node["class_type"] == "PalimpsestMorphLatents")
    again = {**scene.nodes[starts]["inputs"], "alphas": [rescheduled, 0]}
    fit = next(key for key, node in scene.nodes.items() if node["class_type"] == "PalimpsestLoRAFit")
    model = scene.mixed(scene.model, [[fit, 0]], [rescheduled, 0])
    saved = scene.save(scene.sampled(model, texts, scene.add("PalimpsestMorphLatents", **again)))
    result = run(host_client, scene)
    assert latent(host_client, result, saved).shape[0] == 7
    assert float(result.texts(told)[0]) > 0


def test_one_frame_and_a_prompt_twice_as_long(host_client):
    """One frame is the first picture alone; prompts of different length are brought to one."""
    scene = Morph()
    made, _ = scene.whole(frames=1)
    saved = scene.save(made)
    assert latent(host_client, run(host_client, scene), saved).shape[0] == 1
    scene = Morph()
    longer = scene.add("ConditioningConcat", conditioning_to=scene.prompts[1], conditioning_from=scene.prompts[1])
    scene.prompts[1] = [longer, 0]
    made, _ = scene.whole(frames=3)
    saved = scene.save(made)
    assert torch.isfinite(latent(host_client, run(host_client, scene), saved)).all()


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
        "TrainLoraNode", model=scene.model, latents=scene.latent, positive=scene.positive, batch_size=1,
        grad_accumulation_steps=1, steps=2, learning_rate=0.01, rank=2, optimizer="AdamW", loss_function="MSE", seed=0,
        training_dtype="none", lora_dtype="fp32", quantized_backward=False, algorithm="LoRA",
        gradient_checkpointing=False, checkpoint_depth=1, offloading=False, existing_lora="[None]", bucket_mode=False,
        bypass_mode=False,
    )  # fmt: skip
    plain, schedule = scene.model, scene.schedule(2)
    scene.model = [scene.add("LoraModelLoader", model=plain, lora=[trained, 0], strength_model=1.0, bypass=False), 0]
    stock = scene.stock(cfg=1.0)
    fixed = {"mixture": "one for all frames", "fixed_alpha": 0.4}
    scene.model = scene.mixed(plain, [[trained, 0], [trained, 0]], [schedule, 0], **fixed)
    ours = scene.stock(cfg=1.0)
    result = run(host_client, scene)
    assert torch.allclose(latent(host_client, result, stock), latent(host_client, result, ours), atol=1e-3)


def refusal(client, scene):
    result = client.run(scene.nodes)
    assert result.status == "error"
    return result.error


def test_bad_input_gets_a_sentence_and_the_next_run_is_unaffected(host_client):
    scene = Morph()
    schedule = scene.schedule(4)
    one = scene.numbered("prompts", "prompt", scene.prompts[:1])
    fit = scene.add(
        "PalimpsestLoRAFit", model=scene.model, steps=2, rank=2, learning_rate=0.001, seed=0, **one,
        latent=[scene.add("TestTinyLatent", family="sd1", seed=0, batch=1, size=8), 0],
    )  # fmt: skip
    scene.model = scene.mixed(scene.model, [[fit, 0]], [schedule, 0])
    scene.stock()
    assert "2 key pictures, but 1 LoRAs" in refusal(host_client, scene)

    scene = Morph()
    scene.model = scene.mixed(scene.model, [[scene.fit(), 0]], [scene.schedule(4), 0])
    scene.stock()
    assert "ALPHAS of 4 frames, but 2 pictures" in refusal(host_client, scene)

    scene = Morph()
    schedule = scene.schedule(4, start=4, count=1)
    scene.positive = scene.texts([schedule, 0])
    scene.stock()
    assert "`start` is 4" in refusal(host_client, scene)

    scene = Morph()
    saved = scene.stock()
    assert torch.isfinite(latent(host_client, run(host_client, scene), saved)).all()


@pytest.mark.parametrize("measure", ["lpips", "clip vision"])
def test_a_measure_that_is_not_at_hand_says_so(host_client, measure):
    scene = Morph()
    pictures = [scene.add("EmptyImage", width=64, height=64, batch_size=3, color=0), 0]
    options = {"measure": measure, "frames": 0, "hold_keys": True}
    scene.add("PalimpsestReschedule", alphas=[scene.schedule(3), 0], images=pictures, **options)
    node = scene.add("PreviewAny", source=[str(len(scene.nodes)), 2])
    assert node
    assert "Load CLIP Vision" in (error := refusal(host_client, scene)) or "`latents` or `clip vision`" in error


def test_pictures_of_any_size_become_one_batch_and_black_frames_are_rescheduled(host, host_client):
    scene = Morph()
    wide = [scene.add("EmptyImage", width=96, height=64, batch_size=1, color=0x3080C0), 0]
    tall = [scene.add("EmptyImage", width=50, height=90, batch_size=2, color=0xC08030), 0]
    links = scene.numbered("pictures", "picture", [wide, tall])
    batch = scene.add("PalimpsestKeyPictures", width=0, height=0, **links)
    size = scene.add("GetImageSize", image=[batch, 0])
    told = [scene.add("PreviewAny", source=[size, place]) for place in range(3)]
    rescheduled = scene.add(
        "PalimpsestReschedule", alphas=[scene.schedule(3), 0], measure="latents", frames=5, hold_keys=True,
        images=[scene.add("EmptyImage", width=64, height=64, batch_size=3, color=0), 0], vae=scene.vae,
    )  # fmt: skip
    variation = scene.add("PreviewAny", source=[rescheduled, 2])
    result = run(host_client, scene)
    assert [int(float(result.texts(node)[0])) for node in told] == [96, 64, 3]
    assert float(result.texts(variation)[0]) == 0.0
    assert "Picture 1 is 50 x 90: scaled to 96 x 64 in proportion, and 63 % of its height cut off." in host.text()
