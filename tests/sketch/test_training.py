"""Training: a rule that can be learned is learned, the held-out pictures decide, and a resumed run is the same run."""

import math

import pytest
import torch
from palimpsest.guidance.sketch.examples import EMPTY, Example, Examples, TrainingRecipe
from palimpsest.guidance.sketch.files import read_predictor, write_predictor
from palimpsest.guidance.sketch.predictor import EdgePredictor, PredictorSpec
from palimpsest.guidance.sketch.training import Trainer

SIZE = (6, 6)
SPEC = PredictorSpec("sd1", "SD15", ("a", "b"), (4, 4), detail=2, widths=(16, 12), sigma_high=10.0)
LATENT = PredictorSpec("sd1", "SD15", ("a", "b"), (4, 4), "latent", detail=1, widths=(16, 12), sigma_high=10.0)


def sigmas(level: torch.Tensor) -> torch.Tensor:
    return 10.0 * (1 - level) + 0.1


def features_of(x: torch.Tensor) -> list[torch.Tensor]:
    """A network whose features are its input, at two resolutions."""
    return [x, torch.nn.functional.avg_pool2d(x, 2)]


def made(recipe: TrainingRecipe, spec=SPEC, pictures: int = 8, mirrored: bool = False, content: str = "") -> Examples:
    """Pictures whose edges lie where their first channel is large."""
    draw, found = torch.Generator().manual_seed(0), []
    for i in range(pictures):
        latent = torch.where(torch.rand(4, *SIZE, generator=draw) < 0.3, 60.0, -60.0)
        cells = (latent[:1] > 0).float().repeat_interleave(2, 1).repeat_interleave(2, 2)
        target = cells if spec.target == "edges" else latent / 60
        for flip in (False, True) if mirrored else (False,):
            turn = (lambda t: t.flip(-1)) if flip else (lambda t: t)
            found.append(Example(turn(latent), turn(target), i, 0, f"{content} {i} {flip}"))
    return Examples(found, recipe)


def train(examples, spec=SPEC, start=None, until=None) -> Trainer:
    trainer = Trainer(spec, examples, start)
    if trainer.fresh:
        trainer.prepare([features_of(examples.noisy(p, sigmas(p.level))) for p in map(examples.plan, range(-4, 0))])
    for step in trainer.remaining():
        if step == until or trainer.finished:
            break
        plan = examples.plan(step)
        sigma = sigmas(plan.level)
        trainer.learn(step, plan, sigma, features_of(examples.noisy(plan, sigma)))
        if trainer.due(step):
            with torch.no_grad():
                losses = [
                    trainer.loss(p, sigmas(p.level), features_of(examples.noisy(p, sigmas(p.level))))
                    for p in examples.held_out_plans()
                ]
            trainer.judge(step, float(torch.cat(losses).mean()))
    return trainer


@pytest.mark.parametrize("spec", [SPEC, LATENT], ids=["edges", "latent"])
def test_what_can_be_learned_is_learned(spec):
    recipe = TrainingRecipe(steps=150, batch=4, rate=5e-3, held_out=0.25)
    trainer = train(made(recipe, spec), spec)
    before, after = trainer.losses[0], trainer.best
    assert after < 0.4 * before
    facts = trainer.predictor().spec.facts
    assert facts["pictures"] == 8 and facts["held_out_pictures"] == 2
    assert facts["held_out_loss"] == pytest.approx(after) and facts["steps"] == trainer.step


def test_the_first_prediction_is_the_mean_target():
    examples = made(TrainingRecipe(steps=10, batch=4))
    trainer = Trainer(SPEC, examples)
    trainer.prepare([features_of(examples.noisy(p, sigmas(p.level))) for p in map(examples.plan, range(-4, 0))])
    with torch.no_grad():
        for weight in trainer.network.rest[-1].weight:
            weight.zero_()
    fraction = float(examples.mean_target())
    entropy = -(fraction * math.log(fraction) + (1 - fraction) * math.log(1 - fraction))
    plan = examples.plan(0)
    sigma = sigmas(plan.level)
    losses = trainer.loss(plan, sigma, features_of(examples.noisy(plan, sigma)))
    assert float(losses.detach().mean()) == pytest.approx(entropy, rel=0.2)


def weights(predictor: EdgePredictor) -> list[torch.Tensor]:
    return list(predictor.network.state_dict().values())


