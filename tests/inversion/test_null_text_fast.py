"""Fast and global mode: cost, limits, rows that keep to themselves, half precision, and what may go wrong."""

import weakref

import pytest
import torch
from palimpsest.inversion.embedding_fit import Adam, pull_back
from palimpsest.inversion.null_text import optimise
from palimpsest.inversion.null_text_fast import LEAST_FORCED
from palimpsest.inversion.null_text_run import NullTextRecipe

from .null_text_toy import Toy, inverted, official_levels, picture

STEPS = 10


@pytest.fixture(scope="module")
def case():
    toy, levels = Toy(), official_levels(STEPS).float()
    return toy, levels, inverted(toy, picture(), levels)


def error(result, path) -> float:
    return float((result.latents - path[0]).square().mean())


def test_budget_decays_as_published():
    recipe = NullTextRecipe()
    assert sum(recipe.budget(recipe.progress(k, 50)) for k in range(50)) == 136
    assert [recipe.budget(k) for k in (0, 1, 10, 49)] == [10, 10, 4, 1]


def test_source_prompt_needs_one_forward_a_level(case):
    """Guidance with the source prompt's embedding is no guidance: with nothing to mend, one evaluation is enough."""
    toy, levels, path = case
    result = optimise(toy, levels, path, toy.source, NullTextRecipe(enough=float("inf")))
    assert (result.cost.forwards, result.cost.backwards) == (STEPS, 0)
    assert all(torch.equal(embedding, toy.source) for embedding in result.embeddings)
    x = path[-1]
    for i in range(STEPS, 0, -1):
        s, t = levels[i], levels[i - 1]
        x = x + (t - s) * (x - toy.conditional(x, s.reshape(1), torch.arange(1))) / s
    assert torch.allclose(result.latents, x, atol=1e-5)


def test_stop_is_tested_before_the_backward_pass(case):
    toy, levels, path = case
    result = optimise(toy, levels, path, toy.source, NullTextRecipe(enough=1e-9))
    updates = len(result.history) - STEPS
    assert result.cost.backwards == updates
    assert result.cost.forwards == len(result.history)
    assert error(result, path) < error(optimise(toy, levels, path, toy.source, NullTextRecipe(enough=1.0)), path)


def test_no_level_is_left_worse_than_it_began(case):
    toy, levels, path = case
    wild = optimise(toy, levels, path, toy.source, NullTextRecipe(enough=0.0, learning_rate=3.0))
    begun = {}
    for level, loss in wild.history:
        begun.setdefault(level, loss)
    assert all(float(wild.losses[i - 1, 0]) <= begun[i] for i in begun)


@pytest.mark.parametrize("cfg", [0.0, 3.0, -1.5])
def test_any_guidance_but_one(case, cfg):
    toy, levels, path = case
    result = optimise(toy, levels, path, toy.source, NullTextRecipe(cfg=cfg, enough=1e-8))
    assert torch.isfinite(result.embeddings).all() and error(result, path) < 0.05


def test_teacher_forcing_serves_levels_in_batches(case):
    toy, levels, path = case
    alone = optimise(toy, levels, path, toy.source, NullTextRecipe(enough=1e-8, levels_at_once=1))
    forced = [
        optimise(toy, levels, path, toy.source, NullTextRecipe(enough=1e-8, levels_at_once=n)) for n in (3, STEPS)
    ]
    assert torch.allclose(forced[0].embeddings, forced[1].embeddings, atol=1e-5)
    assert error(forced[0], path) < 2 * error(alone, path) + 1e-6


@pytest.mark.parametrize("enough", [0.0, 1e-9, 1e-6, 2e-4, float("inf")])
def test_teacher_forcing_costs_no_more_than_a_look_and_a_backward_pass_at_each_forced_level(enough):
    toy, levels = Toy(), official_levels(50).float()
    path = inverted(toy, picture(), levels)
    costs, budget = [], sum(NullTextRecipe().budget(k) for k in range(50))
    forced = sum(NullTextRecipe().budget(k) >= LEAST_FORCED for k in range(50))
    for at_once in (1, 2, 10, 50):
        found = optimise(toy, levels, path, toy.source, NullTextRecipe(enough=enough, levels_at_once=at_once)).cost
        assert found.backwards <= budget + forced
        assert found.forward_equivalents <= 50 + 2 * budget + (forced if at_once > 1 else 0) <= 400
        costs.append(found.forward_equivalents)
    assert max(costs) <= costs[0] + 2 * forced < costs[0] + 40


@pytest.mark.parametrize("mode", ["fast", "faithful", "global"])
def test_one_graph_is_kept_at_a_time(case, mode):
    toy, levels, path = case
    alive, most = weakref.WeakSet(), []

    class Watched(Toy):
        def unconditional(self, x, sigma, embedding, pictures):
            most.append(sum(one.requires_grad for one in alive))
            prediction = super().unconditional(x, sigma, embedding, pictures)
            alive.add(prediction)
            return prediction

    recipe = NullTextRecipe(mode=mode, enough=0.0, inner_steps=3, levels_at_once=4)
    optimise(Watched(), levels, path, toy.source, recipe)
    assert len(most) > 2 * STEPS and max(most) == 0


