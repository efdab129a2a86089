"""The sketch nodes through POST /prompt: trained, saved, loaded, guided; twice, interrupted, and with bad input."""

import io
import time

import numpy as np
import pytest
import torch
from palimpsest.guidance.sketch.files import read_predictor
from palimpsest.papercut.edge_quality import FILE as EDGES
from palimpsest.papercut.train_edges import PREFIX, SETTINGS, draw_pairs, prompt
from PIL import Image, ImageDraw

from ..host.prompts import Graph, Scene, latent, run

SIDE = 64


def drawn(place: int, colour: str, ground: str) -> Image.Image:
    picture = Image.new("RGB", (SIDE, SIDE), ground)
    ImageDraw.Draw(picture).rectangle((8 + place, 12, 36 + place, 44), outline=colour)
    return picture


@pytest.fixture(scope="module")
def folder(host):
    """Pictures and their edges in the host's input folder, for its dataset nodes, and a sketch."""
    for name, ground in (("sketch_pictures", "#b0c0d0"), ("sketch_edges", "black")):
        place = host.base / "input" / name
        place.mkdir(parents=True, exist_ok=True)
        for i in range(5):
            drawn(4 * i, "white" if ground == "black" else "#802010", ground).save(place / f"{i}.png")
    drawn(6, "black", "white").save(host.base / "input" / "sketch.png")
    Image.new("RGB", (SIDE, SIDE), "white").save(host.base / "input" / "blank.png")
    Image.new("RGB", (2 * SIDE, SIDE), "white").save(host.base / "input" / "wide.png")
    return host.base / "output" / "edge_predictors"


class SketchScene(Scene):
    """A tiny model, with what trains a predictor for it and what draws by one."""

    def trained(self, **more) -> list:
        pictures, edges = (
            [self.add("LoadImageDataSetFromFolder", folder=f"sketch_{name}"), 0] for name in ("pictures", "edges")
        )
        settings = {"steps": 24, "batch_size": 2, "detail": "2", "learning_rate": 0.002, **more}
        node = self.add(
            "PalimpsestEdgePredictorTrain",
            model=self.model,
            vae=self.vae,
            images=pictures,
            edges=edges,
            conditioning=self.positive,
            **settings,
        )
        return [node, 0]

    def saved(self, predictor: list, name: str) -> str:
        return self.add("PalimpsestSaveEdgePredictor", edge_predictor=predictor, filename_prefix=name)

    def loaded(self, name: str) -> list:
        return [self.add("PalimpsestLoadEdgePredictor", file=name, model=self.model), 0]

    def guided(self, predictor: list, sketch: str = "sketch.png", **more) -> None:
        picture = [self.add("LoadImage", image=sketch), 0]
        node = self.add(
            "PalimpsestEdgePredictorGuidance",
            model=self.model,
            edge_predictor=predictor,
            sketch=picture,
            **{"strength": 1.6, "end_percent": 0.5, **more},
        )
        self.model = [node, 0]


@pytest.fixture(scope="module")
def files(host, folder):
    """A trained predictor for each family, as Load Edge Predictor lists it."""
    names = {}
    for family in ("sd1", "sd2", "sdxl"):
        scene = SketchScene(family)
        scene.saved(scene.trained(), f"tiny-{family}")
        run(host.client, scene)
        names[family] = f"tiny-{family}_00001_.safetensors"
        assert (folder / names[family]).exists()
    assert not list(folder.glob("unfinished_training*"))
    return names


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_saved_predictor_guides_the_stock_sampler_twice_alike(host_client, files, family):
    results = []
    for strength in (1.6, 1.6, 0.0, None):
        scene = SketchScene(family)
        if strength is not None:
            scene.guided(scene.loaded(files[family]), strength=strength)
        saved = scene.stock()
        if len(results) == 1:
            host_client.free()
        results.append(latent(host_client, run(host_client, scene), saved))
    guided, again, off, plain = results
    assert torch.equal(guided, again) and torch.isfinite(guided).all()
    assert torch.equal(off, plain) and not torch.allclose(guided, plain, atol=1e-3)


