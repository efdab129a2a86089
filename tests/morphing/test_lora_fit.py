"""LoRA Fit on the host's own models: every family learns, rows learn alone, nothing is fitted twice or left behind."""

import pytest
import torch
from palimpsest.host import memory
from palimpsest.host.content_cache import RESULTS
from palimpsest.host.morphing import lora_fit
from palimpsest.host.morphing.lora_fit import fit_loras, target_layers
from palimpsest.host.morphing.row_lora import interpolated
from palimpsest.morphing.fit import LoraRecipe
from palimpsest.morphing.schedule import Alphas

from ..tiny_models import FAMILIES, tiny_cond, tiny_latent, tiny_model
from .parts import ask

QUICK = LoraRecipe(rank=4, steps=12, learning_rate=5e-3, check_every=12)


def pictures(family, count=2):
    latents = torch.cat([tiny_latent(family, seed=seed) for seed in range(count)])
    return latents, [tiny_cond(family, seed=seed) for seed in range(count)]


@pytest.fixture(autouse=True)
def forgotten():
    RESULTS.clear()
    yield
    RESULTS.clear()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_on_weights_of_a_loader_node(family):
    with torch.inference_mode():
        model = tiny_model(family)
        latents, conds = pictures(family)
        plain = ask(model, conds[0], latents, 0.7)
        fits = fit_loras(model, latents, conds, QUICK)
        for one in fits:
            assert one.checks[12] < one.checks[0]
        assert torch.equal(ask(model, conds[0], latents, 0.7), plain)
        assert not any(module._forward_hooks for module in model.model.modules())
        fitted = interpolated(model, [one.lora for one in fits], Alphas((0.0, 1.0), 2))
        assert not torch.equal(ask(fitted, conds[0], latents, 0.7), plain)


def test_the_layers_are_the_papers():
    names = target_layers(tiny_model("sd1"))
    assert all(".attn1.to_" in name or ".attn2.to_" in name for name in names)
    assert len(names) % 8 == 0 and names[0].endswith("to_q")


@pytest.mark.parametrize("samples", [1, 2])
def test_a_batch_of_pictures_is_as_many_single_fits(samples):
    model, (latents, conds) = tiny_model("sd1"), pictures("sd1", 3)
    recipe = LoraRecipe(rank=2, steps=4, learning_rate=5e-3, samples=samples)
    together = fit_loras(model, latents, conds, recipe)
    RESULTS.clear()
    alone = fit_loras(model, latents, conds, recipe, pictures_at_once=1)

    def done(fit, i):
        """What a LoRA does to the prediction of picture i."""
        patched = interpolated(model, [fit.lora], Alphas((0.0,), 1))
        asked = conds[i], latents[i : i + 1], 0.7
        return ask(patched, *asked) - ask(model, *asked)

    for i, (one, other) in enumerate(zip(together, alone)):
        assert torch.allclose(torch.tensor(one.losses), torch.tensor(other.losses), rtol=1e-3)
        # Adam takes a whole step where a gradient is next to nothing, and then rounding may turn its sign: single
        # weights may differ, not what all of them do. Another picture's LoRA does something else altogether.
        mine, wanted, stranger = done(one, i), done(other, i), done(alone[i - 1], i)
        assert (mine - wanted).norm() < 0.02 * wanted.norm() < 0.5 * (stranger - wanted).norm()


def test_nothing_is_fitted_twice():
    model, (latents, conds) = tiny_model("sd1"), pictures("sd1", 3)
    recipe = LoraRecipe(rank=2, steps=2)
    first = fit_loras(model, latents[:2], conds[:2], recipe)
    again = fit_loras(model.clone(), latents.clone(), conds, recipe)
    assert [one.reused for one in first + again] == [False, False, True, True, False]
    assert again[0].lora is first[0].lora
    others = [
        fit_loras(model, latents[:1], conds[:1], LoraRecipe(rank=2, steps=3)),
        fit_loras(model, latents[:1], conds[1:2], recipe),
        fit_loras(model, latents[:1] + 1e-3, conds[:1], recipe),
        fit_loras(tiny_model("sd1", seed=1), latents[:1], conds[:1], recipe),
    ]
    assert not any(one.reused for fits in others for one in fits)
    twins = fit_loras(model, latents[[2, 2]] + 1.0, conds[2:], recipe)
    assert twins[0].lora is twins[1].lora


