"""LoRA Interpolator on the host's own models: every row equals the host's merged LoRA, and nothing stays behind."""

import comfy.sd
import pytest
import torch
from palimpsest.host.morphing.lora import lora_model, read_lora
from palimpsest.host.morphing.row_lora import interpolated
from palimpsest.morphing.schedule import Alphas, schedule

from ..tiny_models import FAMILIES, tiny_cond, tiny_latent, tiny_model
from .parts import ask, random_lora

# Batched and single matrix products round differently; everything here is float32.
TOLERANCE = {"atol": 2e-4, "rtol": 1e-4}


COND = tiny_cond("sd1")


def merged(model, lora, strength=1.0):
    return comfy.sd.load_lora_for_models(model, None, lora, strength, 0)[0]


def hooks_in(model):
    return sum(len(module._forward_hooks) for module in model.model.modules())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mixing", ["product", "factor"])
def test_key_pictures_are_what_each_lora_alone_gives(family, mixing):
    model = tiny_model(family)
    where = ("to_q", "to_k", "to_v", "to_out.0", "qkv", "proj", "linear1")
    loras = [random_lora(model, seed, where=where) for seed in range(2)]
    cond, x = tiny_cond(family), tiny_latent(family, batch=2)
    sigma = 0.7
    rows = ask(interpolated(model, loras, schedule(2), mixing=mixing), cond, x, sigma)
    plain = ask(model, cond, x, sigma)
    for row, lora in enumerate(loras):
        alone = ask(merged(model, lora), cond, x[row : row + 1], sigma)
        assert torch.allclose(rows[row : row + 1], alone, **TOLERANCE)
        assert not torch.allclose(plain[row : row + 1], alone, atol=1e-2)


def test_a_row_between_is_the_merged_mixture_of_products():
    model = tiny_model("sd1")
    loras = [random_lora(model, seed, rank=2 + seed) for seed in range(3)]
    alphas = Alphas((0.25, 1.6), 3)
    cond, x = tiny_cond("sd1"), tiny_latent("sd1", batch=2)
    rows = ask(interpolated(model, loras, alphas), cond, x)
    for row, weights in enumerate(alphas.weights()):
        mixed = model
        for lora, weight in zip(loras, weights.tolist()):
            mixed = merged(mixed, lora, weight) if weight else mixed
        assert torch.allclose(rows[row : row + 1], ask(mixed, cond, x[row : row + 1]), **TOLERANCE)


def test_factor_mixing_is_the_merged_lora_of_mixed_factors():
    model = tiny_model("sd1")
    one, two = (random_lora(model, seed) for seed in range(2))
    mixed = {key: (one[key] if key.endswith("alpha") else 0.7 * one[key] + 0.3 * two[key]) for key in one}
    cond, x = tiny_cond("sd1"), tiny_latent("sd1")
    row = ask(interpolated(model, [one, two], Alphas((0.3,), 2), mixing="factor"), cond, x)
    assert torch.allclose(row, ask(merged(model, mixed), cond, x), **TOLERANCE)


@pytest.mark.parametrize("mixing", ["product", "factor"])
def test_a_batch_is_as_many_single_runs_also_with_cfg(mixing):
    model, alphas = tiny_model("sd1"), schedule(5, 3)
    loras = [random_lora(model, seed) for seed in range(3)]
    cond, negative, x = tiny_cond("sd1"), tiny_cond("sd1", seed=1), tiny_latent("sd1", batch=5)
    together = ask(interpolated(model, loras, alphas, mixing=mixing), cond, x, negative=negative, cfg=4.0)
    for row in range(5):
        one = interpolated(model, loras, alphas.part(row, 1), mixing=mixing)
        alone = ask(one, cond, x[row : row + 1], negative=negative, cfg=4.0)
        assert torch.allclose(together[row : row + 1], alone, **TOLERANCE)


def test_a_fixed_alpha_serves_any_number_of_rows():
    model = tiny_model("sd1")
    loras = [random_lora(model, seed) for seed in range(2)]
    cond, x = tiny_cond("sd1"), tiny_latent("sd1", batch=3)
    fixed = ask(interpolated(model, loras, schedule(16), fixed=0.5), cond, x)
    same = ask(interpolated(model, loras, Alphas((0.5,) * 3, 2)), cond, x)
    assert torch.allclose(fixed, same, **TOLERANCE)


def test_strength_scales_the_change_and_0_is_the_plain_model():
    model, cond, x = tiny_model("sd1"), tiny_cond("sd1"), tiny_latent("sd1")
    loras = [random_lora(model, seed) for seed in range(2)]
    half = ask(interpolated(model, loras, Alphas((1.0,), 2), strength=0.5), cond, x)
    assert torch.allclose(half, ask(merged(model, loras[1], 0.5), cond, x), **TOLERANCE)
    assert torch.equal(ask(interpolated(model, loras, schedule(1), strength=0.0), cond, x), ask(model, cond, x))


