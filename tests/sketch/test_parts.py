"""Nodes that cut the picture or the batch into parts, and prompts of several entries: right, or one sentence."""

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from palimpsest.guidance.sketch.guidance import SketchRecipe
from palimpsest.host.sketch.patch import Sketch, sketch_guided
from palimpsest.nodes.best_seed import BestSeed
from palimpsest.tests.sketch.fixtures import drawing, tiny_predictor
from palimpsest.tests.tiny_models import tiny_cond, tiny_latent, tiny_model

SIGMAS = torch.tensor([14.6, 9.0, 6.0, 4.0, 2.5, 1.5, 0.8, 0.3, 0.0])
AREA = {"area": (4, 4, 2, 2), "strength": 1.0}


@pytest.fixture(scope="module")
def model():
    with torch.inference_mode():
        return tiny_model("sd1")


def windows(model):
    """The batch cut into windows of one picture."""
    with torch.inference_mode():
        return ContextWindowsManualNode.execute(
            model,
            context_length=1,
            context_overlap=0,
            context_schedule="standard_static",
            context_stride=1,
            closed_loop=False,
            fuse_method="pyramid",
            dim=0,
            freenoise=False,
        ).args[0]


def tiled(model):
    """The picture cut into four tiles that are run as one batch, as tiled diffusion nodes do."""

    def wrapper(apply, arguments):
        x, t, c = arguments["input"], arguments["timestep"], dict(arguments["c"])
        h, w = (side // 2 for side in x.shape[-2:])
        tiles = [x[..., i : i + h, j : j + w] for i in (0, h) for j in (0, w)]
        c["c_crossattn"] = c["c_crossattn"].repeat(4, 1, 1)
        a, b, d, e = apply(torch.cat(tiles), t.repeat(4), **c).chunk(4)
        return torch.cat((torch.cat((a, b), -1), torch.cat((d, e), -1)), -2)

    clone = model.clone()
    clone.set_model_unet_function_wrapper(wrapper)
    return clone


def best(model, positive, cfg=2.0, predictor=None):
    with torch.inference_mode():
        sketch = drawing().lines.float()[..., None].expand(-1, -1, -1, 3)
        latent = {"samples": torch.zeros_like(tiny_latent("sd1"))}
        negative = tiny_cond("sd1", seed=1)
        return BestSeed.execute(
            model,
            positive,
            latent,
            SIGMAS,
            seed=3,
            candidates=2,
            steps=2,
            cfg=cfg,
            negative=negative,
            edge_predictor=predictor or tiny_predictor(model),
            sketch=sketch,
        ).args[3]


def scores(report):
    found = [line.split(": ") for line in report.splitlines()]
    return {seed: float(score) for seed, score in found}


def sampled(model, rows=1):
    latent = torch.zeros(rows, 4, 8, 8)
    sampler = comfy.samplers.sampler_object("euler")
    guided = sketch_guided(model, tiny_predictor(model), Sketch(drawing()), SketchRecipe())
    conds = tiny_cond("sd1"), tiny_cond("sd1", seed=1)
    with torch.inference_mode():
        noise = comfy.sample.prepare_noise(latent, 7)
        return comfy.sample.sample_custom(guided, noise, 3.0, sampler, SIGMAS, *conds, latent, disable_pbar=True)


@pytest.mark.parametrize("cut", [windows, tiled])
def test_best_seed_names_the_node_that_cuts(model, cut):
    with pytest.raises(ValueError, match="in parts"):
        best(cut(model), tiny_cond("sd1"))


@pytest.mark.parametrize("cut", [windows, tiled])
def test_sketch_guidance_names_the_node_that_cuts(model, cut):
    with pytest.raises(ValueError, match="in parts"):
        sampled(cut(model), rows=2)


def test_a_prompt_combined_with_itself_is_the_prompt(model):
    alone = scores(best(model, tiny_cond("sd1")))
    twice = scores(best(model, [*tiny_cond("sd1"), *tiny_cond("sd1")]))
    assert twice == pytest.approx(alone, rel=1e-3)


def test_prompts_for_areas_are_sampled_and_those_for_the_whole_picture_judged(model):
    area = [[tiny_cond("sd1", seed=2)[0][0], dict(AREA)]]
    assert len(scores(best(model, [*tiny_cond("sd1"), *area]))) == 2
    with pytest.raises(ValueError, match="an entry without an area"):
        best(model, area)


@pytest.mark.parametrize("options", [AREA, {"start_percent": 0.0, "end_percent": 0.6}])
def test_a_prompt_by_which_no_seed_can_be_judged_is_refused_before_any_is_sampled(model, options):
    calls = []
    clone = model.clone()
    clone.set_model_unet_function_wrapper(
        lambda apply, given: calls.append(1) or apply(given["input"], given["timestep"], **given["c"])
    )
    with pytest.raises(ValueError, match="an entry without an area"):
        best(clone, [[tiny_cond("sd1")[0][0], dict(options)]])
    assert not calls


def test_a_prompt_that_has_ended_where_seeds_are_judged_is_a_sentence(model):
    early = [[tiny_cond("sd1")[0][0], {"start_percent": 0.0, "end_percent": 0.6}]]
    with pytest.raises(ValueError, match="an entry without an area"):
        best(model, early)
