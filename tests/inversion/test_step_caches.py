"""EasyCache and LazyCache in front of DDIM Invert and NullText Optimize: left out, by name."""

import comfy_extras.nodes_post_processing  # noqa: F401  (first: nodes_latent and it import each other)
import pytest
import torch
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_model_advanced import RescaleCFG
from palimpsest.nodes.inversion import DDIMInvert
from palimpsest.nodes.inversion_null_text import NullTextOptimize

from ..tiny_models import tiny_cond, tiny_latent, tiny_model
from .test_nodes import schedule

CACHES = {"EasyCache": EasyCacheNode, "LazyCache": LazyCacheNode}


@pytest.fixture(autouse=True)
def as_in_the_host():
    with torch.inference_mode():
        yield


def cached(model, name: str):
    """As eager to skip calls as the node can be."""
    return CACHES[name].execute(model, 3.0, 0.0, 1.0, False).args[0]


def inverted(model, cfg: float):
    negative = tiny_cond("sd1", seed=1)
    latent, sigmas = {"samples": tiny_latent("sd1")}, schedule(model, 5)
    return DDIMInvert.execute(model, latent, sigmas, cfg=cfg, positive=tiny_cond("sd1"), negative=negative).args[0]


@pytest.mark.parametrize("cfg", [1.0, 2.0])
@pytest.mark.parametrize("name", CACHES)
def test_an_inversion_is_the_one_without_the_cache(name, cfg, caplog):
    model = tiny_model("sd1")
    assert torch.equal(inverted(cached(model, name), cfg).latents, inverted(model, cfg).latents)
    assert f"{name} skips model calls" in caplog.text


@pytest.mark.parametrize("patched", [False, True], ids=["plain guidance", "RescaleCFG"])
@pytest.mark.parametrize("name", CACHES)
def test_a_fit_is_the_one_without_the_cache(name, patched):
    model = tiny_model("sd1")
    trajectory = inverted(model, 1.0)
    model = RescaleCFG().patch(model, 0.7)[0] if patched else model
    fits = [
        NullTextOptimize.execute(one, trajectory, tiny_cond("sd1"), cfg=5.0, inner_steps=2, tolerance=1e-9).args[0]
        for one in (model, cached(model, name))
    ]
    assert all(torch.equal(one[0], other[0]) for one, other in zip(*fits, strict=True))
