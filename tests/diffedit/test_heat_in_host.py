"""The heat map on MODELs of the host: cost, batches, chunks, negatives and what is remembered."""

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from palimpsest.host.content_cache import RESULTS, content_key, model_key
from palimpsest.host.diffedit import heat_map
from palimpsest.host.diffedit.heat_map import MapRecipe, Prompts, noise_level, same_content

from ..tiny_models import tiny_cond, tiny_latent, tiny_lora, tiny_model
from .maps import heat

RECIPE = MapRecipe(noises=3)


@pytest.fixture(autouse=True)
def fresh():
    RESULTS.clear()
    with torch.inference_mode():
        yield
    RESULTS.clear()


def counted(model):
    """A clone that notes how many rows the network is given; and the notes."""
    rows = []

    def count(executor, x, *args, **kwargs):
        rows.append(x.shape[0])
        return executor(x, *args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "count", count)
    return clone, rows


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sd3", "flux"])
def test_every_family_gives_a_map(family):
    model = tiny_model(family)
    prompts = Prompts(tiny_cond(family, seed=1), tiny_cond(family, seed=2))
    found, cost = heat(model, prompts, tiny_latent(family, batch=2, size=(8, 12)), RECIPE, [0, 1])
    assert found.shape == (2, 8, 12) and found.dtype == torch.float32 and cost == 2 * 3 * 2
    assert torch.isfinite(found).all() and (found > 0).any()


def test_a_map_costs_two_samples_a_noise_in_one_call_a_prompt():
    model, rows = counted(tiny_model("sd1"))
    prompts = Prompts(tiny_cond("sd1", seed=1), tiny_cond("sd1", seed=2))
    _, cost = heat(model, prompts, tiny_latent("sd1"), MapRecipe(noises=10), [0])
    assert rows == [10, 10] and cost == 20


def test_a_known_reference_gives_the_same_map_to_the_last_bit():
    model = tiny_model("sd1")
    run = lambda seed: heat(
        model,
        Prompts(tiny_cond("sd1", seed=1), tiny_cond("sd1", seed=seed)),
        tiny_latent("sd1"),
        MapRecipe(noises=5),
        [0],
    )
    cold, cost = run(2)
    RESULTS.clear()
    run(3)
    warm, less = run(2)
    assert torch.equal(cold, warm) and less < cost


def test_equal_negatives_are_left_out_and_unequal_ones_are_not():
    model, rows = counted(tiny_model("sd1"))
    one, two, three, four = (tiny_cond("sd1", seed=seed) for seed in (1, 2, 3, 4))
    plain, _ = heat(model, Prompts(one, two), tiny_latent("sd1"), RECIPE, [0])
    same, cost = heat(model, Prompts(one, two, three, tiny_cond("sd1", seed=3)), tiny_latent("sd1"), RECIPE, [0])
    assert torch.equal(plain, same) and cost == 6
    other, cost = heat(model, Prompts(one, two, three, four), tiny_latent("sd1"), RECIPE, [0])
    assert cost == 12 and sum(rows) == 6 + 6 + 12 and not torch.allclose(other, plain)


def test_unequal_negatives_against_the_formula():
    model = tiny_model("sd1")
    one, two, three, four = (tiny_cond("sd1", seed=seed) for seed in (1, 2, 3, 4))
    found, _ = heat(model, Prompts(one, two, three, four), tiny_latent("sd1"), MapRecipe(noises=1, cfg=3.0), [0])
    seen = {}

    def spy(query, reference, sigma):
        seen.update(query=query, reference=reference)
        return original(query, reference, sigma)

    original, heat_map.differences = heat_map.differences, spy
    try:
        heat(model, Prompts(one, two), tiny_latent("sd1"), MapRecipe(noises=1), [0])
        first = dict(seen)
        heat(model, Prompts(three, four), tiny_latent("sd1"), MapRecipe(noises=1), [0])
    finally:
        heat_map.differences = original
    query = seen["query"] + 3 * (first["query"] - seen["query"])
    reference = seen["reference"] + 3 * (first["reference"] - seen["reference"])
    sigma = noise_level(model, 0.5)
    torch.testing.assert_close(found, original(query, reference, sigma)[0], atol=1e-5, rtol=1e-5)


