"""Morph Conditioning: which tokens each frame reads, where the text encoder marks what is padding."""

import pytest
import torch
from palimpsest.host.morphing.conditioning import morphed
from palimpsest.host.morphing.extra_keys import ExtraKeys
from palimpsest.inversion.trajectory import Trajectory
from palimpsest.morphing.schedule import Alphas, schedule

# Read text by cross-attention alone, and text and picture together.
NARROW, WIDE = 8, 2304


def prompt(mask=None, tokens=4, width=NARROW, **options):
    """A CONDITIONING of one entry; mask: rows of 0 and 1."""
    mask = {} if mask is None else {"attention_mask": torch.tensor(mask)}
    rows = len(mask["attention_mask"]) if mask else 1
    return [[torch.randn(rows, tokens, width), {**mask, **options}]]


def masks(prompts, alphas):
    return morphed(prompts, alphas)[0][1].get("attention_mask")


def test_a_key_picture_has_its_own_mask_and_a_frame_between_reads_what_either_reads():
    one, two = [1, 1, 1, 0], [1, 0, 0, 0]
    assert masks([prompt([one]), prompt([two])], schedule(3)).tolist() == [one, one, two]
    odd, even = [1, 0, 1, 0], [0, 1, 0, 0]
    three = Alphas((0.0, 0.5, 1.0, 1.5, 2.0), 3)
    wanted = [odd, [1, 1, 1, 0], even, [1, 1, 0, 0], two]
    assert masks([prompt([odd]), prompt([even]), prompt([two])], three).tolist() == wanted
    assert masks([prompt([odd, even, two])], three).tolist() == wanted


def test_prompts_with_one_mask_keep_it_and_prompts_without_get_none():
    assert masks([prompt([[1, 1, 0, 0]])] * 2, schedule(5)).tolist() == [[1, 1, 0, 0]]
    assert masks([prompt(), prompt()], schedule(5)) is None
    assert masks([prompt(), prompt([[1, 0, 0, 0]])], schedule(2)).tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]


@pytest.mark.parametrize("width, second", [(NARROW, [1, 0, 1, 0]), (WIDE, [1, 0, 0, 0])])
def test_masks_follow_their_prompts_to_a_common_length(width, second):
    """Repeated as the prompt is, or nothing where zeros are added to it."""
    prompts = [prompt([[1, 1, 1, 0]], width=width), prompt([[1, 0]], tokens=2, width=width)]
    assert masks(prompts, schedule(2)).tolist() == [[1, 1, 1, 0], second]


def test_a_mask_of_another_kind_is_left_alone_where_it_still_fits():
    """As of pictures beside the text: (1, queries, keys)."""
    strange = [[[1, 0], [0, 1]]]
    assert masks([prompt(strange), prompt([[1, 1, 0, 0]])], schedule(3)).tolist() == strange
    assert masks([prompt(strange), prompt(tokens=6)], schedule(3)) is None


def test_extra_key_pictures_bring_their_masks():
    part = schedule(3).part(1, 1)
    path = torch.zeros(2, 2, 4, 8, 8)
    extra_keys = ExtraKeys(part, Trajectory(torch.tensor([0.0, 8.0]), path, "", 1.0, "", "eps", "SD15"))
    tokens, options = morphed([prompt([[1, 1, 0, 0]]), prompt([[1, 0, 1, 0]])], part)[0]
    entry = extra_keys._with_rows({"cross_attn": tokens, **options})
    assert entry["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0]]
    assert entry["cross_attn"].shape[0] == 3
