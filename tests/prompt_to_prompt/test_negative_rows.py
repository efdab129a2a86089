"""The negative prompt row by row: the source comes back at any CFG, and its edits do not hear of it."""

from dataclasses import replace

import pytest
import torch
from palimpsest.host.fingerprint import fingerprint
from palimpsest.host.inversion.null_text import fit_null_text
from palimpsest.host.prompt_to_prompt.negative_rows import negative_rows
from palimpsest.host.prompt_to_prompt.tokens import encode_tokens
from palimpsest.inversion.null_text_run import NullTextRecipe
from palimpsest.nodes.prompt_to_prompt import PromptToPrompt

from ..tiny_models import tiny_cond
from .test_host import parts, parts_in_double, run, trajectory_for  # noqa: F401

SOURCE, EDITS = "a red heart", "a blue heart\na red star"


def conditioning(value: float, rows: int = 1, length: int = 77, **options) -> list:
    return [[torch.full((rows, length, 8), value), {"pooled_output": torch.full((rows, 4), value), **options}]]


def edited(parts, **options):
    model, clip = parts
    with torch.inference_mode():
        return PromptToPrompt.execute(model, clip, SOURCE, EDITS, **options).args[:4]


def encoded(parts, text: str) -> list:
    with torch.inference_mode():
        return encode_tokens(parts[1], parts[1].tokenize(text))


def test_every_source_is_followed_by_its_edits():
    source = [[torch.tensor([1.0, 2.0])[:, None, None].expand(2, 77, 8), {"pooled_output": torch.ones(2, 4)}]]
    ((rows, options),) = negative_rows(source, conditioning(0.0), 2)
    assert rows[:, 0, 0].tolist() == [1.0, 0.0, 0.0, 2.0, 0.0, 0.0]
    assert options["pooled_output"][:, 0].tolist() == [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]


def test_a_noise_level_s_entry_keeps_its_range():
    levels = [conditioning(float(i), timestep_start=i + 1.0, timestep_end=float(i))[0] for i in range(3)]
    rows = negative_rows(levels, conditioning(9.0, length=154), 1)
    assert [(one[:, 0, 0].tolist(), one.shape[1]) for one, _ in rows] == [([float(i), 9.0], 154) for i in range(3)]
    assert [options["timestep_start"] for _, options in rows] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("source", "edits", "message"),
    [
        ([], conditioning(0.0), "source's negative prompt is empty"),
        (conditioning(1.0), [], "negative prompt is empty"),
        (conditioning(1.0), conditioning(0.0) * 2, "several parts"),
        (conditioning(1.0), conditioning(0.0, rows=2), "several parts or rows"),
        ([[None, {}]], conditioning(0.0), "no text embedding"),
    ],
)
def test_what_cannot_be_paired_is_a_sentence(source, edits, message):
    with pytest.raises(ValueError, match=message):
        negative_rows(source, edits, 1)


def test_left_open_it_is_the_empty_prompt(parts_in_double):
    parts = parts_in_double
    model, positive, _, negative = edited(parts)
    assert negative[0][0].shape[0] == 3
    by_row, whole = (run(model, positive, 3, negative=one) for one in (negative, encoded(parts, "")))
    assert torch.allclose(by_row, whole, atol=1e-4)


def test_the_source_comes_back_and_its_edits_do_not_hear_of_it(parts_in_double):
    """Without shared attention, rows are independent: the source's is sampled as at CFG 1, the edits' as ever."""
    parts = parts_in_double
    options = {"cross_steps": 0.0, "self_steps": 0.0}
    model, positive, _, negative = edited(parts, **options, source_negative=encoded(parts, SOURCE))
    out = run(model, positive, 3, negative=negative)
    unguided, plain = (run(model, positive, 3, **how) for how in ({"cfg": 1.0}, {"negative": encoded(parts, "")}))
    assert torch.allclose(out[0], unguided[0], atol=1e-4) and torch.allclose(out[1:], plain[1:], atol=1e-4)
    assert (out[0] - plain[0]).abs().max() > 1e-2
    own = edited(parts, **options, source_negative=encoded(parts, SOURCE), negative=tiny_cond("sd1", seed=5))[3]
    assert (run(model, positive, 3, negative=own) - out).abs().amax((1, 2, 3)).gt(1e-3).tolist() == [False, True, True]


def test_null_text_of_every_level_stands_in_the_source_s_row(parts):
    base = parts[0]
    trajectory = replace(trajectory_for(base), fingerprint=fingerprint(base))
    with torch.inference_mode():
        found = fit_null_text(base, trajectory, encoded(parts, SOURCE), encoded(parts, ""), NullTextRecipe(4.0))[0]
    options = {"cross_steps": 0.0, "self_steps": 0.0}
    model, positive, _, negative = edited(parts, **options, source_negative=found)
    assert len(negative) == len(found) and all(one.shape[0] == 3 for one, _ in negative)
    out = run(model, positive, 3, negative=negative)
    every, plain = (run(model, positive, 3, negative=one) for one in (found, encoded(parts, "")))
    assert torch.allclose(out[0], every[0], atol=1e-4) and torch.allclose(out[1:], plain[1:], atol=1e-4)
