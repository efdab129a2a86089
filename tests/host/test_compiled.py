"""The host's torch.compile beside the pack: nothing of ours is left out without a word, in either order of nodes."""

import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

from ..tiny_models import tiny_model
from .techniques import PATCHES, RUNS, sampled


@pytest.fixture(autouse=True)
def as_in_the_host():
    with torch.inference_mode():
        yield


def compiled(model):
    """As the stock node does it, with a backend that needs no compiler."""
    clone = model.clone()
    set_torch_compile_wrapper(model=clone, backend="eager", options={"guard_filter_fn": skip_torch_compile_dict})
    return clone


@pytest.fixture(scope="module")
def models():
    """(the model, the same one compiled, which has run before)."""
    with torch.inference_mode():
        model = tiny_model("sd1")
        fast = compiled(model)
        sampled(fast)
        return model, fast


@pytest.mark.parametrize("technique", PATCHES)
@pytest.mark.parametrize("order", ["before", "behind"])
def test_a_patch_does_in_a_compiled_model_what_it_does_in_any(models, technique, order, caplog):
    model, fast = models
    plain = sampled(fast)[0]
    wanted = PATCHES[technique](model)
    found = PATCHES[technique](fast) if order == "before" else PATCHES[technique](model, compiled)
    assert all(torch.allclose(one, other, atol=1e-3, rtol=1e-3) for one, other in zip(found, wanted))
    assert technique == "anchor" or "uncompiled" in caplog.text
    # What the compiled model does without the patch is as before.
    assert torch.equal(sampled(fast)[0], plain)


@pytest.mark.parametrize("technique", RUNS)
def test_a_run_of_ours_is_the_same_in_a_compiled_model(models, technique):
    model, fast = models
    plain = sampled(fast)[0]
    for one, other in zip(RUNS[technique](fast), RUNS[technique](model)):
        assert torch.allclose(one, other, atol=1e-3, rtol=1e-3)
    assert torch.equal(sampled(fast)[0], plain)


@pytest.mark.parametrize("technique", ["Prompt-to-Prompt", "sketch guidance", "Attention Blend", "inversion"])
def test_a_network_that_another_pack_has_compiled(models, technique):
    """It stands in the network's place, and is a UNet all the same."""
    model, _ = models
    other = model.clone()
    other.add_object_patch("diffusion_model", torch.compile(model.model.diffusion_model, backend="eager"))
    if technique in RUNS:
        for one, wanted in zip(RUNS[technique](other), RUNS[technique](model)):
            assert torch.allclose(one, wanted, atol=1e-3, rtol=1e-3)
    else:
        with pytest.raises(ValueError, match="take the node that compiles it off"):
            PATCHES[technique](other)
