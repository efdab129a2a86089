"""The cached flow network is torchvision's own RAFT-large, number for number, and leaves no trace in it."""

import pytest
import torch
from torchvision.models.optical_flow import raft_large

from palimpsest.host.gradients import normalise
from palimpsest.host.optical_flow import SourceFlow, estimate_flow, require_optical_flow, working_size


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
    for estimate in (lambda p: SourceFlow(network, source, updates=2)(p),
                     lambda p: network(source * 2 - 1, p * 2 - 1, num_flow_updates=2)[-1].permute(0, 2, 3, 1)):
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


def test_other_things_are_refused_by_name(network):
    from types import SimpleNamespace

    assert require_optical_flow(SimpleNamespace(model=network)) is network
    for other in (torch.zeros(1, 4, 4, 2), SimpleNamespace(model=torch.nn.Conv2d(1, 1, 1)), None):
        with pytest.raises(ValueError, match="Load Optical Flow Model"):
            require_optical_flow(other)
