"""Windows of single words, the official Refine's own maps, and maps of at most 32 x 32 cells."""

import pytest
import torch
from palimpsest.guidance.prompt_to_prompt.plan import plan_edits
from palimpsest.guidance.prompt_to_prompt.windows import WordWindow, parse_windows
from palimpsest.host.prompt_to_prompt.patch import with_prompt_to_prompt
from palimpsest.host.prompt_to_prompt.tokens import read_prompt

from ..tiny_models import tiny_model
from .test_host import parts, plan_of, rows_of, run
from .texts import prompt

__all__ = ["parts"]
SOURCE, EDIT = "a red heart on grey", "a blue star on grey"


def column(edit, word):
    return edit.find(prompt(word))[0]


def official_alpha(edit, words: dict, cross: float, steps: int) -> torch.Tensor:
    """(steps, K): the published code's weights of the source's map, from the rule in words: everyone has the default
    window; a word with one of its own has nothing else."""
    alpha = torch.zeros(steps, len(edit))
    alpha[: int(cross * steps)] = 1
    for word, (start, end) in words.items():
        alpha[:, list(edit.find(prompt(word)))] = 0
        alpha[int(start * steps) : int(end * steps), list(edit.find(prompt(word)))] = 1
    return alpha


@pytest.mark.parametrize("words", [{}, {"star": (0.0, 0.4)}, {"star": (0.1, 0.4), "blue": (0.5, 1.0)}])
def test_a_map_is_the_published_mixture_in_every_step(words):
    source, edit, steps, cross = prompt(SOURCE), prompt(EDIT), 10, 0.8
    windows = [WordWindow(prompt(word), *span) for word, span in words.items()]
    plan = plan_edits(source, [edit], cross_steps=cross, word_steps=windows)
    generator = torch.Generator().manual_seed(0)
    old, own = (torch.rand(6, len(p), generator=generator) for p in (source, edit))
    (whole,) = plan.alignments
    alpha = official_alpha(edit, words, cross, steps)
    for step in range(steps):
        found = plan.alignments_at(step, steps)
        mine = (old @ found[0].take + own * found[0].new) * found[0].scale if found else own
        replaced = (old @ whole.take + own * whole.new) * whole.scale
        assert torch.allclose(mine, replaced * alpha[step] + own * (1 - alpha[step])), step


def test_weights_act_in_the_words_own_steps():
    source, edit = prompt(SOURCE), prompt("a {red:2} heart on grey")
    plan = plan_edits(source, [edit], word_steps=[WordWindow(prompt("red"), 0.0, 0.5)])
    scales = [plan.alignments_at(step, 4)[0].scale[column(edit, "red")] for step in range(3)]
    assert scales == [2, 2, 1]


def test_windows_are_read_from_a_text():
    assert parse_windows("star: 0.4, old man:0.1 to .5\nhat: 0.2 - 1") == [
        ("star", 0.0, 0.4),
        ("old man", 0.1, 0.5),
        ("hat", 0.2, 1.0),
    ]
    assert parse_windows(" ,\n") == []


@pytest.mark.parametrize("text", ["star", "star: 2", "star: 0.5 to 0.2", "star: x", ": 0.4"])
def test_what_is_no_window_is_a_sentence(text):
    with pytest.raises(ValueError, match="is no window"):
        parse_windows(text)


def test_a_window_for_a_word_that_no_edit_has_is_a_sentence():
    with pytest.raises(ValueError, match="'heart', which is in none of the edited texts"):
        plan_edits(prompt(SOURCE), [prompt(EDIT)], word_steps=[WordWindow(prompt("heart"), 0, 1)])


def test_refine_leaves_a_replaced_word_its_own_map():
    """As the official Refine: words that both texts have keep the source's columns, all others their own."""
    source, edit = prompt(SOURCE), prompt(EDIT)
    ours, refine = (plan_edits(source, [edit], own_maps=own).alignments[0] for own in (False, True))
    swapped = [column(edit, "blue"), column(edit, "star")]
    assert refine.new[swapped].all() and not refine.take[:, swapped].any()
    assert not ours.new[swapped].any() and ours.take[:, swapped].sum() == 2
    kept = [place for place in range(len(edit)) if place not in swapped]
    assert torch.equal(refine.take[:, kept], ours.take[:, kept]) and refine.swaps == ours.swaps


def test_windows_that_all_end_at_once_are_the_plain_run(parts):
    """One window for all words, written out, is cross_steps to the last bit."""
    model, clip = parts
    positive = rows_of(clip)
    words = [WordWindow(read_prompt(clip, word)[0], 0.0, 0.5) for word in ("blue", "star")]
    plain = run(with_prompt_to_prompt(model, plan_of(clip, cross_steps=0.5)), positive, 3)
    written = run(with_prompt_to_prompt(model, plan_of(clip, cross_steps=0.5, word_steps=words)), positive, 3)
    longer = [WordWindow(word.phrase, 0.0, 1.0) for word in words]
    other = run(with_prompt_to_prompt(model, plan_of(clip, cross_steps=0.5, word_steps=longer)), positive, 3)
    assert torch.equal(plain, written)
    assert all((other[row] - plain[row]).abs().max() > 1e-3 for row in (1, 2))


def test_shapes_are_kept_in_maps_of_few_cells(parts):
    """12 x 8 latents: maps of 96 cells and of 24."""
    model, clip = parts
    positive = rows_of(clip)

    def made(**settings):
        return run(
            with_prompt_to_prompt(model, plan_of(clip, cross_steps=0.0, self_steps=1.0, **settings)), positive, 3
        )

    assert torch.equal(made(self_reduction=1, self_cells=96), made(self_reduction=1))
    assert torch.equal(made(self_reduction=1, self_cells=95), made(self_reduction=2))
    assert torch.equal(made(self_reduction=1, self_cells=23), made(self_reduction=4))
    assert not torch.equal(made(self_reduction=1), made(self_reduction=2))


def test_few_cells_are_for_unets(parts):
    with torch.inference_mode(), pytest.raises(ValueError, match="choice for UNets"):
        with_prompt_to_prompt(tiny_model("flux"), plan_of(parts[1], self_cells=1024))
