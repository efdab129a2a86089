"""Results by content: bounded, the oldest let go first, and none outlives its model."""

import gc
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from palimpsest.host.content_cache import ModelCache, byte_size


class Network(torch.nn.Module):
    """What hangs behind a MODEL, as far as the cache is concerned."""


def model():
    return SimpleNamespace(model=Network())


@dataclass(frozen=True)
class Result:
    weights: dict
    losses: tuple


def test_the_cache_is_bounded_and_lets_the_oldest_go():
    cache, own = ModelCache(limit=3 * 400), model()
    for name in "abc":
        cache.put(own, name, torch.zeros(100))
    cache.get("a")
    cache.put(own, "d", torch.ones(100))
    assert cache.get("b") is None and cache.get("a") is not None and len(cache) == 3
    cache.put(own, "large", torch.zeros(1000))
    assert cache.get("large") is None and len(cache) == 3
    cache.put(own, None, torch.zeros(1))
    assert len(cache) == 3 and cache.get(None) is None


def test_all_tensors_of_a_result_are_counted():
    result = Result({"up": torch.zeros(10), "down": torch.zeros(5, dtype=torch.float16)}, (1.0, 2.0))
    assert byte_size(result) == 50 and byte_size([result, torch.zeros(1)]) == 54


def test_results_go_with_their_model_and_with_no_other():
    cache, first, second = ModelCache(limit=10**6), model(), model()
    cache.put(first, "a", torch.zeros(3))
    cache.put(second, "b", torch.ones(3))
    cache.put(first, "c", torch.zeros(3))
    first.model.to("cpu")
    gc.collect()
    assert len(cache) == 3
    del first
    gc.collect()
    assert cache.get("a") is None and cache.get("c") is None
    assert torch.equal(cache.get("b"), torch.ones(3))
