"""Fitting K LoRAs at once: the loss is the paper's, rows learn alone, and the host's model is left as it was."""

import itertools

import pytest
import torch
from palimpsest.inversion.diffusion import error_weight, noised
from palimpsest.morphing.fit import Branches, LoraRecipe, fit

LEVELS = torch.linspace(0.03, 14.6, 1000)
QUICK = LoraRecipe(rank=4, steps=30, learning_rate=1e-2, check_every=10, checks=4)


class Net(torch.nn.Module):
    """A frozen network with one adapted layer: x0 = f(x) on the channels."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(4, 4, generator=generator) / 2

    def bound(self, branches):
        def denoise(x, sigma):
            tokens = x.movedim(1, -1)
            output = branches.add("layer", tokens, tokens @ self.weight.T)
            return output.movedim(-1, 1) / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)

        return denoise


def fitted(latents, recipe=QUICK, prediction="eps", **options):
    branches = Branches({"layer": (4, 4)}, len(latents), recipe, torch.device("cpu"))
    levels = torch.linspace(0.01, 1, 1000) if prediction == "flow" else LEVELS
    return fit(Net().bound(branches), latents, branches, levels, prediction, recipe, **options)


@pytest.fixture
def latents():
    return torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("prediction", ["eps", "v", "flow"])
def test_the_loss_is_that_of_what_the_network_predicts(prediction):
    generator = torch.Generator().manual_seed(2)
    x0, noise, guess = (torch.randn(2, 4, 5, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    sigma = torch.tensor([0.3, 0.9], dtype=torch.float64)
    x, s = noised(x0, noise, sigma, flow=prediction == "flow"), sigma.reshape(-1, 1, 1, 1)
    alpha = 1 / (1 + s**2).sqrt()
    target, predict = {
        "eps": (noise, lambda x0: (x - x0) / s),
        # Salimans and Ho: v = alpha eps - sigma' x0 of the variance-preserving latent.
        "v": (alpha * noise - s * alpha * x0, lambda x0: alpha * (x - x0) / s - s * alpha * x0),
        "flow": (noise - x0, lambda x0: (x - x0) / s),
    }[prediction]
    direct = ((predict(guess) - target) ** 2).flatten(1).mean(1)
    ours = ((guess - x0) ** 2).flatten(1).mean(1) * error_weight(sigma, prediction)
    assert torch.allclose(ours, direct, rtol=1e-10)


@pytest.mark.parametrize("prediction", ["eps", "v", "flow"])
@pytest.mark.parametrize("samples", [1, 4])
def test_the_loss_falls(latents, prediction, samples):
    recipe = LoraRecipe(rank=4, steps=60, learning_rate=2e-2, check_every=60, samples=samples)
    checks = fitted(latents, recipe, prediction).checks
    assert (checks[60] < 0.97 * checks[0]).all()


@pytest.mark.parametrize("samples", [1, 3])
def test_a_batch_of_pictures_is_as_many_single_fits(latents, samples):
    recipe = LoraRecipe(rank=4, steps=20, learning_rate=1e-2, check_every=5, samples=samples, patience=1, gain=0.05)
    together = fitted(latents, recipe)
    for place in range(3):
        alone = fitted(latents[place : place + 1], recipe)
        one, other = together.layers[place]["layer"], alone.layers[0]["layer"]
        assert torch.allclose(one.up, other.up, atol=1e-5) and torch.allclose(one.down, other.down, atol=1e-5)
        rows = len(alone.losses)
        assert torch.allclose(together.losses[:rows, place], alone.losses[:, 0], rtol=1e-4)


def test_all_start_from_one_draw_and_change_nothing_at_first(latents):
    branches = Branches({"b": (4, 6), "a": (5, 4)}, 3, LoraRecipe(rank=8), torch.device("cpu"))
    for down in branches.down.values():
        assert torch.equal(down[0], down[1]) and torch.equal(down[0], down[2])
    spread = torch.cat([down[0].detach().flatten() for down in branches.down.values()]).std()
    assert 0.5 / 8 < float(spread) < 2 / 8
    x, output = torch.randn(6, 7, 6), torch.randn(6, 7, 4)
    assert torch.equal(branches.add("b", x, output), output)
    again = Branches({"a": (5, 4), "b": (4, 6)}, 1, LoraRecipe(rank=8), torch.device("cpu"))
    assert torch.equal(again.down["b"][0], branches.down["b"][0])


def test_what_was_fitted_is_what_the_branch_did(latents):
    recipe = LoraRecipe(rank=4, steps=10, learning_rate=1e-2, check_every=0)
    branches = Branches({"layer": (4, 4)}, 3, recipe, torch.device("cpu"))
    result = fit(Net().bound(branches), latents, branches, LEVELS, "eps", recipe)
    x, output = torch.randn(3, 7, 4), torch.zeros(3, 7, 4)
    added = branches.add("layer", x, output).detach()
    for place, layers in enumerate(result.layers):
        change = layers["layer"]
        assert torch.allclose(added[place], x[place] @ (change.up @ change.down).T, atol=1e-6)
    assert not result.checks


def test_the_seed_decides(latents):
    ups = [fitted(latents, LoraRecipe(rank=4, steps=5, seed=seed)).layers[0]["layer"].up for seed in (0, 0, 1)]
    assert torch.equal(ups[0], ups[1]) and not torch.equal(ups[0], ups[2])


def test_pictures_that_learn_no_more_rest_at_their_best(latents):
    """At a learning rate that tears, the loss rises: what is kept is the start, and the fit ends early."""
    recipe = LoraRecipe(rank=4, steps=200, learning_rate=5.0, check_every=5, patience=2)
    result = fitted(latents, recipe)
    assert len(result.losses) < 200
    best = torch.stack(list(result.checks.values())).min(0).values
    branches = Branches({"layer": (4, 4)}, 3, recipe, torch.device("cpu"))
    for place, layers in enumerate(result.layers):
        branches.restore(place, [layers["layer"].down, layers["layer"].up])
    kept = fit(Net().bound(branches), latents, branches, LEVELS, "eps", LoraRecipe(rank=4, steps=1, check_every=1))
    assert torch.allclose(kept.checks[0], best, rtol=1e-4)


def test_a_falling_rate_takes_ever_smaller_steps(latents):
    """With next to no weight decay Adam's steps are about as long as the learning rate."""
    ends = {}
    for decay in (False, True):
        recipe = LoraRecipe(rank=4, steps=10, learning_rate=1e-2, weight_decay=0.0, check_every=0, decay=decay)
        branches = Branches({"layer": (4, 4)}, 3, recipe, torch.device("cpu"))
        seen = []
        keep = lambda *_: seen.append(branches.up["layer"].detach().clone())
        fit(Net().bound(branches), latents, branches, LEVELS, "eps", recipe, on_step=keep)
        moved = [float((after - before).abs().max()) for before, after in itertools.pairwise(seen)]
        ends[decay] = moved[-1] / moved[0]
    assert ends[False] > 0.3 and ends[True] < 0.2 * ends[False]


def test_an_overflow_in_half_precision_is_answered_by_a_smaller_scale(latents):
    class Once(torch.autograd.Function):
        calls = 0

        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            Once.calls += 1
            return gradient * float("inf") if Once.calls == 1 else gradient

    branches = Branches({"layer": (4, 4)}, 3, QUICK, torch.device("cpu"))
    plain = Net().bound(branches)
    result = fit(lambda x, s: Once.apply(plain(x, s)), latents, branches, LEVELS, "eps", QUICK, half=True)
    assert all(torch.isfinite(layers["layer"].up).all() for layers in result.layers)
    assert (result.checks[30] < result.checks[0]).all()


def test_a_loss_that_is_no_number_is_said(latents):
    with pytest.raises(ValueError, match="learning rate"):
        fitted(latents * float("nan"))
