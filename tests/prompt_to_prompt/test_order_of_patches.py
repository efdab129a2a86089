"""Other nodes' attention patches before, behind and inside ours: the order of nodes does not matter."""

import comfy.sample
import comfy.samplers
import pytest
import torch
from palimpsest.guidance.anchor import Anchor
from palimpsest.host.inversion.anchor import anchored
from palimpsest.host.morphing.attention_blend import blended
from palimpsest.host.prompt_to_prompt.patch import with_prompt_to_prompt
from palimpsest.host.prompt_to_prompt.tokens import read_prompt
from palimpsest.host.prompt_to_prompt.word_maps import maps_of_trajectory
from palimpsest.morphing.attention_blend import BLENDS
from palimpsest.morphing.schedule import Alphas

from ..tiny_models import tiny_cond
from .stand_ins import Foreign, euler_by_hand, hooked, nested
from .test_host import TEXTS, parts, plan_of, rows_of, run, schedule, start, trajectory_for  # noqa: F401

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def edit(parts, **settings):
    return plan_of(parts[1], TEXTS[:2], **{"cross_steps": 1.0, "self_steps": 1.0, **settings})


@pytest.mark.parametrize("attention", ["attn1", "attn2"])
@pytest.mark.parametrize("place", ["behind", "before", "hook", "nested", "nested before"])
def test_a_replacement_in_every_layer_changes_nothing(parts, attention, place):
    model, clip = parts
    plan, positive = edit(parts), rows_of(clip, TEXTS[:2])
    wanted = run(with_prompt_to_prompt(model, plan), positive, 2)
    assert (wanted - run(model, positive, 2)).abs().max() > 1e-2
    if place == "behind":
        patched = Foreign().on(with_prompt_to_prompt(model, plan), attention)
    elif place == "before":
        patched = with_prompt_to_prompt(Foreign().on(model, attention), plan)
    elif place == "hook":
        patched, positive = with_prompt_to_prompt(model, plan), hooked(model, positive, attention)
    else:
        order = (with_prompt_to_prompt, nested) if place == "nested" else (nested, with_prompt_to_prompt)
        patched = model
        for make in order:
            patched = make(patched, plan if make is with_prompt_to_prompt else attention)
    assert torch.allclose(run(patched, positive, 2), wanted, **CLOSE)


@pytest.mark.parametrize("order", [("negative", "positive"), ("positive", "negative")])
def test_a_loop_that_asks_for_the_conditionings_itself(parts, order):
    model, clip = parts
    patched, positive = with_prompt_to_prompt(model, edit(parts)), rows_of(clip, TEXTS[:2])
    wanted, noise = run(patched, positive, 2), start(2)
    with torch.inference_mode():
        out = comfy.sample.sample_custom(
            patched,
            noise,
            4.0,
            euler_by_hand(4.0, order),
            schedule(model),
            positive,
            tiny_cond("sd1", seed=2),
            torch.zeros_like(noise),
            disable_pbar=True,
            seed=1,
        )
    assert torch.allclose(out, wanted, **CLOSE)


def run_blended(model, blend):
    alphas = Alphas((0.0, 0.3, 1.0), 2)
    with torch.inference_mode():
        return blended(model, alphas, blend=blend), 3, tiny_cond("sd1")


def run_edited(model, clip, parts):
    return with_prompt_to_prompt(model, edit(parts)), 2, rows_of(clip, TEXTS[:2])


@pytest.mark.parametrize("attention", ["attn1", "attn2"])
@pytest.mark.parametrize("kind", ["replace", "input"])
@pytest.mark.parametrize("place", ["before", "behind"])
@pytest.mark.parametrize("ours", ["prompt to prompt", "anchor", *BLENDS])
def test_a_foreign_patch_keeps_all_that_the_host_asks_for(parts, ours, place, kind, attention):
    model, clip = parts
    foreign = Foreign(kind)
    base = foreign.on(model, attention) if place == "before" else model
    if ours in BLENDS:
        patched, batch, positive = run_blended(base, ours)
        plain = run_blended(model, ours)[0]
    else:
        patched, batch, positive = run_edited(base, clip, parts)
        plain = run_edited(model, clip, parts)[0]
        if ours == "anchor":
            patched, plain = (anchored(one, Anchor(trajectory_for(model), rows=(0,))) for one in (patched, plain))
    patched = foreign.on(patched, attention) if place == "behind" else patched
    out = run(patched, positive, batch)
    assert foreign.calls and foreign.asked == {"to", "models", "cleanup"}
    assert torch.allclose(out, run(plain, positive, batch), **CLOSE)


@pytest.mark.parametrize("kind", ["replace", "input"])
def test_word_maps_are_read_through_a_foreign_patch(parts, kind):
    model, clip = parts
    foreign = Foreign(kind)
    prompt, positive, trajectory = read_prompt(clip, TEXTS[0])[0], rows_of(clip, TEXTS[:1]), trajectory_for(model)
    with torch.inference_mode():
        maps = [maps_of_trajectory(one, prompt, positive, trajectory, 2) for one in (model, foreign.on(model, "attn2"))]
    assert foreign.calls and foreign.asked == {"to", "models", "cleanup"} and torch.allclose(*maps, **CLOSE)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("place", ["behind", "nested"])
def test_attention_blend_stays_in_force(parts, blend, place):
    model, _ = parts
    patched, batch, positive = run_blended(model, blend)
    later = Foreign().on(patched) if place == "behind" else nested(patched, "attn1")
    assert torch.allclose(run(later, positive, batch), run(patched, positive, batch), **CLOSE)


def test_a_network_that_is_called_without_our_attention_is_refused(parts):
    """A node that runs the network in its own way, past the host's wrappers."""
    model, clip = parts
    patched = with_prompt_to_prompt(model, edit(parts)).clone()

    def own_way(apply, args):
        options = {**args["c"]["transformer_options"], "wrappers": {}}
        return apply(args["input"], args["timestep"], **{**args["c"], "transformer_options": options})

    patched.set_model_unet_function_wrapper(own_way)
    with pytest.raises(ValueError, match="take that node off"):
        run(patched, rows_of(clip, TEXTS[:2]), 2)