def test_an_interrupted_run_leaves_nothing_behind(host_client, files):
    def scene(steps: int) -> tuple[SketchScene, str]:
        one = SketchScene("sd1")
        one.guided(one.loaded(files["sd1"]), end_percent=1.0)
        one.sigmas = [one.add("BasicScheduler", model=one.model, scheduler="normal", steps=steps, denoise=1.0), 0]
        return one, one.stock()

    before, saved = scene(6)
    wanted = latent(host_client, run(host_client, before), saved)
    identifier = host_client.post(scene(2000)[0].nodes)
    time.sleep(2.0)
    host_client.interrupt()
    assert host_client.wait(identifier).status == "interrupted"
    after, saved = scene(6)
    after.add("PreviewAny", source=["1", 0])  # another prompt, so that the sampling is not taken from the cache
    host_client.free()
    assert torch.equal(latent(host_client, run(host_client, after), saved), wanted)


def test_an_interrupted_training_can_be_continued_from_its_autosave(host_client, files, folder):
    settings = {"steps": 300, "held_out": 0.0}
    scene = SketchScene("sd1")
    scene.saved(scene.trained(**settings), "whole")
    run(host_client, scene)
    scene = SketchScene("sd1")
    scene.saved(scene.trained(**settings, autosave="half_way"), "never")
    identifier = host_client.post(scene.nodes)
    path = folder / "half_way_00001_.safetensors"
    end = time.monotonic() + 240
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.05)
    host_client.interrupt()
    assert host_client.wait(identifier).status == "interrupted"
    assert 0 < read_predictor(path).spec.facts["steps"] < 300
    scene = SketchScene("sd1")
    scene.saved(scene.trained(**settings, continue_from=scene.loaded(path.name), autosave="half_way"), "continued")
    run(host_client, scene)
    whole, continued = (read_predictor(folder / f"{name}_00001_.safetensors") for name in ("whole", "continued"))
    for one, other in zip(*(p.network.state_dict().values() for p in (whole, continued)), strict=True):
        assert torch.equal(one, other)
    assert path.exists(), "the earlier training's file was deleted"
    assert not (folder / "half_way_00002_.safetensors").exists()


def test_a_training_on_encoded_edges_a_style_and_a_preview(host_client, files):
    scene = SketchScene("sd1")
    paper = scene.trained(target="encoded edges (paper)")
    picture = [scene.add("LoadImage", image="sketch.png"), 0]
    shown = []
    for predictor in (paper, scene.trained(continue_from=scene.loaded(files["sd1"]), adapt_style=True)):
        node = scene.add(
            "PalimpsestEdgePredictorPreview",
            model=scene.model,
            vae=scene.vae,
            edge_predictor=predictor,
            image=picture,
            percents="0.2, 0.6",
            conditioning=scene.positive,
            edges=picture,
        )
        shown.append(scene.add("PreviewImage", images=[node, 0]))
    scene.guided(paper, vae=scene.vae)
    saved = scene.stock()
    result = run(host_client, scene)
    assert torch.isfinite(latent(host_client, result, saved)).all()
    for node in shown:
        panel = Image.open(io.BytesIO(host_client.view(result.files(node)[0])))
        assert panel.width > 4 * 300


def test_a_training_stops_where_it_no_longer_helps(host_client, files, folder):
    scene = SketchScene("sd1")
    scene.saved(scene.trained(steps=400, learning_rate=1e-6, held_out=0.25), "stopped")
    run(host_client, scene)
    facts = read_predictor(folder / "stopped_00001_.safetensors").spec.facts
    assert facts["held_out_pictures"] == 1 and 100 <= facts["steps"] <= 200


def test_papercuts_own_training_runs_on_stock_nodes_and_drops_half_of_its_prompts(host, host_client, folder):
    """As `papercut/train_edges.py` trains the shipped predictor, in short: the checkpoint's CLIP encodes captions."""
    draw_pairs(host.base / "input" / "sketch_pairs", 5)
    settings = {**SETTINGS, "held_out": 0.2}
    result = host_client.run(prompt("sketch_pairs", 10, 2, settings, None))
    assert result.status == "success", result.error
    spec = read_predictor(folder / f"{PREFIX}_00001_.safetensors").spec
    wanted = {"steps": 10, "pictures": 5, "held_out_pictures": 1, "prompts_dropped": 0.5}
    assert {name: spec.facts[name] for name in wanted} == wanted and spec.facts["final_loss"] < 1.0
    shipped = read_predictor(EDGES).spec
    same = ("family", "latent_format", "taps", "channels", "target", "detail", "widths", "sigma_low", "sigma_high")
    assert all(getattr(spec, name) == getattr(shipped, name) for name in same)
    assert shipped.facts["pictures"] <= 200 and shipped.facts["minutes"] <= 10 and shipped.facts["threads"] <= 2