def test_two_interpolators_and_a_merged_lora_add_up():
    model, cond, x = tiny_model("sd1"), tiny_cond("sd1"), tiny_latent("sd1")
    a, b, c = (random_lora(model, seed) for seed in range(3))
    alphas = Alphas((0.0,), 2)
    ours = interpolated(interpolated(merged(model, c), [a, b], alphas), [b, a], alphas)
    assert torch.allclose(ask(ours, cond, x), ask(merged(merged(merged(model, a), b), c), cond, x), **TOLERANCE)


def test_nothing_stays_behind_even_after_an_interruption():
    model, cond, x = tiny_model("sd1"), tiny_cond("sd1"), tiny_latent("sd1", batch=2)
    before = ask(model, cond, x)
    weights = {key: value.clone() for key, value in model.model.state_dict().items()}
    clone = interpolated(model, [random_lora(model, seed) for seed in range(2)], schedule(2))

    class Stop(BaseException):
        pass

    def stop(*_):
        raise Stop

    handle = model.model.diffusion_model.output_blocks[1][0].register_forward_hook(stop)
    with pytest.raises(Stop):
        ask(clone, cond, x)
    handle.remove()
    assert hooks_in(model) == 0
    after = ask(clone, cond, x)
    assert not torch.equal(after, before)
    assert hooks_in(model) == 0
    assert torch.equal(ask(model, cond, x), before)
    assert all(torch.equal(value, weights[key]) for key, value in model.model.state_dict().items())


def test_gains_biases_and_convolutions_of_a_lora_are_honoured():
    """All that the host's own Train LoRA changes: linear and convolution layers, norms, biases."""
    model, cond, x = tiny_model("sd1"), tiny_cond("sd1"), tiny_latent("sd1")
    lora = {}
    for index, (name, module) in enumerate(model.model.diffusion_model.named_modules()):
        weight = getattr(module, "weight", None)
        if weight is None:
            continue
        draw = lambda *shape, g=torch.Generator().manual_seed(index): 0.05 * torch.randn(*shape, generator=g)
        stem = f"diffusion_model.{name}"
        if weight.ndim > 1:
            lora[f"{stem}.lora_up.weight"] = draw(weight.shape[0], 2)
            lora[f"{stem}.lora_down.weight"] = draw(2, weight[0].numel())
            lora[f"{stem}.alpha"] = torch.tensor(1.0)
        else:
            lora[f"{stem}.diff"] = draw(*weight.shape)
        if module.bias is not None:
            lora[f"{stem}.diff_b"] = draw(*module.bias.shape)
    ours = ask(interpolated(model, [lora, lora], Alphas((0.4,), 2)), cond, x)
    assert torch.allclose(ours, ask(merged(model, lora), cond, x), **TOLERANCE)


