"""Step caches, the stock ones and unknown ones: loops of ours evaluate every call, stock sampling stays as wished."""

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from palimpsest.host.morphing.attention_blend import blended
from palimpsest.host.morphing.conditioning import morphed
from palimpsest.host.session import with_denoiser
from palimpsest.morphing.schedule import schedule

from ..tiny_models import tiny_cond, tiny_latent, tiny_model
from .prompts import Scene, latent, run
from .techniques import PATCHES, RUNS, sampled

STOCK = {"EasyCache": EasyCacheNode, "LazyCache": LazyCacheNode}


@pytest.fixture(scope="module")
def model():
    with torch.inference_mode():
        return tiny_model("sd1")


@pytest.fixture(autouse=True)
def as_in_the_host():
    with torch.inference_mode():
        yield


def cached(model, name: str):
    """The model behind the stock node, as eager to skip calls as it can be."""
    return STOCK[name].execute(model, 3.0, 0.0, 1.0, False).args[0]


@pytest.fixture(scope="module")
def without_cache(model):
    with torch.inference_mode():
        return {name: technique(model) for name, technique in RUNS.items()}


@pytest.mark.parametrize("name", STOCK)
def test_the_stock_caches_change_a_stock_run(model, name):
    assert not torch.allclose(sampled(cached(model, name))[0], sampled(model)[0], atol=1e-2)


@pytest.mark.parametrize("technique", RUNS)
@pytest.mark.parametrize("name", STOCK)
def test_a_run_of_ours_is_the_one_without_the_cache(model, without_cache, name, technique, caplog):
    found = RUNS[technique](cached(model, name))
    assert all(torch.equal(one, other) for one, other in zip(found, without_cache[technique]))
    assert f"{name} skips model calls" in caplog.text


@pytest.mark.parametrize("technique", PATCHES)
@pytest.mark.parametrize("name", STOCK)
def test_a_stock_run_is_the_users_choice_or_a_sentence(model, name, technique):
    for order in ("before", "behind"):
        add = lambda one: cached(one, name)
        try:
            found = PATCHES[technique](add(model)) if order == "before" else PATCHES[technique](model, add)
        except ValueError as error:
            assert name in str(error) and "off the model" in str(error)
        else:
            assert technique != "sketch guidance" and all(torch.isfinite(one).all() for one in found)


def test_parts_of_a_batch_are_not_answered_with_each_other(model, caplog):
    """Frames two at a time: EasyCache would know them by their prompt alone."""
    alphas = schedule(6, 2)
    positive = morphed([tiny_cond("sd1", seed=seed) for seed in range(2)], alphas)
    run = lambda one: sampled(blended(one, alphas, rows_at_once=2), positive, rows=6)[0]
    assert torch.equal(run(cached(model, "EasyCache")), run(model))
    assert caplog.text.count("EasyCache is left out of this morph") == 1


def every_second(kind: str):
    """An unknown cache at one of the host's wrappers: it answers every second call with the last one's answer."""
    kept = []

    def wrapper(executor, *args, **kwargs):
        if kept:
            return kept.pop()
        kept.append(executor(*args, **kwargs))
        return kept[0]

    def patch(model):
        clone = model.clone()
        clone.add_wrapper_with_key(kind, "unknown", wrapper)
        return clone

    return patch


def function_wrapper(model):
    """An unknown cache as a function round the host's model."""
    kept, clone = [], model.clone()

    def wrapper(apply_model, args):
        if kept:
            return kept.pop()
        kept.append(apply_model(args["input"], args["timestep"], **args["c"]))
        return kept[0]

    clone.set_model_unet_function_wrapper(wrapper)
    return clone


UNKNOWN = {
    "network": every_second(WrappersMP.DIFFUSION_MODEL), "model": every_second(WrappersMP.APPLY_MODEL),
    "batch": every_second(WrappersMP.CALC_COND_BATCH), "function": function_wrapper,
}  # fmt: skip


@pytest.mark.parametrize("technique", RUNS)
@pytest.mark.parametrize("place", UNKNOWN)
def test_an_unknown_cache_is_found_by_its_calls(model, place, technique):
    with pytest.raises(ValueError, match=r"caches or skips|cache parts of the network"):
        RUNS[technique](UNKNOWN[place](model))


@pytest.mark.parametrize("technique", ["inversion", "Best Seed", "faithful motion"])
def test_an_unknown_cache_round_predictions_is_found_too(model, technique):
    with pytest.raises(ValueError, match="caches or skips"):
        RUNS[technique](every_second(WrappersMP.PREDICT_NOISE)(model))


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_transformers_are_counted_too(family):
    model, x = tiny_model(family), tiny_latent(family)
    ask = lambda one: with_denoiser(
        one,
        {"positive": tiny_cond(family)},
        x,
        torch.tensor([0.9, 0.5]),
        lambda session: [session.denoise(x, sigma) for sigma in (0.9, 0.5)],
    )
    assert all(torch.isfinite(one).all() for one in ask(model))
    with pytest.raises(ValueError, match="caches or skips"):
        ask(UNKNOWN["model"](model))


@pytest.mark.parametrize("node", STOCK)
def test_through_the_host(host_client, node):
    """The stock nodes in front of a loop of ours, posted as a prompt."""
    results = []
    for with_cache in (False, True):
        scene = Scene("sd1")
        if with_cache:
            scene.model = [
                scene.add(
                    node, model=scene.model, reuse_threshold=3.0, start_percent=0.0, end_percent=1.0, verbose=False
                ),
                0,
            ]
        ours = scene.euler()
        results.append(latent(host_client, run(host_client, scene), ours))
    assert torch.equal(*results)
