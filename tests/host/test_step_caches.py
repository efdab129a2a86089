"""Step caches, the stock ones and unknown ones: loops of ours evaluate every call, stock sampling stays as wished."""

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode

from ..tiny_models import tiny_model
from .prompts import Scene, latent, run
from .techniques import RUNS

pytestmark = pytest.mark.xfail(
    strict=True, reason="runs of our own are answered by step caches"
)
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


@pytest.mark.parametrize("technique", ["Best Seed", "faithful motion"])
@pytest.mark.parametrize("name", STOCK)
def test_a_run_of_ours_is_the_one_without_the_cache(model, without_cache, name, technique, caplog):
    found = RUNS[technique](cached(model, name))
    assert all(torch.equal(one, other) for one, other in zip(found, without_cache[technique]))
    assert f"{name} skips model calls" in caplog.text


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


@pytest.mark.parametrize("technique", ["inversion", "heat map"])
@pytest.mark.parametrize("place", UNKNOWN)
def test_an_unknown_cache_is_found_by_its_calls(model, place, technique):
    with pytest.raises(ValueError, match="caches or skips|cache parts of the network"):
        RUNS[technique](UNKNOWN[place](model))


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
                ), 0,
            ]  # fmt: skip
        ours = scene.euler()
        results.append(latent(host_client, run(host_client, scene), ours))
    assert torch.equal(*results)
