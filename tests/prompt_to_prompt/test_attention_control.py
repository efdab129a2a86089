"""Edited attention against the paper's explicit maps; steps, masks and the blend."""

import pytest
import torch
from palimpsest.guidance.prompt_to_prompt.attention_control import (
    Roles,
    cross_attention,
    early,
    edited_maps,
    source_shapes,
    step_of,
    word_maps,
)
from palimpsest.guidance.prompt_to_prompt.local_blend import heat, keep_source_outside, map_factor, outline
from palimpsest.guidance.prompt_to_prompt.token_alignment import align

from .texts import prompt

HEADS, WIDTH, CELLS = 2, 8, 20
SOURCE = prompt("a red heart on a grey ground")
EDITS = [prompt("a blue heart on a grey ground"), prompt("a {red:2} heart, on a grey ground with stars")]
ALIGNMENTS = [align(SOURCE, edit) for edit in EDITS]


def inputs(rows: int, repeats: int = 1, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(rows, CELLS, HEADS * WIDTH, generator=generator)
    k, v = (torch.randn(rows, len(SOURCE), HEADS * WIDTH, generator=generator).repeat(1, repeats, 1) for _ in range(2))
    return q, k, v


def split(x):
    return x.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2)


def maps_of(q, k):
    return (split(q) @ split(k).transpose(-1, -2) * WIDTH**-0.5).softmax(-1)


def through(maps, v):
    return (maps @ split(v)).transpose(1, 2).flatten(2)


def attend(q, k, v):
    return through(maps_of(q, k), v)


def explicit(q, k, v, roles):
    """The paper's way: build the maps, edit them, multiply."""
    maps = maps_of(q, k)
    edited = maps.clone()
    for row, source, which in zip(roles.rows, roles.sources, roles.which):
        alignment = ALIGNMENTS[which]
        edited[row] = (maps[source] @ alignment.take + maps[row] * alignment.new) * alignment.scale
    return through(edited, v)


@pytest.mark.parametrize("offset, batch", [(0, 3), (3, 3), (0, 6)])
def test_cross_attention_is_the_papers(offset, batch):
    q, k, v = inputs(offset + batch)
    roles = Roles.of(batch, 3).at(range(offset, offset + batch))
    ours = cross_attention(q, k, v, roles, ALIGNMENTS, attend, attend)
    assert torch.allclose(ours, explicit(q, k, v, roles), atol=1e-5)
    untouched = [row for row in range(offset + batch) if row not in roles.rows]
    assert torch.equal(ours[untouched], attend(q, k, v)[untouched])


def test_repeated_prompts_change_nothing():
    q, k, v = inputs(3)
    roles = Roles.of(3, 3)
    once = cross_attention(q, k, v, roles, ALIGNMENTS, attend, attend)
    thrice = cross_attention(q, k.repeat(1, 3, 1), v.repeat(1, 3, 1), roles, ALIGNMENTS, attend, attend)
    assert torch.allclose(once, thrice, atol=1e-5)


def test_an_unknown_length_is_a_sentence():
    q, k, v = inputs(3)
    with pytest.raises(ValueError, match="tokens"):
        cross_attention(q, k[:, :-1], v[:, :-1], Roles.of(3, 3), ALIGNMENTS, attend, attend)


def test_self_attention_attends_where_the_source_does():
    """What queries and keys are projected from is the source's, whether it is one tensor or two."""
    n = inputs(3)[0]
    other, v = n.flip(1), n.roll(1, 1)
    roles = Roles.of(3, 3)
    for k in (n, other):
        ours = attend(*source_shapes(n, k, roles), v)
        assert torch.allclose(ours, through(maps_of(n, k)[[0, 0, 0]], v), atol=1e-6)
    assert not torch.equal(n[0], n[1])


def test_identity_is_the_plain_attention():
    q, k, v = (x[[0, 0]] for x in inputs(1))
    same = align(SOURCE, SOURCE)
    roles = Roles.of(2, 2)
    # Keys and values go through a product with the identity, which may round once: 6e-8 of numbers up to about 4.
    assert torch.allclose(cross_attention(q, k, v, roles, [same], attend, attend), attend(q, k, v), atol=5e-6)
    assert torch.equal(attend(*source_shapes(q, k, roles), v), attend(q, k, v))


def test_word_maps_sum_to_one_and_are_edited_alike():
    q, k, _ = inputs(3)
    maps = word_maps(q, k.repeat(1, 2, 1), HEADS, len(SOURCE))
    assert torch.allclose(maps, maps_of(q, k).mean(1).transpose(1, 2), atol=1e-6)
    assert torch.allclose(maps.sum(1), torch.ones(3, CELLS), atol=1e-5)
    edited = edited_maps(list(maps), Roles.of(3, 3), ALIGNMENTS)
    assert torch.equal(edited[0], maps[0])
    assert torch.allclose(edited[1][2], maps[0][2]), "'blue' stands where 'red' stood"


def test_fractions_of_a_run_count_its_steps():
    schedule = [10.0, 8.0, 6.0, 4.0, 2.0, 0.0]
    for fraction, expected in ((0.0, 0), (0.4, 2), (0.5, 2), (1.0, 5)):
        assert sum(early(s, schedule, fraction) for s in schedule[:-1]) == expected
    assert [step_of(s, schedule) for s in (10.0, 9.0, 8.0, 2.0, 1.0)] == [0, 0, 1, 4, 4]
    assert not early(10.0, schedule, 0.0) and early(0.5, schedule, 1.0)


@pytest.mark.parametrize(
    "factors, size, expected",
    [
        ((1, 2, 4, 8), (64, 64), 4),
        ((2, 4), (128, 128), 4),
        ((2, 4), (32, 32), 2),
        ((1, 2, 4, 8), (96, 64), 4),
        ((1, 2, 4, 8), (40, 64), 2),
        ((1, 2), (8, 8), 1),
    ],
)
def test_maps_are_read_at_the_official_fraction_of_any_size(factors, size, expected):
    assert map_factor(factors, *size) == expected


def test_outline_at_any_aspect():
    maps = torch.zeros(3, 6, 10)
    maps[1, 1:3, 2:4] = 1.0
    mask = outline(heat(maps, (1,)), (48, 80), 0.3)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask[8:24, 16:32].all() and not mask[40:, :].any() and not mask[:, 60:].any()
    assert not outline(heat(maps, ()), (48, 80), 0.3).any()
    assert outline(heat(maps, (1,)), (48, 80), 0.3, grow=False).sum() < mask.sum()


def test_blend_is_exact_at_zero_and_one():
    x = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(2, 5, 5)
    mask[0, :2] = 1.0
    mixed = keep_source_outside(x, mask, (1, 2), (0, 0))
    assert torch.equal(mixed[0], x[0]) and torch.equal(mixed[2], x[0])
    assert torch.equal(mixed[1, :, :2], x[1, :, :2]) and torch.equal(mixed[1, :, 2:], x[0, :, 2:])
    assert torch.allclose(keep_source_outside(x, mask + 0.5, (1, 2), (0, 0))[2], (x[0] + x[2]) / 2)
    assert keep_source_outside(x, mask[:0], (), ()) is x
