"""Other people's patches beside gradients: those that write into their input, and those that let none through."""

import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_freelunch import FreeU, FreeU_V2
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_sag import SelfAttentionGuidance

from ..tiny_models import tiny_cond, tiny_latent, tiny_model
from . import techniques
from .techniques import GRADIENTS, fitted_lora
from .test_gradients import both_gradients


def out(node, *settings):
    """A stock node as a function of the model."""

    def apply(model):
        found = node.execute(model, *settings)
        return (found.args if hasattr(found, "args") else found)[0]

    return apply


STOCK = {
    "FreeU": out(FreeU, 1.1, 1.2, 0.9, 0.2), "FreeU V2": out(FreeU_V2, 1.3, 1.4, 0.9, 0.2),
    "HyperTile": out(HyperTile, 32, 2, 0, False), "PAG": out(PerturbedAttentionGuidance, 3.0),
    "SAG": out(SelfAttentionGuidance, 0.5, 2.0),
}  # fmt: skip


def written(value: torch.Tensor) -> torch.Tensor:
    """A change in place that depends on what was there, as FreeU V2's does."""
    value[:, : value.shape[1] // 2] = value[:, : value.shape[1] // 2] * (1 + 0.1 * torch.tanh(value[:, :1]))
    return value.mul_(1 + 0.1 * torch.sigmoid(value))


def named(key: str):
    """A patch whose arguments come in a dict."""

    def patch(args):
        args[key] = written(args[key])
        return args

    return patch


def replacement(q, k, v, options):
    return written(optimized_attention(written(q), written(k), written(v), options["n_heads"]))


def first(x, *_rest):
    return written(x)


def three(n, k, v, _options):
    return written(n), k, v


def both(h, skip, _options):
    return written(h), written(skip)


WRITING = {
    "input block": lambda model: model.set_model_input_block_patch(first),
    "after skip": lambda model: model.set_model_input_block_patch_after_skip(first),
    "middle block": lambda model: model.set_model_patch(named("h"), "middle_block_after_patch"),
    "output block": lambda model: model.set_model_output_block_patch(both),
    "embedding": lambda model: model.set_model_emb_patch(first),
    "attn1": lambda model: model.set_model_attn1_patch(three),
    "attn2": lambda model: model.set_model_attn2_patch(three),
    "attn1 output": lambda model: model.set_model_attn1_output_patch(first),
    "attn2 output": lambda model: model.set_model_attn2_output_patch(first),
    "between attentions": lambda model: model.set_model_patch(first, "middle_patch"),
    "attn1 replacement": lambda model: model.set_model_attn1_replace(replacement, "output", 1),
    "attn2 replacement": lambda model: model.set_model_attn2_replace(replacement, "middle", 0),
    "before CFG": lambda model: model.set_model_sampler_pre_cfg_function(
        lambda args: [written(one) for one in args["conds_out"]]
    ),
    "CFG": lambda model: model.set_model_sampler_cfg_function(
        lambda args: written(args["cond"]) * 2 - written(args["uncond"])
    ),
    "behind CFG": lambda model: model.set_model_sampler_post_cfg_function(lambda args: written(args["denoised"])),
}  # fmt: skip


def in_place(*kinds):
    def apply(model):
        clone = model.clone()
        for kind in kinds:
            WRITING[kind](clone)
        return clone

    return apply


@pytest.fixture(scope="module")
def model():
    with torch.inference_mode():
        return tiny_model("sd1")


@pytest.fixture(autouse=True)
def as_in_the_host():
    with torch.inference_mode():
        yield


SMOOTH = {name: apply for name, apply in STOCK.items() if name != "SAG"}


@pytest.mark.parametrize("patch", [*SMOOTH, *WRITING])
def test_the_gradient_is_the_finite_difference(model, patch):
    """SAG is left out: it cuts a mask at a threshold."""
    patched = {**SMOOTH, **{kind: in_place(kind) for kind in WRITING}}[patch](model)
    conds = {"positive": tiny_cond("sd1"), "negative": tiny_cond("sd1", seed=1)}
    difference, gradient = both_gradients(patched, conds, tiny_latent("sd1"), cfg=3.0)
    assert gradient == pytest.approx(difference, rel=3e-3)


@pytest.fixture(scope="module")
def plain(model):
    with torch.inference_mode():
        return {name: technique(model) for name, technique in GRADIENTS.items()}


@pytest.mark.parametrize("technique", GRADIENTS)
@pytest.mark.parametrize("patch", [*STOCK, "all in place"])
def test_a_technique_with_gradients_works_with_the_patch(model, plain, patch, technique):
    patched = {**STOCK, "all in place": in_place(*WRITING)}[patch](model)
    found = GRADIENTS[technique](patched)
    assert all(torch.isfinite(one).all() for one in found)
    guides = patch in ("PAG", "SAG")
    # Guidance takes no part where a prompt is evaluated alone.
    assert guides or not all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found, plain[technique]))


# No gradient comes back


def tiled(model):
    """As a tiled model does it: parts are put together in a buffer, without gradients."""
    clone = model.clone()

    @torch.inference_mode()
    def wrapper(apply_model, args):
        x, whole = args["input"], torch.zeros_like(args["input"])
        for half in (slice(0, 4), slice(4, 8)):
            whole[..., half] = apply_model(x[..., half], args["timestep"], **args["c"])
        return whole

    clone.set_model_unet_function_wrapper(wrapper)
    return clone


def detached(kind):
    def apply(model):
        clone = model.clone()
        clone.add_wrapper_with_key(kind, "detached", lambda executor, *args, **more: executor(*args, **more).detach())
        return clone

    return apply


CUT = {"tiles": tiled, "network": detached(WrappersMP.DIFFUSION_MODEL), "model": detached(WrappersMP.APPLY_MODEL)}


@pytest.mark.parametrize("technique", [name for name in GRADIENTS if name != "sketch guidance"])
@pytest.mark.parametrize("place", CUT)
def test_a_model_that_lets_no_gradient_through_is_a_sentence(model, place, technique):
    """The graph of sketch guidance begins and ends within the network, where nothing of this matters."""
    with pytest.raises(ValueError, match="No gradient comes back through this model"):
        GRADIENTS[technique](CUT[place](model))


def test_a_prompt_for_a_part_of_the_run_is_a_sentence(model, monkeypatch):
    limited = [[tiny_cond("sd1")[0][0], {"start_percent": 0.0, "end_percent": 0.2}]]
    monkeypatch.setattr(techniques, "POSITIVE", limited)
    with pytest.raises(ValueError, match="limited to a part of the run"):
        fitted_lora(model)