def test_an_interrupted_training_ends_in_the_same_weights(tmp_path):
    recipe = TrainingRecipe(steps=60, batch=4, held_out=0.25)
    whole = train(made(recipe)).predictor()
    part = train(made(recipe), until=33).predictor(unfinished=True)
    write_predictor(part, tmp_path / "part.safetensors")
    with torch.inference_mode():
        read = read_predictor(tmp_path / "part.safetensors")
    rest = train(made(recipe), start=read)
    assert rest.step == 60 and len(rest.losses) == 60
    for a, b in zip(weights(whole), weights(rest.predictor()), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("other", [{"pictures": 6}, {"content": "redrawn"}], ids=["fewer", "as many"])
def test_with_other_pictures_only_the_weights_serve_as_a_start(other):
    recipe = TrainingRecipe(steps=40, batch=4, held_out=0.25)
    part = train(made(recipe), until=20).predictor(unfinished=True)
    rest = Trainer(SPEC, made(recipe, **other), part)
    assert rest.step == 0 and not rest.fresh
    for a, b in zip(part.network.state_dict().values(), rest.network.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_adapting_leaves_the_first_layer():
    start = train(made(TrainingRecipe(steps=30, batch=4))).predictor()
    adapted = train(made(TrainingRecipe(steps=30, batch=4, adapt=True, seed=1)), start=start).predictor()
    before, after = start.network.state_dict(), adapted.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any(name.startswith(("first", "mean", "scale", "level")) for name in changed)


def test_training_stops_when_the_held_out_loss_stops_falling_and_keeps_the_best():
    trainer = Trainer(SPEC, made(TrainingRecipe(steps=1000, batch=4, held_out=0.25)))
    trainer.prepare([features_of(torch.randn(2, 4, *SIZE))])
    for number, loss in enumerate([1.0, 0.5, 0.6, 0.7, 0.5, 0.499999, 0.8]):
        trainer.network.rest[-1].bias.data.fill_(number)
        trainer.judge(50 * number, loss)
    assert trainer.finished and len(trainer.remaining()) == 0
    assert float(trainer.predictor().network.rest[-1].bias[0]) == 5.0


def test_a_single_picture_can_be_learned_and_nothing_is_held_out():
    recipe = TrainingRecipe(steps=12, batch=2)
    examples = made(recipe, pictures=1)
    trainer = train(examples)
    assert not examples.held_out and not any(trainer.due(step) for step in range(12))
    assert [step for step in range(12) if trainer.pauses(step)] == [9, 11], "nothing is kept of it on the way"
    assert trainer.predictor().spec.facts["held_out_loss"] is None


def test_a_loss_that_is_no_number_is_a_sentence():
    examples = made(TrainingRecipe(steps=10, batch=2))
    trainer = Trainer(SPEC, examples)
    plan = examples.plan(0)
    with pytest.raises(ValueError, match="not a number: lower the learning rate"):
        trainer.learn(0, plan, sigmas(plan.level), [torch.full((2, 4, 6, 6), float("nan")), torch.zeros(2, 4, 3, 3)])


# The batches


def test_half_of_the_prompts_are_dropped_and_the_levels_cover_the_range():
    examples = made(TrainingRecipe(steps=100, batch=8))
    plans = [examples.plan(step) for step in range(100)]
    dropped = [prompt == EMPTY for plan in plans for prompt in plan.prompts]
    assert 0.4 < sum(dropped) / len(dropped) < 0.6
    for plan in plans:
        assert torch.equal((plan.level * 8).floor(), torch.arange(8.0))
        assert len(plan.positions) == 18 and plan.positions.unique().numel() == 18


def test_a_batch_is_a_function_of_the_seed_and_the_step():
    one, two = (made(TrainingRecipe(seed=4)) for _ in range(2))
    a, b, c = one.plan(7), two.plan(7), one.plan(8)
    assert a.examples == b.examples and torch.equal(a.noise, b.noise) and not torch.equal(a.noise, c.noise)


def test_held_out_pictures_are_never_learned_from_in_any_orientation():
    examples = made(TrainingRecipe(held_out=0.25), mirrored=True)
    held_out = {examples.all[i].picture for i in examples.held_out}
    learned = {examples.all[i].picture for step in range(60) for i in examples.plan(step).examples}
    assert len(held_out) == 2 and not held_out & learned and len(learned) == 6


def test_pictures_of_different_sizes_are_never_in_one_batch():
    recipe = TrainingRecipe(batch=4, held_out=0.0)
    small = made(recipe).all
    large = [Example(torch.zeros(4, 8, 8), torch.zeros(1, 16, 16), 100 + i, 0) for i in range(3)]
    examples = Examples([*small, *large], recipe)
    for step in range(30):
        plan = examples.plan(step)
        assert len({examples.all[i].latent.shape for i in plan.examples}) == 1
        assert plan.noise.shape[1:] == examples.all[plan.examples[0]].latent.shape
