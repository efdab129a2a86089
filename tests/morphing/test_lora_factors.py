"""LoRA Interpolator keeps every kind of LoRA as factors, counts them, and says what it leaves out."""

import math

import pytest
import torch
from palimpsest.host.content_cache import byte_size
from palimpsest.host.morphing.lora import read_lora
from palimpsest.host.morphing.row_lora import interpolated
from palimpsest.morphing.schedule import Alphas, schedule

from ..tiny_models import tiny_cond, tiny_latent, tiny_model
from .parts import ask, random_lora
from .test_row_lora import TOLERANCE, merged


def draw(*shape, seed):
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loha(module, seed):
    out, into = module.weight.shape[0], module.weight[0].numel()
    names = {"hada_w1_a": (out, 2), "hada_w1_b": (2, into), "hada_w2_a": (out, 2), "hada_w2_b": (2, into)}
    return {name: draw(*shape, seed=seed + place) for place, (name, shape) in enumerate(names.items())}


def lokr(module, seed):
    """The left factor whole, the right one of rank 2 (over the inputs and the kernel of a convolution)."""
    out, into = module.weight.shape[0], module.weight[0].numel()
    names = {"lokr_w1": (4, 4), "lokr_w2_a": (out // 4, 2), "lokr_w2_b": (2, into // 4)}
    return {name: draw(*shape, seed=seed + place) for place, (name, shape) in enumerate(names.items())}


def locon(module, seed):
    """A LoRA with a factor in the middle, which only convolutions have."""
    kernel = module.weight.shape[2:]
    names = {"lora_up.weight": (module.weight.shape[0], 2, 1, 1), "lora_mid.weight": (2, 2, *kernel)}
    names["lora_down.weight"] = (2, module.weight.shape[1], 1, 1)
    return {name: draw(*shape, seed=seed + place) for place, (name, shape) in enumerate(names.items())}


def layers_of(model, convolutions):
    for name, module in model.model.diffusion_model.named_modules():
        kind = torch.nn.Conv2d if convolutions else torch.nn.Linear
        if isinstance(module, kind) and all(size % 4 == 0 for size in module.weight.shape[:2]):
            yield name, module


def of_kind(model, kind, convolutions):
    """A LORA_MODEL of one kind for all layers of one sort."""
    found = {}
    for place, (name, module) in enumerate(layers_of(model, convolutions)):
        for key, value in kind(module, 10 * place).items():
            found[f"diffusion_model.{name}.{key}"] = value
        found[f"diffusion_model.{name}.alpha"] = torch.tensor(1.5)
    return found


KINDS = [(loha, False), (loha, True), (lokr, False), (lokr, True), (locon, True)]


@pytest.mark.parametrize("kind, convolutions", KINDS)
def test_every_kind_does_what_the_whole_matrix_does(kind, convolutions):
    """Against the host's merged weights, beside a plain LoRA and at a strength."""
    model, cond, x = tiny_model("sd1"), tiny_cond("sd1"), tiny_latent("sd1")
    one, other = of_kind(model, kind, convolutions), random_lora(model)
    ours = ask(interpolated(model, [one, other], Alphas((0.25,), 2), strength=0.5), cond, x)
    mixed = merged(merged(model, one, 0.375), other, 0.125)
    assert torch.allclose(ours, ask(mixed, cond, x), **TOLERANCE)
    assert not torch.allclose(ours, ask(merged(model, other, 0.125), cond, x), atol=1e-2)


@pytest.mark.parametrize("kind, convolutions", KINDS)
def test_what_is_kept_of_a_lora_is_its_factors(kind, convolutions):
    model = tiny_model("sd1")
    lora = of_kind(model, kind, convolutions)
    assert byte_size(read_lora(model, lora)) <= byte_size(lora)


def test_the_text_encoders_half_is_left_out_with_a_word(monkeypatch):
    warned = []
    monkeypatch.setattr("palimpsest.host.morphing.lora.notify", warned.append)
    model = tiny_model("sd1")
    lora = random_lora(model)
    text = {
        f"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_{end}.weight": torch.ones(2, 2) for end in ("up", "down")
    }
    interpolated(model, [lora, lora | text], schedule(2))
    (sentence,) = warned
    assert sentence.startswith(f"LoRA 1: 2 of its {len(lora) + 2} weights are the text encoder's")
    assert "Load LoRA" in sentence and "`strength_model` 0" in sentence


def test_factors_of_another_size_are_refused():
    model = tiny_model("sd1")
    lora = of_kind(model, loha, False)
    lora = {
        key: value[:, :-4] if key.endswith("w1_b") or key.endswith("w2_b") else value for key, value in lora.items()
    }
    with pytest.raises(ValueError, match="another model"):
        interpolated(model, [lora, lora], schedule(2))


def test_a_lokr_that_the_host_leaves_out_is_refused():
    """Its own code fails at the middle factor's strides, logs it and goes on."""
    model = tiny_model("sd1")
    name, module = next((name, one) for name, one in layers_of(model, True) if one.kernel_size == (3, 3))
    lora = {f"diffusion_model.{name}.{key}": value for key, value in lokr(module, 0).items()}
    lora[f"diffusion_model.{name}.lokr_t2"] = draw(2, 2, 3, 3, seed=3)
    with pytest.raises(ValueError, match="middle factor"):
        interpolated(model, [lora, lora], schedule(2))


def scarce(patched, most):
    """The model with memory for no more than so many rows, and the rows of all its calls."""
    calls = []

    def short(executor, x, *args, **kwargs):
        calls.append(x.shape[0])
        if x.shape[0] > most:
            raise torch.OutOfMemoryError("short")
        return executor(x, *args, **kwargs)

    patched = patched.clone()
    patched.add_wrapper_with_key("diffusion_model", "short", short)
    return patched, calls


@pytest.mark.parametrize("family", ["sd1", "flux"])
@pytest.mark.parametrize("fixed", [None, 0.5])
def test_memory_that_runs_out_is_answered_by_smaller_chunks(family, fixed):
    model, alphas = tiny_model(family), schedule(6, 3)
    loras = [random_lora(model, seed, where=("to_q", "qkv", "proj", "linear1")) for seed in range(3)]
    mixed = interpolated(model, loras, alphas, fixed=fixed)
    cond, x = tiny_cond(family), tiny_latent(family, batch=6)
    patched, calls = scarce(mixed, 4)
    whole = ask(mixed, cond, x, negative=tiny_cond(family, seed=1), cfg=3.0)
    parts = ask(patched, cond, x, negative=tiny_cond(family, seed=1), cfg=3.0)
    assert torch.allclose(parts, whole, **TOLERANCE)
    assert calls[0] == 12 and max(calls[1:-2]) <= 6 and max(calls[-2:]) <= 4


def test_a_call_is_cut_to_what_the_hosts_estimate_says_fits(monkeypatch):
    model, alphas = tiny_model("sd1"), schedule(6)
    loras = [random_lora(model, seed) for seed in range(2)]
    mixed = interpolated(model, loras, alphas)
    cond, x = tiny_cond("sd1"), tiny_latent("sd1", batch=6)
    whole = ask(mixed, cond, x)
    row = model.model.memory_required([1, *x.shape[1:]]) * 1.5
    monkeypatch.setattr("palimpsest.host.morphing.row_chunks.free_bytes", lambda model, device: 2.5 * row)
    patched, calls = scarce(mixed, 6)
    assert torch.allclose(ask(patched, cond, x), whole, **TOLERANCE)
    assert calls == [2, 2, 2]


def test_the_hosts_preparation_of_a_run_counts_the_loras():
    """Kept where they are read, in the model's precision where they are used, and counted as further rows."""
    model, alphas = tiny_model("sd1"), schedule(2)
    loras = [random_lora(model), of_kind(model, loha, False)]
    asked = []

    def prepare(executor, model, shape, conds, *args, **kwargs):
        asked.append(shape[0])
        return executor(model, shape, conds, *args, **kwargs)

    def watched(patched):
        patched = patched.clone()
        patched.add_wrapper_with_key("prepare_sampling", "watch", prepare)
        return patched

    x = tiny_latent("sd1", batch=2)
    ask(watched(model), tiny_cond("sd1"), x)
    ask(watched(interpolated(model, loras, alphas)), tiny_cond("sd1"), x)
    without_scales = [{key: value for key, value in lora.items() if value.ndim} for lora in loras]
    row = model.model.memory_required([1, *x.shape[1:]])
    assert asked == [2, 2 + math.ceil(byte_size(without_scales) / row)]