def test_memory_that_runs_out_is_answered_by_fewer_pictures_at_once(monkeypatch):
    model, (latents, conds) = tiny_model("sd1"), pictures("sd1", 3)
    real, counts = lora_fit._fit_together, []

    def short(model, latents, *args):
        counts.append(len(latents))
        if len(latents) > 2:
            raise torch.OutOfMemoryError("short")
        return real(model, latents, *args)

    monkeypatch.setattr(lora_fit, "_fit_together", short)
    assert len(fit_loras(model, latents, conds, LoraRecipe(rank=2, steps=1))) == 3
    assert counts == [3, 1, 1, 1]


@pytest.mark.parametrize("family", ["sd1", "flux"])
def test_a_single_picture_that_does_not_fit_is_fitted_in_less_memory(monkeypatch, family):
    """Each layer runs once more in backward; losses and weights are the same."""
    model, (latents, conds) = tiny_model(family), pictures(family)
    recipe = LoraRecipe(rank=2, steps=4, learning_rate=5e-3)
    real, add, runs, warned = lora_fit._fit_together, lora_fit.Branches.add, [], []

    def counted(self, name, x, output):
        runs.append(torch.is_grad_enabled())
        return add(self, name, x, output)

    def short(*args):
        if not args[-1]:
            raise torch.OutOfMemoryError("short")
        return real(*args)

    monkeypatch.setattr(lora_fit.Branches, "add", counted)
    whole = fit_loras(model, latents, conds, recipe, pictures_at_once=1)
    plain = sum(runs)
    RESULTS.clear(), runs.clear()
    monkeypatch.setattr(lora_fit, "_fit_together", short)
    monkeypatch.setattr(memory, "notify", warned.append)
    spared = fit_loras(model, latents, conds, recipe)
    assert sum(runs) == 2 * plain and len(warned) == 1 and "less memory" in warned[0]
    for one, other in zip(whole, spared):
        assert torch.allclose(torch.tensor(one.losses), torch.tensor(other.losses), rtol=1e-5)
        assert all((value - other.lora[key]).abs().mean() < 1e-5 for key, value in one.lora.items())


def test_a_picture_that_fits_in_no_way_is_a_sentence(monkeypatch):
    def short(*args):
        raise torch.OutOfMemoryError("short")

    monkeypatch.setattr(lora_fit, "_fit_together", short)
    with pytest.raises(MemoryError, match="LoRA Fit does not fit into memory even one at a time"):
        fit_loras(tiny_model("sd1"), *pictures("sd1"), QUICK)


def test_an_interruption_leaves_nothing(monkeypatch):
    model, (latents, conds) = tiny_model("sd1"), pictures("sd1")
    before = ask(model, conds[0], latents)

    class Stop(BaseException):
        pass

    def stop(self, step, total, x0=None, x=None):
        if step == 2:
            raise Stop

    monkeypatch.setattr("palimpsest.host.session.Session.report", stop)
    with pytest.raises(Stop):
        fit_loras(model, latents, conds, QUICK)
    assert len(RESULTS) == 0
    assert not any(module._forward_hooks for module in model.model.modules())
    assert torch.equal(ask(model, conds[0], latents), before)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda m, x, c: fit_loras(m, x, c * 2, QUICK), "2 key pictures, but 4 prompts"),
        (lambda m, x, c: fit_loras(m, x[:, :3], c, QUICK), "3 channels"),
        (lambda m, x, c: fit_loras(m, x, [[]], QUICK), "CLIP Text Encode"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make(tiny_model("sd1"), *pictures("sd1"))
