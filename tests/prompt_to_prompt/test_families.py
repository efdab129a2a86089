"""Prompt-to-Prompt and its masks with the text encoders of Stable Diffusion 2 and SDXL, their tokenizers included."""

import pytest
import torch
from palimpsest.guidance.anchor import Anchor
from palimpsest.host.inversion.anchor import anchored
from palimpsest.host.prompt_to_prompt.tokens import read_prompt
from palimpsest.nodes.prompt_to_prompt import PromptToPrompt
from palimpsest.nodes.prompt_to_prompt_results import WordAttentionMask

from ..tiny_models import CONTEXT, POOLED, tiny_model
from .test_host import SIZE, STEPS, Counter, run, trajectory_for
from .tiny_clip import tiny_clip

SOURCE, EDITS = "a red heart on grey", "a blue heart on grey\na red (heart:2) on grey"


@pytest.fixture(scope="module", params=["sd2", "sdxl"])
def parts(request):
    """(family, model, clip), as loader nodes make them."""
    with torch.inference_mode():
        return request.param, tiny_model(request.param), tiny_clip(request.param)


def edited(parts, source=SOURCE, edits=EDITS, **options):
    _, model, clip = parts
    with torch.inference_mode():
        return PromptToPrompt.execute(model, clip, source, edits, **options).args[:4]


def test_words_and_padding_are_the_familys(parts):
    prompt, tokens = read_prompt(parts[2], "a red heart, on grey")
    assert [token.kind for token in prompt.tokens[:9]] == ["start", *["word"] * 6, "end", "pad"]
    assert len(tokens) == (2 if parts[0] == "sdxl" else 1) and len(prompt) == 77
    # Where these families pad with a token that is a sign of its own, it is no word.
    assert tokens[next(iter(tokens))][0][-1][0] == 0 and len(prompt.words) == 6


def test_a_row_a_text_in_both_encoders(parts):
    family = parts[0]
    _, positive, report, negative = edited(parts)
    ((rows, options),) = positive
    lines = report.splitlines()[1:]
    assert lines == ["row 1, replace: 'red' becomes 'blue'", "row 2, re-weight: 'heart' counts 2 times"]
    assert rows.shape == (3, 77, CONTEXT[family]) == negative[0][0].shape
    assert torch.equal(rows[2], rows[0]) and not torch.equal(rows[1], rows[0])
    if family == "sdxl":
        pooled = options["pooled_output"]
        assert pooled.shape == (3, POOLED) and torch.equal(pooled[2], pooled[0])
        assert all(not torch.equal(part[1], part[0]) for part in (pooled, *rows.split((16, 24), dim=-1)))


@pytest.mark.parametrize("long", [False, True], ids=["one chunk", "two chunks"])
def test_the_source_is_exact_and_its_edits_are_edits(parts, long):
    tail = ", a leaf on a stone" * 20 if long else ""
    model, positive, _, negative = edited(
        parts,
        SOURCE + tail,
        "\n".join(line + tail for line in EDITS.splitlines()),
        blend_words="heart",
        blend_threshold=0.7,
    )
    assert positive[0][0].shape[1] == 77 * (2 if long else 1)
    trajectory, counter = trajectory_for(parts[1]), Counter(model)
    out = run(anchored(counter.model, Anchor(trajectory, rows=(0,))), positive, 3, negative=negative)
    assert sum(counter.rows) == 5 * STEPS
    scaled = parts[1].model.process_latent_in(out)
    assert torch.allclose(scaled[:1], trajectory.latents[0], atol=1e-5)
    with torch.inference_mode():
        mask, heat = WordAttentionMask.execute(model, parts[2], "", "", samples={"samples": out}).args
    cells = mask[:, ::8, ::8]
    assert mask.shape == (3, SIZE[0] * 8, SIZE[1] * 8) and heat.shape == (*mask.shape, 3)
    for row in (1, 2):
        free = (cells[row] > 0).expand(4, -1, -1)
        assert free.any() and (scaled[row] - scaled[0])[free].abs().max() > 1e-3
        assert torch.allclose(scaled[row][~free], scaled[0][~free], atol=1e-4)
