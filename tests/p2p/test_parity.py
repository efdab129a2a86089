"""Prompt-to-Prompt in the host's stock sampler beside the paper's straight line on diffusers' UNet, same weights."""

import comfy.sample
import comfy.samplers
import comfy.sd
import pytest
import torch
from palimpsest.guidance.prompt_to_prompt import plan_edits
from palimpsest.host.prompt_to_prompt import with_prompt_to_prompt
from palimpsest.host.words import as_rows, encode_tokens, read_prompt, reweighted
from palimpsest.papercut.companion.model import register
from palimpsest.papercut.export import export
from palimpsest.papercut.oracle import load_oracle

from ..papercut.conftest import random_networks
from .reference import Controller, prompt_to_prompt_reference

STEPS, SIDE, CFG, CROSS, OWN = 10, 12, 5.0, 0.8, 0.5
SOURCE = "a red dotted heart on a cream ground"
# Words of one token each; the start is column 0.
SWAP = {"edit": "a blue plain star on a cream ground"}
ADD = {"edit": "a red dotted heart on a cream checked ground", "added": 8}
WEIGH = {"edit": "a red (dotted:2) heart on a cream ground", "weights": {3: 2.0}}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """(MODEL, CLIP, diffusers' modules) of the same random weights."""
    pytest.importorskip("diffusers")
    unet, text, vae = random_networks()
    with torch.no_grad():
        unet.conv_out.weight *= 3
        for name, weight in unet.named_parameters():
            if "attn2.to_q" in name or "attn2.to_k" in name:
                weight *= 4  # maps with peaks: in flat ones nothing could be edited
    file = export(unet, text, vae, tmp_path_factory.mktemp("words") / "papercut.safetensors")
    register()
    with torch.inference_mode():
        model, clip, _, _ = comfy.sd.load_checkpoint_guess_config(str(file), output_vae=False)
    return model, clip, load_oracle(file)


def controller(added: int | None = None, weights: dict | None = None, **_) -> Controller:
    """By hand, from the published rules: equal counts map column to column, a new column takes no source column."""
    mapper, new, equalizer = torch.eye(77), torch.zeros(77), torch.ones(77)
    if added is not None:
        # Columns before stay, the new one is the edit's own, those after it stand one further on.
        mapper[:, added:] = 0
        new[added] = 1
        for column in range(added + 1, 77):
            mapper[column - 1, column] = 1
    for column, weight in (weights or {}).items():
        equalizer[column] = weight
    return Controller(mapper, new, equalizer)


def by_nodes(model, clip, edit, z, sigmas):
    """The plan, the rows of text and the run, as the node makes them."""
    read = [read_prompt(clip, text) for text in (SOURCE, edit)]
    plan = plan_edits(read[0][0], [read[1][0]], cross_steps=CROSS, self_steps=OWN, self_reduction=1)
    tokens = reweighted(read[1][1], plan.alignments[0].encoded.tolist())
    positive = as_rows([encode_tokens(clip, one) for one in (read[0][1], tokens)])
    empty = encode_tokens(clip, clip.tokenize(""))
    start = model.model.process_latent_out(z * (1 + sigmas[0] ** 2).sqrt()).expand(2, -1, -1, -1).contiguous()
    out = comfy.sample.sample_custom(
        with_prompt_to_prompt(model, plan), torch.zeros_like(start), CFG, comfy.samplers.sampler_object("euler"),
        sigmas, positive, empty, start, disable_pbar=True, seed=0,
    )  # fmt: skip
    return model.model.process_latent_in(out), positive[0][0], empty[0][0], plan


@pytest.mark.parametrize("case", [SWAP, ADD, WEIGH], ids=["swap", "add", "weigh"])
def test_the_hosts_edit_is_the_papers(parts, case):
    model, clip, oracle = parts
    oracle.scheduler.set_timesteps(STEPS)
    bar = oracle.scheduler.alphas_cumprod[oracle.scheduler.timesteps]
    sigmas = torch.cat((((1 - bar) / bar).sqrt(), torch.zeros(1)))
    z = torch.randn(1, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        ours, text, empty, plan = by_nodes(model, clip, case["edit"], z, sigmas)
        same = controller(**case)
        alignment = plan.alignments[0]
        columns = slice(0, 11)  # words and end; padding stands by its place here, and is shifted in the published code
        assert torch.equal(alignment.take[columns, columns], same.mapper[columns, columns])
        same.mapper, same.new = alignment.take, alignment.new
        theirs = prompt_to_prompt_reference(
            oracle.unet, oracle.scheduler, same, z, text.float(), empty.float(), cfg=CFG, cross=CROSS, own=OWN
        )
    assert torch.allclose(ours, theirs, atol=5e-3)
    assert (theirs[1] - theirs[0]).abs().max() > 0.05
