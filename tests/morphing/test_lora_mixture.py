"""Per-row mixtures of LoRAs equal merged weights, for every kind of layer."""

import itertools

import pytest
import torch
from palimpsest.morphing.lora import (
    LINEAR,
    LayerMixture,
    LowRank,
    convolution,
    group_norm,
    layer_norm,
    rows_for,
)
from palimpsest.morphing.schedule import Alphas
from torch.nn import Conv1d, Conv2d, Conv3d, GroupNorm, LayerNorm, Linear

WEIGHTS = Alphas((0.0, 0.3, 1.0, 1.6, 2.0), 3).weights()


def factors(out, into, rank=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    return LowRank(draw(rank, into), draw(out, rank))


def with_change(layer, change, x):
    """The layer with its weight merged with a change."""
    weight = layer.weight.data + change.reshape(layer.weight.shape)
    return torch.func.functional_call(layer, {"weight": weight}, (x,))


def products(loras, row):
    return sum(weight * lora.up @ lora.down.flatten(1) for weight, lora in zip(row, loras))


def mixed_factors(loras, row):
    up = sum(weight * lora.up for weight, lora in zip(row, loras))
    return up @ sum(weight * lora.down.flatten(1) for weight, lora in zip(row, loras))


@pytest.mark.parametrize("mixing, merged", [("product", products), ("factor", mixed_factors)])
def test_a_linear_layer_has_each_rows_merged_weights(mixing, merged):
    layer = Linear(6, 5, dtype=torch.float64)
    loras = [factors(5, 6, seed=seed) for seed in range(3)]
    x = torch.randn(5, 7, 6, dtype=torch.float64)
    mixture = LayerMixture(LINEAR, low=loras, mixing=mixing).select(range(3))
    got = mixture(x, layer(x), WEIGHTS)
    for row in range(5):
        wanted = with_change(layer, merged(loras, WEIGHTS[row]), x[row])
        assert torch.allclose(got[row], wanted, atol=1e-12)


@pytest.mark.parametrize("mixing, merged", [("product", products), ("factor", mixed_factors)])
@pytest.mark.parametrize("geometry", [{"padding": 1}, {"stride": 2, "padding": 1}, {"padding": 2, "dilation": 2}])
@pytest.mark.parametrize("kind", [Conv1d, Conv2d, Conv3d])
def test_a_convolution_has_each_rows_merged_weights(mixing, merged, geometry, kind):
    layer = kind(3, 5, 3, dtype=torch.float64, **geometry)
    dimensions = layer.weight.ndim - 2
    loras = [factors(5, layer.weight[0].numel(), seed=seed) for seed in range(3)]
    loras = [LowRank(lora.down.reshape(4, *layer.weight.shape[1:]), lora.up) for lora in loras]
    x = torch.randn(5, 3, *[8] * dimensions, dtype=torch.float64)
    mixture = LayerMixture(convolution(dimensions, **geometry), low=loras, mixing=mixing).select(range(3))
    got = mixture(x, layer(x), WEIGHTS)
    for row in range(5):
        wanted = with_change(layer, merged(loras, WEIGHTS[row]), x[row : row + 1])
        assert torch.allclose(got[row : row + 1], wanted, atol=1e-12)


def test_gains_biases_and_whole_matrices_mix_too():
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    linear, norm, group = (
        Linear(6, 8, dtype=torch.float64),
        LayerNorm(6, dtype=torch.float64),
        GroupNorm(2, 6, dtype=torch.float64),
    )
    cases = [
        (linear, LINEAR, draw(5, 7, 6)),
        (linear, LINEAR, draw(5, 6)),
        (norm, layer_norm((6,), norm.eps), draw(5, 7, 6)),
        (group, group_norm(2, group.eps), draw(5, 6, 4, 4)),
    ]
    for layer, operation, x in cases:
        full = [draw(*layer.weight.shape), None, draw(*layer.weight.shape)]
        bias = [draw(len(layer.bias)), draw(len(layer.bias)), None]
        got = LayerMixture(operation, full=full, bias=bias).select(range(3))(x, layer(x), WEIGHTS)
        for row, (a, b, c) in enumerate(WEIGHTS):
            weight, added = layer.weight + a * full[0] + c * full[2], layer.bias + a * bias[0] + b * bias[1]
            wanted = torch.func.functional_call(layer, {"weight": weight, "bias": added}, (x[row : row + 1],))
            assert torch.allclose(got[row : row + 1], wanted, atol=1e-12)


def test_loras_of_different_rank_and_layers_mix_by_product():
    loras = [factors(5, 6, rank=2), None, factors(5, 6, rank=7, seed=1)]
    x = torch.randn(5, 7, 6, dtype=torch.float64)
    got = LayerMixture(LINEAR, low=loras).select(range(3))(x, torch.zeros(5, 7, 5, dtype=torch.float64), WEIGHTS)
    for row, (a, _, c) in enumerate(WEIGHTS):
        wanted = x[row] @ (a * loras[0].up @ loras[0].down + c * loras[2].up @ loras[2].down).T
        assert torch.allclose(got[row], wanted, atol=1e-12)
    for others in ([loras[0], loras[2], loras[2]], [loras[0], None, loras[0]]):
        with pytest.raises(ValueError, match="`product`"):
            LayerMixture(LINEAR, low=others, mixing="factor")


@pytest.mark.parametrize("mixing", ["product", "factor"])
def test_a_row_does_not_depend_on_its_neighbours_or_on_unused_loras(mixing):
    mixture = LayerMixture(LINEAR, low=[factors(5, 6, seed=seed) for seed in range(3)], mixing=mixing)
    x, base = torch.randn(5, 7, 6, dtype=torch.float64), torch.randn(5, 7, 5, dtype=torch.float64)
    together = mixture.select(range(3))(x, base, WEIGHTS)
    for row, keys in enumerate([(0,), (0, 1), (1,), (1, 2), (2,)]):
        alone = mixture.select(keys)(x[[row]], base[[row]], WEIGHTS[[row]][:, list(keys)])
        assert torch.allclose(alone[0], together[row], atol=1e-12)


def test_on_a_key_picture_both_mixings_are_that_lora():
    loras = [factors(5, 6, seed=seed) for seed in range(2)]
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    for mixing, (row, lora) in itertools.product(("product", "factor"), enumerate(loras)):
        mixture = LayerMixture(LINEAR, low=loras, mixing=mixing).select(range(2))
        got = mixture(x, torch.zeros(2, 7, 5, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
        assert torch.allclose(got[row], x[row] @ lora.down.T @ lora.up.T, atol=1e-12)


def test_frames_folded_into_the_batch_count_for_their_row():
    weights = torch.eye(2)
    assert torch.equal(rows_for(weights, 6), weights.repeat_interleave(3, 0))
    with pytest.raises(ValueError, match="3 rows"):
        rows_for(weights, 3)
