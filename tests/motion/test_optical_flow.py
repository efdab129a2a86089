"""The cached flow network is torchvision's own RAFT-large, number for number, and leaves no trace in it."""

from types import SimpleNamespace

import pytest
import torch
from palimpsest.host.gradients import normalise
from palimpsest.host.motion import optical_flow
from palimpsest.host.motion.optical_flow import (
    LARGEST,
    SourceFlow,
    estimate_each,
    estimate_flow,
    memory_of,
    require_optical_flow,
    working_size,
)
from torchvision.models.optical_flow import raft_large


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    with torch.inference_mode():
        model = raft_large(weights=None).eval()
    normalise(model)
    return model


def pictures(height=128, width=136, batch=1):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, batch, 3, height, width, generator=generator)


def test_the_estimate_and_its_gradient_equal_the_librarys(network):
    source, picture = pictures()
    for estimate in (
        lambda p: SourceFlow(network, source, updates=2)(p),
        lambda p: network(source * 2 - 1, p * 2 - 1, num_flow_updates=2)[-1].permute(0, 2, 3, 1),
    ):
        leaf = picture.clone().requires_grad_()
        flow = estimate(leaf)
        (gradient,) = torch.autograd.grad(flow.square().sum(), leaf)
        flow = flow.detach()
        if estimate.__code__.co_names[0] == "SourceFlow":
            mine = flow, gradient
    assert torch.allclose(mine[0], flow, atol=1e-3 * float(flow.abs().max()))
    assert torch.allclose(mine[1], gradient, atol=1e-3 * float(gradient.abs().max()))


def test_the_source_is_read_once_and_the_network_keeps_nothing(network):
    source, picture = pictures()
    calls = []
    hook = network.context_encoder.register_forward_hook(lambda *_: calls.append(1))
    before = network.corr_block.corr_pyramid
    flow = SourceFlow(network, source, updates=1)
    with torch.no_grad():
        assert torch.equal(flow(picture), flow(picture))
    hook.remove()
    assert len(calls) == 1 and network.corr_block.corr_pyramid is before


def test_other_sizes_are_fitted_and_their_vectors_scaled_back(network):
    assert working_size(256, 256) == (256, 256)
    assert working_size(100, 300) == (128, 384)
    assert working_size(1024, 768, largest=512) == (512, 384)
    source, picture = pictures(90, 130, batch=2)
    flow = estimate_flow(network, source, picture, updates=1)
    assert flow.shape == (2, 90, 130, 2) and torch.isfinite(flow).all()


@pytest.fixture
def loaded(network, monkeypatch):
    """The network as the host's OPTICAL_FLOW, and what the host was asked to make room for."""
    asked = []
    management = optical_flow.comfy.model_management
    monkeypatch.setattr(management, "load_models_gpu", lambda models, memory_required=0: asked.append(memory_required))
    return SimpleNamespace(model=network, load_device=torch.device("cpu"), asked=asked)


def test_large_pictures_are_compared_smaller_pair_after_pair_with_room_made_for_one(network, loaded):
    source, picture = pictures(256, 256, batch=3)
    seen = []
    hook = network.feature_encoder.register_forward_hook(lambda _, given, __: seen.append(tuple(given[0].shape)))
    flow = estimate_each(loaded, source, picture, updates=1, largest=128)
    hook.remove()
    assert seen == [(1, 3, 128, 128)] * 6 and flow.shape == (3, 256, 256, 2)
    assert torch.allclose(flow[1:2], estimate_flow(network, source[1:2], picture[1:2], updates=1, largest=128))
    assert loaded.asked == [memory_of(128, 128)]
    # What would take gigabytes does not, and small pictures are compared as they are.
    assert memory_of(*working_size(1080, 1920, LARGEST)) < 0.8e9 < 3e9 < memory_of(1080, 1920)
    assert working_size(256, 256, LARGEST) == (256, 256)


def test_an_estimate_can_be_interrupted_and_says_when_memory_is_short(loaded, monkeypatch):
    source, picture = pictures()
    management = optical_flow.comfy.model_management
    management.interrupt_current_processing()
    with pytest.raises(management.InterruptProcessingException):
        estimate_each(loaded, source, picture, updates=1)

    def short(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(optical_flow, "estimate_flow", short)
    with pytest.raises(MemoryError, match=r"estimate of the flow.*use a smaller picture"):
        estimate_each(loaded, source, picture, updates=1)


def test_other_things_are_refused_by_name(network):
    assert require_optical_flow(SimpleNamespace(model=network)) is network
    for other in (torch.zeros(1, 4, 4, 2), SimpleNamespace(model=torch.nn.Conv2d(1, 1, 1)), None):
        with pytest.raises(ValueError, match="Load Optical Flow Model"):
            require_optical_flow(other)