def test_a_picture_s_map_does_not_depend_on_its_batch():
    model = tiny_model("sd1")
    prompts = Prompts(tiny_cond("sd1", seed=1), tiny_cond("sd1", batch=3, seed=2))
    latent = tiny_latent("sd1", batch=3)
    whole, _ = heat(model, prompts, latent, RECIPE, [0, 1, 2])
    for i in range(3):
        query = [[prompts.query[0][0][i : i + 1], {}]]
        alone, _ = heat(model, Prompts(prompts.reference, query), latent[i : i + 1], RECIPE, [i])
        torch.testing.assert_close(alone[0], whole[i], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("noises_a_call", [1, 2, 4])
def test_chunks_change_nothing(noises_a_call, monkeypatch):
    model, rows = counted(tiny_model("sd1"))
    prompts = Prompts(tiny_cond("sd1", batch=2, seed=1), tiny_cond("sd1", batch=2, seed=2))
    recipe, latent = MapRecipe(noises=5), tiny_latent("sd1", batch=2)
    whole, _ = heat(model, prompts, latent, recipe, [0, 1])
    RESULTS.clear()
    rows.clear()
    monkeypatch.setattr(heat_map, "_noises_a_call", lambda session, rows: noises_a_call)
    cut, cost = heat(model, prompts, latent, recipe, [0, 1])
    torch.testing.assert_close(cut, whole, atol=1e-6, rtol=1e-5)
    assert max(rows) == noises_a_call * 2 and sum(rows) == cost == 20  # a prompt at a time, two pictures each


def test_short_memory_makes_more_calls(monkeypatch):
    calls = []

    def short(executor, x, *args, **kwargs):
        if x.shape[0] > 4:
            raise torch.OutOfMemoryError("out of memory")
        calls.append(x.shape[0])
        return executor(x, *args, **kwargs)

    model = tiny_model("sd1")
    prompts = Prompts(tiny_cond("sd1", seed=1), tiny_cond("sd1", seed=2))
    whole, _ = heat(model, prompts, tiny_latent("sd1"), MapRecipe(noises=6), [0])
    RESULTS.clear()
    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "short", short)
    found, _ = heat(model, prompts, tiny_latent("sd1"), MapRecipe(noises=6), [0])
    assert sum(calls) == 12 and max(calls) <= 4
    torch.testing.assert_close(found, whole, atol=1e-6, rtol=1e-5)


def test_another_query_costs_its_own_half_alone():
    model = tiny_model("sd1")
    latent, reference = tiny_latent("sd1"), tiny_cond("sd1", seed=1)
    first, cost = heat(model, Prompts(reference, tiny_cond("sd1", seed=2)), latent, RECIPE, [0])
    assert cost == 6
    again, cost = heat(model, Prompts(tiny_cond("sd1", seed=1), tiny_cond("sd1", seed=2)), latent.clone(), RECIPE, [0])
    assert cost == 3
    torch.testing.assert_close(again, first, atol=1e-6, rtol=1e-5)
    other, cost = heat(model, Prompts(reference, tiny_cond("sd1", seed=5)), latent, RECIPE, [0])
    RESULTS.clear()
    fresh, _ = heat(model, Prompts(reference, tiny_cond("sd1", seed=5)), latent, RECIPE, [0])
    assert cost == 3
    torch.testing.assert_close(other, fresh, atol=1e-6, rtol=1e-5)


