"""Prompt List: the series it gives, and a predictor taught by pictures that the model itself paints."""

from palimpsest.guidance.sketch.files import read_predictor
from palimpsest.nodes.sketch_prompts import BUILT_IN, PromptList
from palimpsest.papercut.networks import FILE as CHECKPOINT

from ..host.prompts import Graph, run

CAPTIONS = "a red star on a mint plain ground\n\n  a blue heart on a cream plain ground  "


def test_lines_are_repeated_with_other_seeds_until_there_are_enough():
    prompts, seeds, rows = PromptList.execute(CAPTIONS, 5, 7).args
    one, other = CAPTIONS.split("\n")[0], CAPTIONS.split("\n")[2].strip()
    assert prompts == [one, other, one, other, one]
    assert seeds == [7, 8, 9, 10, 11] and rows is None


def test_the_built_in_prompts_all_differ_and_are_used_without_lines():
    assert len(set(BUILT_IN)) == len(BUILT_IN) == 120
    assert PromptList.execute(" \n ", 3, 0).args[0] == list(BUILT_IN[:3])


def taught(count: int) -> Graph:
    graph = Graph()
    loaded = graph.add("CheckpointLoaderSimple", ckpt_name=CHECKPOINT.name)
    model, clip, vae = ([loaded, i] for i in range(3))
    series = graph.add("PalimpsestPromptList", prompts=CAPTIONS, count=count, seed=1)
    prompt = [graph.add("CLIPTextEncode", clip=clip, text=[series, 0]), 0]
    empty = [graph.add("CLIPTextEncode", clip=clip, text=""), 0]
    start = [graph.add("EmptyLatentImage", width=128, height=128, batch_size=1), 0]
    painted = graph.add(
        "KSampler", model=model, positive=prompt, negative=empty, latent_image=start, seed=[series, 1], steps=3,
        cfg=4.0, sampler_name="euler", scheduler="normal", denoise=1.0,
    )  # fmt: skip
    pictures = [graph.add("VAEDecode", samples=[painted, 0], vae=vae), 0]
    edges = [graph.add("Canny", image=pictures, low_threshold=0.01, high_threshold=0.02), 0]
    trained = graph.add(
        "PalimpsestEdgePredictorTrain", model=model, vae=vae, clip=clip, images=pictures, edges=edges,
        conditioning=prompt, steps=10, batch_size=2, width=64, autosave="",
    )  # fmt: skip
    graph.add("PalimpsestSaveEdgePredictor", edge_predictor=[trained, 0], filename_prefix="taught")
    return graph


def test_the_model_paints_what_its_predictor_learns_from(host):
    folder = host.base / "output" / "edge_predictors"
    before = set(folder.glob("*"))
    run(host.client, taught(count=5))
    (file,) = set(folder.glob("*")) - before
    assert read_predictor(file).spec.facts["pictures"] == 5