def test_other_namings_and_other_kinds_are_read_as_the_host_reads_them():
    model, cond, x = tiny_model("sd1"), tiny_cond("sd1"), tiny_latent("sd1")
    lora = random_lora(model)
    kohya = {}
    for key, value in lora.items():
        layer, _, end = key.removeprefix("diffusion_model.").partition(".lora_" if ".lora_" in key else ".alpha")
        end = f".lora_{end}" if ".lora_" in key else ".alpha"
        kohya[f"lora_unet_{layer.replace('.', '_')}{end}"] = value
    kohya["lora_te_text_model_encoder_layers_0_mlp_fc1.alpha"] = torch.tensor(1.0)
    again = read_lora(model, kohya)
    first = read_lora(model, lora)
    assert again.keys() == first.keys()
    loha = {}
    for key in lora:
        if key.endswith(".alpha"):
            stem, module = key[:-6], model.model.get_submodule(key[:-6])
            generator = torch.Generator().manual_seed(len(loha))
            for name in ("w1", "w2"):
                loha[f"{stem}.hada_{name}_a"] = torch.randn(module.out_features, 2, generator=generator)
                loha[f"{stem}.hada_{name}_b"] = 0.1 * torch.randn(2, module.in_features, generator=generator)
            loha[key] = torch.tensor(2.0)
    ours = ask(interpolated(model, [loha, lora], Alphas((0.0,), 2)), cond, x)
    assert torch.allclose(ours, ask(merged(model, loha), cond, x), **TOLERANCE)
    with pytest.raises(ValueError, match="`product`"):
        interpolated(model, [loha, lora], schedule(2), mixing="factor")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda m, l: interpolated(m, [l], schedule(2)), "2 key pictures, but 1 LoRAs"),
        (lambda m, l: interpolated(m, [l, {}], schedule(2)), "LoRA 1 is empty"),
        (lambda m, l: interpolated(tiny_model("sdxl"), [l, l], schedule(2)), "another model"),
        (lambda m, l: interpolated(tiny_model("flux"), [l, l], schedule(2)), "another model"),
        (lambda m, l: interpolated(m, [{"odd.lora_up.weight": torch.ones(2, 2)}] * 2, schedule(2)), "another model"),
        (lambda m, l: interpolated(m, [l, random_lora(m, rank=5)], schedule(2), mixing="factor"), "`product`"),
        (lambda m, l: interpolated(m, [l, l], schedule(2), fixed=3.0), "`fixed_alpha` is 3, .* lie at 0 to 1"),
        (lambda m, l: ask(interpolated(m, [l, l], schedule(4)), COND, tiny_latent("sd1")), "4 frames, but 1"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(make, message):
    model = tiny_model("sd1")
    with pytest.raises(ValueError, match=message):
        make(model, random_lora(model))


def test_weights_without_a_layer_are_counted_and_too_many_of_them_refused(monkeypatch):
    """Up to half may be missing, as where a family of models has some layers more; a text encoder's do not count."""
    warned = []
    monkeypatch.setattr("palimpsest.host.morphing.lora.notify", warned.append)
    model = tiny_model("sd1")
    lora = random_lora(model)
    interpolated(model, [lora, lora], schedule(2))
    assert not warned
    text = {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(2, 2)}
    strange = {f"diffusion_model.more.{place}.lora_up.weight": torch.ones(2, 2) for place in range(5)}
    interpolated(model, [lora, lora | text | strange], schedule(2))
    assert warned[0] == f"LoRA 1: 5 of its {len(lora) + 5} weights have no layer in this model and are left out."
    strange = {f"diffusion_model.more.{place}.lora_up.weight": torch.ones(2, 2) for place in range(len(lora) + 1)}
    with pytest.raises(ValueError, match="another model"):
        interpolated(model, [lora, lora | strange], schedule(2))


HALF = torch.bfloat16


def test_in_half_precision_the_branch_errs_no_more_than_the_merged_weights_do():
    """Against the same model in float32; and the two differ by less than a tenth of what the LoRAs do."""
    full, half = tiny_model("sd1"), tiny_model("sd1", dtype=HALF)
    # On the CPU the host would compute in float32 from weights of half precision.
    half.model.manual_cast_dtype = None
    loras = [random_lora(full, seed) for seed in range(2)]
    x = tiny_latent("sd1", batch=3)
    seen = []
    watch = half.model.diffusion_model.output_blocks[1][1].transformer_blocks[0].attn1.to_q
    handle = watch.register_forward_hook(lambda _module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    rows = ask(interpolated(half, loras, schedule(3)), COND, x)
    handle.remove()
    assert seen and all(dtypes == (HALF, HALF) for dtypes in seen)
    exact = ask(interpolated(full, loras, schedule(3)), COND, x)
    for row, weights in enumerate(schedule(3).weights().tolist()):
        mixed = half
        for lora, weight in zip(loras, weights):
            mixed = merged(mixed, lora, weight) if weight else mixed
        host = ask(mixed, COND, x[row : row + 1])
        error, hosts = (rms(one - exact[row : row + 1]) for one in (rows[row : row + 1], host))
        assert error < 2 * hosts
        assert rms(rows[row : row + 1] - host) < 0.1 * rms(host - ask(half, COND, x[row : row + 1]))


def rms(x):
    return float(x.float().square().mean().sqrt())


def test_a_dora_is_refused():
    model = tiny_model("sd1")
    lora = random_lora(model)
    stem = next(key for key in lora if key.endswith(".alpha"))[:-6]
    lora[f"{stem}.dora_scale"] = torch.ones(model.model.get_submodule(stem).out_features, 1)
    with pytest.raises(ValueError, match="DoRA"):
        interpolated(model, [lora, lora], schedule(2))


def test_the_round_trip_of_a_lora_keeps_every_change():
    model = tiny_model("sd1")
    lora = random_lora(model)
    again = lora_model({name: change["low"] for name, change in read_lora(model, lora).items()})
    assert all(torch.equal(again[key], lora[key]) for key in lora)


def test_a_batch_that_some_loop_cuts_into_rows_keeps_each_rows_mixture():
    from palimpsest.host.batching import by_rows

    model, alphas = tiny_model("sd1"), schedule(3, 3)
    loras = [random_lora(model, seed) for seed in range(3)]
    mixed, x = interpolated(model, loras, alphas), tiny_latent("sd1", batch=3)
    whole = ask(mixed, COND, x)
    tried = []

    def body(session, rows):
        tried.append(rows)
        if session.latent.shape[0] > 2:
            raise torch.OutOfMemoryError("short")
        return session.guided(x[rows], 2.0)

    parts = by_rows(mixed, {"positive": COND}, x, torch.tensor([2.0, 0.0]), body)
    assert len(tried) == 4 and torch.allclose(torch.cat(parts), whole, **TOLERANCE)
