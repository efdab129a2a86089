"""Faithful mode against the straight line of the paper, with its own formula and with diffusers' scheduler."""

import pytest
import torch
from palimpsest.inversion.null_text import optimise
from palimpsest.inversion.null_text_run import NullTextRecipe

from .null_text_reference import null_text_reference
from .null_text_toy import Toy, inverted, official_levels, picture

STEPS = 50


@pytest.fixture(scope="module")
def case():
    """A trajectory, and the same in the paper's terms."""
    toy, levels = Toy(torch.float64), official_levels(STEPS)
    path = inverted(toy, picture(dtype=torch.float64), levels)
    alphas = 1 / (1 + levels**2)

    def epsilon_of(z, alpha, text):
        sigma = ((1 - alpha) / alpha).sqrt().reshape(1)
        x = z / alpha.sqrt()
        return (x - toy(x, sigma, text)) / sigma

    return toy, levels, path, alphas, epsilon_of


def ours(toy, levels, path, **settings):
    return optimise(toy, levels, path, toy.empty, NullTextRecipe(mode="faithful", **settings))


def compare(result, kept, passed, losses, path):
    # Adam's first update is a sign: where the gradient is next to nothing, rounding grows from level to level, from
    # 1e-14 at the first to 5e-8 at the 25th and 0.02 at the last. So the upper half is compared by the number, the
    # whole by how far from the picture it ends.
    half = STEPS // 2
    for i in range(half):
        assert torch.allclose(result.embeddings[STEPS - 1 - i], kept[i], atol=1e-6), f"step {i}"
    mine = [(level, loss) for level, loss in result.history if level > STEPS - half]
    assert [level for level, _ in mine] == [STEPS - i for i in range(half) for _ in losses[i]]
    for (_, loss), theirs in zip(mine, [loss for level in losses[:half] for loss in level], strict=True):
        assert loss == pytest.approx(theirs, rel=1e-6, abs=1e-12)
    mine, theirs = (float((latents - path[0]).square().mean()) for latents in (result.latents, passed[-1]))
    assert theirs / 2 < mine < theirs * 2


def test_parity_with_the_straight_line(case):
    toy, levels, path, alphas, epsilon_of = case
    pivots = path * alphas.sqrt().reshape(-1, 1, 1, 1, 1)
    kept, passed, losses = null_text_reference(epsilon_of, pivots, alphas, toy.source, toy.empty)
    assert {len(level) for level in losses} > {1}, "the case should need different numbers of iterations"
    compare(ours(toy, levels, path), kept, passed, losses, path)


def test_parity_with_diffusers_scheduler(case):
    diffusers = pytest.importorskip("diffusers")
    toy, levels, path, alphas, epsilon_of = case
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
    scheduler.set_timesteps(STEPS)
    assert torch.allclose(scheduler.alphas_cumprod[scheduler.timesteps.flip(0)].double(), alphas[1:], rtol=1e-5)
    # Fifty levels of Adam amplify the rounding of its alphas, which are in single precision, to 0.01 of the latents.
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.alphas_cumprod[scheduler.timesteps.flip(0)] = alphas[1:]

    def step(epsilon, z, i):
        return scheduler.step(epsilon, scheduler.timesteps[i], z).prev_sample

    pivots = path * alphas.sqrt().reshape(-1, 1, 1, 1, 1)
    kept, passed, losses = null_text_reference(epsilon_of, pivots, alphas, toy.source, toy.empty, step=step)
    compare(ours(toy, levels, path), kept, passed, losses, path)


def test_every_level_gets_an_update_and_at_most_ten(case):
    toy, levels, path, _, _ = case
    result = ours(toy, levels, path)
    counts = [sum(level == i for level, _ in result.history) for i in range(1, STEPS + 1)]
    assert min(counts) >= 1 and max(counts) <= 10
    assert result.cost.backwards == sum(counts)
    # Both predictions once more for the step down, the conditional one once for the loop: as in the official code.
    assert result.cost.forwards == sum(counts) + 3 * STEPS
    assert torch.equal(result.losses > 0, torch.ones(STEPS, 1, dtype=torch.bool))


def test_faithful_reconstructs_where_plain_guidance_does_not(case):
    toy, levels, path, _, _ = case
    fitted = ours(toy, levels, path)
    plain = ours(toy, levels, path, inner_steps=0)
    error, lost = ((one.latents - path[0]).square().mean() for one in (fitted, plain))
    assert error < lost / 5
