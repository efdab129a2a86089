"""Prompt-to-Prompt in joint attention against maps built in full, and its limits. Core: no host."""

import pytest
import torch
from palimpsest.guidance.prompt_to_prompt.attention_control import Roles
from palimpsest.guidance.prompt_to_prompt.joint_attention import fitted, joint_attention, with_source_shapes
from palimpsest.guidance.prompt_to_prompt.token_alignment import Prompt, Token, align

# Text, picture, and references behind it; and a register before all.
LAYOUTS = {"text first": (slice(0, 7), slice(7, 13), 13), "others around": (slice(1, 8), slice(8, 14), 17)}
HEADS, WIDTH = 2, 4


def prompt(text: str, length: int = 7) -> Prompt:
    tokens = [Token(word, word + "</w>") for word in text.split()] + [Token("</s>", "", kind="end")]
    tokens += [Token("<pad>", "", kind="pad")] * (length - len(tokens))
    return Prompt(text, tuple(tokens), len(tokens))


def parts(tokens: int, rows: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, HEADS, tokens, WIDTH, generator=generator, dtype=torch.float64) for _ in range(3)]


def maps_of(q, k):
    return (q @ k.transpose(-1, -2) * WIDTH**-0.5).softmax(-1)


def attend(q, k, v, keys=None, queries=None):
    return maps_of(q, k) @ v


SOURCE, EDITS = prompt("a red heart on grey"), (prompt("a blue heart on grey"), prompt("a red big star on grey"))
ALIGNMENTS = [align(SOURCE, edit) for edit in EDITS]


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("shapes", [True, False])
def test_it_is_the_map_made_over_times_the_values(layout, shapes):
    text, picture, tokens = LAYOUTS[layout]
    q, k, v = parts(tokens)
    out = joint_attention(q, k, v, text, picture, Roles.of(3, 3), ALIGNMENTS, attend, attend, shapes=shapes)
    maps = maps_of(q, k)
    assert torch.allclose(out[0], (maps @ v)[0])
    for row, alignment in enumerate(ALIGNMENTS, 1):
        take, new, scale = (one.double() for one in (alignment.take, alignment.new, alignment.scale))
        edited = (maps[0] if shapes else maps[row])[:, picture].clone()
        edited[..., text] = (maps[0][:, picture][..., text] @ take + maps[row][:, picture][..., text] * new) * scale
        assert torch.allclose(out[row][:, picture], edited @ v[row])
        # Whoever else asks does so as before, and finds the source's picture where shapes are kept.
        asked = k[row].clone()
        if shapes:
            asked[:, picture] = k[0][:, picture]
        own = maps_of(q[row], asked) @ v[row]
        others = [place for place in range(tokens) if not picture.start <= place < picture.stop]
        assert torch.allclose(out[row][:, others], own[:, others])


def test_rows_alike_stay_alike():
    text, picture, tokens = LAYOUTS["text first"]
    q, k, v = (one[:1].expand(2, -1, -1, -1).contiguous() for one in parts(tokens))
    plain, same = attend(q, k, v), [align(SOURCE, SOURCE)]
    for shapes in (True, False):
        out = joint_attention(q, k, v, text, picture, Roles.of(2, 2), same, attend, attend, shapes=shapes)
        assert torch.allclose(out, plain)
    assert torch.allclose(with_source_shapes(q, k, v, picture, Roles.of(2, 2), attend), plain)


def test_a_word_of_weight_zero_is_not_read():
    """Exact re-weighting: out + (w - 1) times the mass on the word times its value."""
    text, picture, tokens = LAYOUTS["text first"]
    q, k, v = (one[:1].expand(2, -1, -1, -1).contiguous() for one in parts(tokens))
    weighed = Prompt("", tuple(Token(t.key, t.piece, 0.0 if t.key == "heart" else 1.0, t.kind) for t in SOURCE.tokens))
    out = joint_attention(
        q, k, v, text, picture, Roles.of(2, 2), [align(SOURCE, weighed)], attend, attend, shapes=True
    )  # fmt: skip
    mass = maps_of(q, k)[0, :, picture, 2:3]
    assert torch.allclose(out[1, :, picture], out[0, :, picture] - mass * v[1, :, 2:3])


@pytest.mark.parametrize("left", [True, False])
def test_columns_that_nobody_reads_take_and_give_nothing(left):
    alignment = align(prompt("a red heart", 4), prompt("a big red heart", 5))
    wide = fitted(alignment, 8, left=left)
    rows, columns = (slice(4, 8), slice(3, 8)) if left else (slice(0, 4), slice(0, 5))
    assert torch.equal(wide.take[rows, columns], alignment.take) and wide.take.sum() == alignment.take.sum()
    assert torch.equal(wide.new[columns], alignment.new) and wide.new.sum() == alignment.new.sum()
    assert torch.equal(wide.scale[columns], alignment.scale) and wide.scale.shape == (8,)
    assert fitted(alignment, 5).take.shape == (5, 5)
    with pytest.raises(ValueError, match="the model is shown 4"):
        fitted(alignment, 4)