@pytest.mark.parametrize("mode", ["fast", "faithful", "global"])
def test_rows_in_chunks_are_the_same(case, mode):
    """Whoever is short of memory passes rows on in parts, of any size."""
    toy, levels, _ = case
    path = inverted(toy, picture(3), levels)
    recipe = NullTextRecipe(mode=mode, enough=1e-8, levels_at_once=4, inner_steps=4)
    sizes = []

    def in_twos(fn, rows):
        sizes.append(rows)
        return [fn(slice(i, min(i + 2, rows))) for i in range(0, rows, 2)]

    whole = optimise(toy, levels, path, toy.source, recipe)
    parts = optimise(toy, levels, path, toy.source, recipe, in_chunks=in_twos)
    assert torch.allclose(whole.embeddings, parts.embeddings, atol=1e-5) and max(sizes) >= 3
    assert torch.allclose(whole.losses, parts.losses, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("mode, levels_at_once", [("fast", 1), ("fast", 4), ("faithful", 1), ("global", 1)])
def test_pictures_of_a_batch_keep_to_themselves(case, mode, levels_at_once):
    toy, levels, _ = case
    pictures = picture(3)
    recipe = NullTextRecipe(mode=mode, enough=1e-8, levels_at_once=levels_at_once, inner_steps=3)
    start = toy.empty if mode == "faithful" else toy.source
    together = optimise(toy, levels, inverted(toy, pictures, levels), start, recipe)
    for row in range(3):
        alone = optimise(toy, levels, inverted(toy, pictures[row : row + 1], levels), start, recipe)
        assert torch.allclose(together.embeddings[:, row], alone.embeddings[:, 0], atol=1e-4)
        assert torch.allclose(together.losses[:, row], alone.losses[:, 0], rtol=1e-2, atol=1e-7)


def test_global_mode_has_one_embedding(case):
    toy, levels, path = case
    begun = optimise(toy, levels, path, toy.empty, NullTextRecipe(mode="global", inner_steps=1, learning_rate=1e-9))
    ended = optimise(toy, levels, path, toy.empty, NullTextRecipe(mode="global", inner_steps=12))
    assert all(torch.equal(one, ended.embeddings[0]) for one in ended.embeddings)
    assert ended.losses.sum() < begun.losses.sum() / 2
    assert (ended.cost.forwards, ended.cost.backwards) == (STEPS + 12 * STEPS, 12 * STEPS)


def test_adam_is_torchs_adam():
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(2, 3, 4, generator=generator)
    theirs = ours.clone().requires_grad_(True)
    adam, reference = Adam(ours), torch.optim.Adam([theirs], lr=0.01)
    for _ in range(5):
        gradient = torch.randn(2, 3, 4, generator=generator)
        theirs.grad = gradient.clone()
        reference.step()
        adam.update(ours, gradient, torch.arange(2), 0.01)
    assert torch.allclose(ours, theirs, atol=1e-7)


class Half:
    """Rounds to half precision and back, forward and backward: what a network in fp16 does to small numbers."""

    class Round(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.half().to(x)

        @staticmethod
        def backward(ctx, grad):
            return grad.half().to(grad)


def test_small_losses_survive_half_precision():
    """A gradient of 1e-9 is zero in fp16; pulled back at unit size it is not, and comes out at its own size."""
    leaf = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    prediction = Half.Round.apply((leaf * 2).sum(1).reshape(1, 3, 1, 1))
    prediction_gradient = torch.full((1, 3, 1, 1), 1e-9)
    assert Half.Round.apply(prediction_gradient.clone().requires_grad_(True)).abs().max() == 0
    assert torch.allclose(pull_back(prediction, leaf, prediction_gradient), torch.full((1, 5, 3), 2e-9), rtol=1e-3)


def test_gradients_that_overflow_are_asked_for_again_smaller():
    leaf = torch.ones(1, 1, 1, requires_grad=True)
    big = Half.Round.apply(leaf.reshape(1, 1, 1, 1) * 1.0) * 1e5
    assert torch.isfinite(pull_back(big, leaf, torch.ones(1, 1, 1, 1))).all()


def test_predictions_that_are_not_numbers_are_a_sentence(case):
    toy, levels, path = case

    class Broken(Toy):
        def unconditional(self, x, sigma, embedding, pictures):
            return super().unconditional(x, sigma, embedding, pictures) * torch.nan

    for mode, start in (("fast", toy.source), ("faithful", toy.empty), ("global", toy.empty)):
        with pytest.raises(ValueError, match="fp32"):
            optimise(Broken(), levels, path, start, NullTextRecipe(mode=mode))


def test_a_network_that_is_deaf_to_its_text_is_a_sentence(case):
    toy, levels, path = case

    class Deaf(Toy):
        def unconditional(self, x, sigma, embedding, pictures):
            return super().unconditional(x, sigma, self.source.expand(len(x), -1, -1) + 0 * embedding, pictures)

    with pytest.raises(ValueError, match="does not listen"):
        optimise(Deaf(), levels, path, toy.empty, NullTextRecipe(mode="faithful"))


def test_interruption_comes_from_inside_the_inner_loop(case):
    toy, levels, path = case
    seen = []

    def stop(step, total, shown):
        seen.append(step)
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimise(toy, levels, path, toy.empty, NullTextRecipe(mode="faithful"), on_step=stop)
    assert seen == [0, 0, 0, 0]


def test_equal_runs_are_equal(case):
    toy, levels, path = case
    one, two = (optimise(toy, levels, path, toy.source, NullTextRecipe(enough=1e-8)) for _ in range(2))
    assert torch.equal(one.embeddings, two.embeddings)


@pytest.mark.parametrize("settings", [{"mode": "slow"}, {"cfg": 1.0}, {"learning_rate": 0.0}, {"cfg": float("nan")}])
def test_recipes_that_make_no_sense(settings):
    with pytest.raises(ValueError):
        NullTextRecipe(**settings)