def test_a_model_in_half_precision_is_learned_from_and_guided(host_client, files, folder):
    """Its features are those of the whole model but for roundings; no gradient is lost in them."""
    found = []
    for state in ("whole", "half"):
        scene = SketchScene("sd1", state=state)
        scene.guided(scene.loaded(files["sd1"]))
        saved = scene.stock()
        found.append(latent(host_client, run(host_client, scene), saved))
    whole, half = found
    assert torch.isfinite(half).all() and 0 < (half - whole).abs().mean() < 0.2 * whole.abs().mean()
    scene = SketchScene("sd1", state="half")
    scene.saved(scene.trained(), "tiny-half")
    run(host_client, scene)
    losses = [
        read_predictor(folder / name).spec.facts["final_loss"]
        for name in ("tiny-half_00001_.safetensors", files["sd1"])
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_what_is_no_number_is_a_sentence_in_training_and_guidance(host_client, files):
    scene = SketchScene("sd1", state="damaged")
    scene.saved(scene.trained(), "never")
    assert "The loss at step 1 is not a number: lower the learning rate" in error_of(host_client, scene)
    scene = SketchScene("sd1", state="damaged")
    scene.guided(scene.loaded(files["sd1"]))
    scene.stock()
    error = error_of(host_client, scene)
    assert "The gradient of the sketch" in error and "not numbers" in error and "--force-fp32" in error


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2s_ancestral"])
@pytest.mark.parametrize("anchored_first", [True, False])
def test_a_local_sketch_edit_keeps_the_rest_to_the_bit(host_client, files, sampler, anchored_first):
    scene = SketchScene("sd1", batch=1)
    mask = [scene.add("SolidMask", value=0.0, width=SIDE, height=SIDE), 0]
    patch = [scene.add("SolidMask", value=1.0, width=SIDE // 2, height=SIDE // 2), 0]
    mask = [scene.add("MaskComposite", destination=mask, source=patch, x=0, y=0, operation="add"), 0]
    trajectory = [
        scene.add(
            "PalimpsestDDIMInvert",
            model=scene.model,
            latent=scene.latent,
            sigmas=scene.sigmas,
            positive=scene.positive,
            cfg=1.0,
            refinement=0,
        ),
        0,
    ]
    source = scene.save(scene.latent)

    def anchor() -> None:
        anchored = scene.add("PalimpsestTrajectoryAnchor", model=scene.model, trajectory=trajectory, mask=mask)
        scene.model = [anchored, 0]

    for part in (anchor, lambda: scene.guided(scene.loaded(files["sd1"]), mask=mask))[:: 1 if anchored_first else -1]:
        part()
    guider = scene.add("CFGGuider", model=scene.model, positive=scene.positive, negative=scene.negative, cfg=3.0)
    sampled = scene.add(
        "SamplerCustomAdvanced",
        noise=[scene.add("RandomNoise", noise_seed=5), 0],
        guider=[guider, 0],
        sampler=[scene.add("KSamplerSelect", sampler_name=sampler), 0],
        sigmas=scene.sigmas,
        latent_image=scene.latent,
    )
    saved = scene.save([sampled, 0])
    result = run(host_client, scene)
    before, after = latent(host_client, result, source), latent(host_client, result, saved)
    kept = torch.ones(SIDE // 8, SIDE // 8, dtype=torch.bool)
    kept[: SIDE // 16, : SIDE // 16] = False
    assert torch.equal(before[..., kept], after[..., kept])
    assert not torch.allclose(before[..., ~kept], after[..., ~kept], atol=1e-3)


def test_best_seed_returns_a_noise_of_the_hosts_own(host_client, files):
    scene = SketchScene("sd1", batch=1)
    predictor = scene.loaded(files["sd1"])
    scene.guided(predictor)
    best = scene.add(
        "PalimpsestBestSeed",
        model=scene.model,
        positive=scene.positive,
        negative=scene.negative,
        cfg=3.0,
        latent_image=scene.latent,
        sigmas=scene.sigmas,
        seed=40,
        candidates=3,
        steps=2,
        edge_predictor=predictor,
        sketch=[scene.add("LoadImage", image="sketch.png"), 0],
    )
    guider = scene.add("CFGGuider", model=scene.model, positive=scene.positive, negative=scene.negative, cfg=3.0)
    sampler = scene.add("KSamplerSelect", sampler_name="euler")

    def sampled(noise: list) -> str:
        node = scene.add(
            "SamplerCustomAdvanced",
            noise=noise,
            guider=[guider, 0],
            sampler=[sampler, 0],
            sigmas=scene.sigmas,
            latent_image=scene.latent,
        )
        return scene.save([node, 0])

    by_noise = sampled([best, 0])
    by_seed = sampled([scene.add("RandomNoise", noise_seed=[best, 1]), 0])
    drafts = scene.save([best, 2])
    result = run(host_client, scene)
    assert torch.equal(latent(host_client, result, by_noise), latent(host_client, result, by_seed))
    assert latent(host_client, result, drafts).shape[0] == 3
    lines = result.texts(best)[0].splitlines()
    scores = [float(line.split(":")[1]) for line in lines]
    assert scores == sorted(scores) and {line.split(":")[0] for line in lines} == {f"seed {s}" for s in (40, 41, 42)}


def best_scores(client, files, cut: bool = False, combined: bool = False) -> list[str] | str:
    """The report of Best Seed for two seeds, or its error."""
    scene = SketchScene("sd1", batch=1)
    predictor = scene.loaded(files["sd1"])
    if cut:
        node = scene.add(
            "ContextWindowsManual",
            model=scene.model,
            context_length=1,
            context_overlap=0,
            context_stride=1,
            context_schedule="standard_static",
            closed_loop=False,
            fuse_method="pyramid",
            dim=0,
            freenoise=False,
            cond_retain_index_list="",
            split_conds_to_windows=False,
            latent_retain_index_list="",
            causal_window_fix=True,
        )
        scene.model = [node, 0]
    positive = scene.positive
    if combined:
        positive = [scene.add("ConditioningCombine", conditioning_1=positive, conditioning_2=positive), 0]
    best = scene.add(
        "PalimpsestBestSeed",
        model=scene.model,
        positive=positive,
        negative=scene.negative,
        cfg=3.0,
        latent_image=scene.latent,
        sigmas=scene.sigmas,
        seed=40,
        candidates=2,
        steps=2,
        edge_predictor=predictor,
        sketch=[scene.add("LoadImage", image="sketch.png"), 0],
    )
    scene.add("PreviewAny", source=[best, 3])
    return error_of(client, scene) if cut else run(client, scene).texts(best)[0].splitlines()


def test_best_seed_takes_a_prompt_combined_with_itself_as_the_prompt(host_client, files):
    found = [dict(line.split(": ") for line in best_scores(host_client, files, combined=c)) for c in (False, True)]
    assert found[0].keys() == found[1].keys()
    assert all(float(found[0][seed]) == pytest.approx(float(found[1][seed]), rel=1e-2) for seed in found[0])


def test_best_seed_refuses_context_windows(host_client, files):
    assert "in parts" in best_scores(host_client, files, cut=True)


def test_sketch_prepare_shows_clean_strokes_in_the_size_asked_for(host_client, folder):
    graph = Graph()
    picture = graph.add("LoadImage", image="sketch.png")
    node = graph.add(
        "PalimpsestSketchPrepare",
        image=[picture, 0],
        width=128,
        height=96,
        fit="pad",
        sensitivity=0.5,
        drop_specks=4,
        thin=True,
    )
    shown = graph.add("PreviewImage", images=[node, 0])
    pixels = np.asarray(Image.open(io.BytesIO(host_client.view(run(host_client, graph).files(shown)[0]))))
    assert pixels.shape[:2] == (96, 128) and 150 < (pixels[..., 0] > 128).sum() < 700


def error_of(client, scene: Graph) -> str:
    result = client.run(scene.nodes)
    assert result.status == "error"
    return result.error


@pytest.mark.parametrize("sketch,words", [("blank.png", "The sketch is blank"), ("wide.png", "The sketch is blank")])
def test_a_blank_sketch_is_a_sentence(host_client, files, sketch, words):
    scene = SketchScene("sd1")
    scene.guided(scene.loaded(files["sd1"]), sketch)
    scene.stock()
    assert words in error_of(host_client, scene)


@pytest.mark.parametrize(
    "colours,said,unsaid",
    [
        (("black", "white"), "dark strokes on light paper; it was inverted", "it is coloured"),
        (("#2030c0", "#f4f0d8"), "The sketch is coloured", "the sketch is blank"),
        (("white", "black"), "", "it was inverted"),
    ],
    ids=["inverted", "coloured", "white on black"],
)
def test_how_a_sketch_was_read_is_said(host, host_client, files, colours, said, unsaid):
    """Ink of any colour gives the same strokes; on dark ink and coloured ink the node says what it did."""
    before = len(host.text())
    name = f"sketch_{colours[0].strip('#')}.png"
    drawn(7, *colours).save(host.base / "input" / name)
    scene = SketchScene("sd1")
    scene.guided(scene.loaded(files["sd1"]), name)
    shown = scene.add("PreviewImage", images=[scene.model[0], 1])
    pixels = np.asarray(Image.open(io.BytesIO(host_client.view(run(host_client, scene).files(shown)[0]))))
    log = host.text()[before:]
    assert said in log and unsaid not in log
    assert ((pixels[..., 0] > 128) == (np.asarray(drawn(7, "white", "black"))[..., 0] > 128)).mean() > 0.995


def test_other_families_are_sentences(host_client, files):
    scene = SketchScene("sd1")
    scene.guided([scene.add("PalimpsestLoadEdgePredictor", file=files["sdxl"]), 0])
    scene.stock()
    assert "trained for a model of the family sdxl" in error_of(host_client, scene)
    scene = SketchScene("flux")
    scene.saved(scene.trained(), "never")
    assert "UNet of Stable Diffusion 1, 2 and SDXL" in error_of(host_client, scene)


def test_pictures_and_edges_that_do_not_pair_are_a_sentence(host_client, folder):
    scene = SketchScene("sd1")
    edges = [scene.add("LoadImage", image="sketch.png"), 0]
    pictures = [scene.add("LoadImageDataSetFromFolder", folder="sketch_pictures"), 0]
    node = scene.add(
        "PalimpsestEdgePredictorTrain",
        model=scene.model,
        vae=scene.vae,
        images=pictures,
        edges=edges,
        conditioning=scene.positive,
        steps=10,
        batch_size=2,
    )
    scene.saved([node, 0], "never")
    assert "5 pictures and 1 edge pictures" in error_of(host_client, scene)


def test_ink_on_a_transparent_layer_is_read_through_load_images_mask(host_client, folder):
    layer = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    ImageDraw.Draw(layer).rectangle((14, 12, 42, 44), outline=(0, 0, 0, 255))
    layer.save(folder.parent.parent / "input" / "layer.png")
    graph = Graph()
    picture = graph.add("LoadImage", image="layer.png")
    settings = {"width": 0, "height": 0, "fit": "pad", "sensitivity": 0.5, "drop_specks": 4, "thin": True}
    node = graph.add("PalimpsestSketchPrepare", image=[picture, 0], transparency=[picture, 1], **settings)
    shown = graph.add("PreviewImage", images=[node, 0])
    pixels = np.asarray(Image.open(io.BytesIO(host_client.view(run(host_client, graph).files(shown)[0]))))
    drawn_lines = np.asarray(layer)[..., 3] > 0
    assert ((pixels[..., 0] > 128) == drawn_lines).mean() > 0.995
    graph = Graph()
    picture = graph.add("LoadImage", image="layer.png")
    graph.add("PalimpsestSketchPrepare", image=[picture, 0], **settings)
    graph.add("PreviewImage", images=["2", 0])
    assert "connect Load Image's MASK as transparency" in error_of(host_client, graph)


def test_the_blank_page_of_sketch_prepare_is_a_sentence(host_client, folder):
    graph = Graph()
    picture = graph.add("LoadImage", image="blank.png")
    graph.add(
        "PalimpsestSketchPrepare",
        image=[picture, 0],
        width=0,
        height=0,
        fit="pad",
        sensitivity=0.5,
        drop_specks=4,
        thin=True,
    )
    graph.add("PreviewImage", images=["2", 0])
    assert "No strokes are left" in error_of(host_client, graph)


@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_stock_patch_that_writes_into_features_stands_beside_the_guidance(host_client, files, place):
    results = []
    for strength in (1.6, 0.0):
        scene = SketchScene("sd1")
        steps = [
            lambda: scene.guided(scene.loaded(files["sd1"]), strength=strength),
            lambda: setattr(
                scene, "model", [scene.add("FreeU_V2", model=scene.model, b1=1.3, b2=1.4, s1=0.9, s2=0.2), 0]
            ),
        ]
        for step in steps if place == "behind" else reversed(steps):
            step()
        saved = scene.stock()
        results.append(latent(host_client, run(host_client, scene), saved))
    guided, off = results
    assert torch.isfinite(guided).all() and not torch.allclose(guided, off, atol=1e-3)
