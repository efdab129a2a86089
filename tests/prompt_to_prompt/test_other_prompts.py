"""Other prompts beside ours: they act as on the plain model, and the edit is made in our own entry alone."""

import comfy.sample
import comfy.samplers
import pytest
import torch
from palimpsest.nodes.prompt_to_prompt import PromptToPrompt

from nodes import (
    ConditioningCombine,
    ConditioningConcat,
    ConditioningSetArea,
    ConditioningSetMask,
    ConditioningSetTimestepRange,
)

from ..tiny_models import tiny_cond
from .test_host import parts, run, start  # noqa: F401

SOURCE, EDIT = "a red heart on grey", "a blue heart on grey"


def made(parts, edits=EDIT, source=SOURCE, **options):
    model, clip = parts
    with torch.inference_mode():
        return PromptToPrompt.execute(model, clip, source, edits, cross_steps=1.0, self_steps=1.0, **options).args[:2]


def ask(model, positive, sigma, x):
    """The prediction of the positive prompt alone, (B, C, h, w), and the host's prepared entries."""
    found = {}

    def once(wrapped, x, sigmas, extra_args, callback, disable):
        guider = wrapped.inner_model
        found["entries"] = guider.conds["positive"]
        found["x0"] = comfy.samplers.calc_cond_batch(
            guider.inner_model, [guider.conds["positive"]], x, sigmas[0].expand(len(x)), extra_args["model_options"]
        )[0]
        return x

    sigmas = torch.tensor([sigma, 0.0])
    with torch.inference_mode():
        comfy.sample.sample_custom(
            model,
            x / sigma,
            1.0,
            comfy.samplers.KSAMPLER(once),
            sigmas,
            positive,
            tiny_cond("sd1", seed=2),
            torch.zeros_like(x),
            disable_pbar=True,
            seed=1,
        )
    return found["x0"], found["entries"]


def fractions(entries, x, sigma):
    """What each entry counts for at each place, as the host has it."""
    levels, whole = torch.full((len(x),), sigma), []
    for entry in entries:
        area = comfy.samplers.get_area_and_mult(entry, x, levels)
        counts = torch.zeros_like(x)
        if area is not None:
            place = counts
            if area.area is not None:
                for i in range(2):
                    place = place.narrow(i + 2, area.area[2 + i], area.area[i])
            place += area.mult
        whole.append(counts)
    return [one / sum(whole).clamp_min(1e-30) for one in whole]


def combined(positive, other):
    return ConditioningCombine().combine(positive, other)[0]


BESIDE = {
    "combined": lambda other: other,
    "as many rows as ours": lambda other: [[other[0][0].repeat(2, 1, 1), other[0][1]]],
    "in an area": lambda other: ConditioningSetArea().append(other, 48, 64, 8, 16, 1.0)[0],
    "under a mask": lambda other: ConditioningSetMask().append(other, torch.eye(8)[None], "default", 0.7)[0],
    "early in the run": lambda other: ConditioningSetTimestepRange().set_range(other, 0.0, 0.5)[0],
    "late in the run": lambda other: ConditioningSetTimestepRange().set_range(other, 0.5, 1.0)[0],
}


@pytest.mark.parametrize("sigma", [5.0, 0.5])
@pytest.mark.parametrize("where", BESIDE)
def test_a_prompt_beside_ours_acts_as_on_the_plain_model(parts, where, sigma):
    model, _ = parts
    patched, positive = made(parts)
    other, x = BESIDE[where](tiny_cond("sd1", seed=9)), 3 * start(2)
    both = combined(positive, other)
    found, _ = ask(patched, both, sigma, x)
    plain, entries = ask(model, both, sigma, x)
    edited, unedited = (ask(one, positive, sigma, x)[0] for one in (patched, model))
    assert (edited - unedited).abs().max() > 1e-2
    assert torch.allclose(found - plain, fractions(entries, x, sigma)[0] * (edited - unedited), atol=1e-4)


@pytest.mark.parametrize("change", ["in an area", "under a mask", "early in the run"])
def test_our_own_prompt_may_be_set_to_a_place_or_a_time(parts, change):
    model, _ = parts
    patched, positive = made(parts)
    x, sigma = 3 * start(2), 5.0
    both = combined(BESIDE[change](positive), tiny_cond("sd1", seed=9))
    change = ask(patched, both, sigma, x)[0] - ask(model, both, sigma, x)[0]
    assert change[0].abs().max() < 1e-5 and change[1].abs().max() > 1e-3


def test_another_text_within_the_prompt_is_refused(parts):
    patched, positive = made(parts)
    other = [[torch.randn(1, 77, 32), {}]]
    joined = ConditioningConcat().concat(positive, [[other[0][0].repeat(2, 1, 1), {}]])[0]
    with pytest.raises(ValueError, match="Conditioning Combine"):
        run(patched, joined, 2)


def test_a_prompt_that_is_repeated_is_the_prompt(parts):
    patched, positive = made(parts)
    twice = ConditioningConcat().concat(positive, positive)[0]
    assert torch.allclose(run(patched, twice, 2), run(patched, positive, 2), atol=3e-3)


def test_the_prompt_of_another_plan_is_refused(parts):
    patched, _ = made(parts)
    _, other = made(parts, edits="a green star on grey")
    with pytest.raises(ValueError, match="not the one of Prompt-to-Prompt"):
        run(patched, other, 2)


def test_a_second_plan_on_one_model_is_refused(parts):
    patched, _ = made(parts)
    with pytest.raises(ValueError, match="already"):
        made((patched, parts[1]), edits="a green star on grey")
