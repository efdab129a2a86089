"""Backward through layers with offloaded weights: a buffer that each layer overwrites without a warning."""

import comfy.ops
import pytest
import torch
from palimpsest.host.recompute import is_offloaded, repeated


class Lending(comfy.ops.manual_cast.Linear):
    """What the host does with an offloaded weight: a copy in a shared buffer, used, then overwritten by the next."""

    def __init__(self, buffer: torch.Tensor):
        super().__init__(6, 6, bias=False)
        self.weight = torch.nn.Parameter(torch.randn(6, 6), requires_grad=False)
        self.buffer = buffer

    def forward(self, x):
        # `.data` is how a raw pointer looks to autograd: the version counter stands still.
        self.buffer.data.copy_(self.weight)
        return torch.nn.functional.linear(x, self.buffer).tanh()


@pytest.fixture
def layers():
    torch.manual_seed(0)
    buffer = torch.zeros(6, 6)
    return [Lending(buffer) for _ in range(4)]


def through(layers, x):
    for layer in layers:
        x = layer(x)
    return x


def test_gradient_is_right_where_autograd_alone_is_wrong(layers):
    x = torch.randn(3, 6, requires_grad=True)
    true = x
    for layer in layers:
        true = torch.nn.functional.linear(true, layer.weight).tanh()
    (expected,) = torch.autograd.grad(true.sum(), x)
    (wrong,) = torch.autograd.grad(through(layers, x).sum(), x)
    assert not torch.allclose(wrong, expected)
    with repeated(layers):
        out = through(layers, x)
        assert torch.equal(out, true)
        (found,) = torch.autograd.grad(out.sum(), x)
    assert torch.allclose(found, expected, atol=1e-7)


def test_forward_is_put_back_after_an_interruption(layers):
    own = lambda x: x
    layers[1].forward = own
    with pytest.raises(KeyboardInterrupt):
        with repeated(layers):
            raise KeyboardInterrupt
    assert "forward" not in layers[0].__dict__ and layers[1].__dict__["forward"] is own


def test_without_gradients_the_layer_runs_as_it_is(layers):
    x = torch.randn(3, 6)
    with repeated(layers):
        assert not through(layers, x).requires_grad
        with torch.no_grad():
            assert not through(layers, x.requires_grad_()).requires_grad


def test_which_layers_are_offloaded():
    cpu, meta = torch.device("cpu"), torch.device("meta")
    layer = comfy.ops.manual_cast.Linear(2, 2)
    assert not is_offloaded(layer, cpu) and is_offloaded(layer, meta)
    assert not is_offloaded(torch.nn.Linear(2, 2), meta)
    resident = comfy.ops.disable_weight_init.Linear(2, 2)
    assert not is_offloaded(resident, meta)
    resident._v = object()
    assert is_offloaded(resident, cpu)