def test_whatever_the_reference_half_depends_on_is_in_its_key():
    from palimpsest.host.diffedit.heat_map import _reference_key

    model, latent = tiny_model("sd1"), tiny_latent("sd1")
    half = {"reference": tiny_cond("sd1", seed=1)}
    with_lora = model.clone()
    patches = {k: v for k, v in _lora_patches(model).items()}
    with_lora.add_patches(patches, 1.0)
    weaker = model.clone()
    weaker.add_patches(patches, 0.5)
    keys = [
        _reference_key(model, half, latent, RECIPE, [0], 1.0),
        _reference_key(model, {"reference": tiny_cond("sd1", seed=2)}, latent, RECIPE, [0], 1.0),
        _reference_key(model, half, latent + 1e-6, RECIPE, [0], 1.0),
        _reference_key(model, half, latent, MapRecipe(noises=4), [0], 1.0),
        _reference_key(model, half, latent, MapRecipe(noises=3, seed=1), [0], 1.0),
        _reference_key(model, half, latent, RECIPE, [1], 1.0),
        _reference_key(model, half, latent, RECIPE, [0], 1.1),
        _reference_key(tiny_model("sd1", seed=1), half, latent, RECIPE, [0], 1.0),
        _reference_key(with_lora, half, latent, RECIPE, [0], 1.0),
        _reference_key(weaker, half, latent, RECIPE, [0], 1.0),
    ]
    assert None not in keys and len(set(keys)) == len(keys)
    same = _reference_key(tiny_model("sd1"), {"reference": tiny_cond("sd1", seed=1)}, latent.clone(), RECIPE, [0], 1.0)
    assert same == keys[0]


def _lora_patches(model):
    import comfy.lora

    state = tiny_lora("sd1")
    return comfy.lora.load_lora(state, comfy.lora.model_lora_keys_unet(model.model, {}), log_missing=False)


def test_what_cannot_be_compared_is_not_remembered():
    model, _ = counted(tiny_model("sd1"))
    assert model_key(model) is None
    heat(model, Prompts(tiny_cond("sd1", seed=1), tiny_cond("sd1", seed=2)), tiny_latent("sd1"), RECIPE, [0])
    assert len(RESULTS) == 0
    assert content_key([[torch.zeros(2), {"control": object()}]]) is None


def test_content_keys_see_every_bit():
    a = tiny_cond("sdxl", seed=1)
    b = [[a[0][0].clone(), dict(a[0][1])]]
    assert same_content(a, b)
    b[0][1]["width"] = 65
    assert not same_content(a, b)
    c = [[a[0][0].clone(), dict(a[0][1])]]
    c[0][0].view(torch.int32)[0, 0, 0] += 1
    assert not same_content(a, c)
    assert content_key(torch.zeros(2, 3)) != content_key(torch.zeros(3, 2))
    assert content_key(["ab", "c"]) != content_key(["a", "bc"])


def test_noise_levels_are_the_model_s_own_steps():
    for family in ("sd1", "sd2", "sdxl"):
        model = tiny_model(family)
        sampling = model.get_model_object("model_sampling")
        for strength in (0.1, 0.4815, 0.5, 0.77):
            sigma = noise_level(model, strength)
            step = float(sampling.timestep(torch.tensor(sigma)))
            assert float(sampling.sigma(torch.tensor(step))) == pytest.approx(sigma, rel=1e-6)
    assert round(float(sampling.timestep(torch.tensor(noise_level(model, 0.4815))))) == 481
    assert noise_level(tiny_model("sd3"), 0.5) == pytest.approx(0.618, abs=0.001)


def test_an_interrupted_map_leaves_nothing_behind():
    import comfy.model_management as management

    model = tiny_model("sd1")
    prompts = Prompts(tiny_cond("sd1", seed=1), tiny_cond("sd1", seed=2))

    def stop(executor, *args, **kwargs):
        management.interrupt_current_processing()
        return executor(*args, **kwargs)

    stopped = model.clone()
    stopped.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "stop", stop)
    with pytest.raises(management.InterruptProcessingException):
        heat(stopped, prompts, tiny_latent("sd1"), RECIPE, [0])
    assert len(RESULTS) == 0
    found, cost = heat(model, prompts, tiny_latent("sd1"), RECIPE, [0])
    assert cost == 6 and torch.isfinite(found).all()
