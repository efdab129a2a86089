"""Prompt-to-Prompt in the host's stock sampler beside the paper's straight line on diffusers' UNet, same weights."""

import comfy.sample
import comfy.samplers
import comfy.sd
import pytest
import torch
from palimpsest.guidance.prompt_to_prompt.plan import LocalBlend, plan_edits
from palimpsest.host.prompt_to_prompt.patch import recording, with_prompt_to_prompt
from palimpsest.host.prompt_to_prompt.tokens import as_rows, encode_tokens, read_prompt, reweighted
from palimpsest.papercut.companion.model import register
from palimpsest.papercut.export import export
from palimpsest.papercut.reference import load_reference

from ..papercut.conftest import random_networks
from .reference import Controller, LocalBlend as OfficialLocalBlend, prompt_to_prompt_reference

STEPS, SIDE, CFG, CROSS, OWN = 10, 12, 5.0, 0.8, 0.5
# Of the local blend: a picture whose maps are read at a quarter of its size, as the published code does, and two steps
# with the blend. From the third on the two differ, where the words' place has grown: see
# `guidance/prompt_to_prompt/local_blend.py`.
LARGE, BLEND_STEPS, START, THRESHOLD = 48, 6, 0.67, 0.7
SOURCE = "a red dotted heart on a cream ground"
LONG = "rhomboid"  # a word of several tokens, here in the heart's place
# For each word of the two texts in order, how many tokens it has in the source and in the edit; None: of `LONG`.
SAME = (1, 1)
SWAP = {"edit": "a blue plain star on a cream ground", "words": [SAME] * 8}
ADD = {"edit": "a red dotted heart on a cream checked ground", "words": [SAME] * 7 + [(0, 1), SAME]}
WEIGH = {"edit": "a red (dotted:2) heart on a cream ground", "words": [SAME] * 8, "weights": {3: 2.0}}
LONGER = {"edit": SOURCE.replace("heart", LONG), "words": [SAME] * 3 + [(1, None)] + [SAME] * 4}
SHORTER = {
    "source": LONGER["edit"], "edit": SOURCE.replace("red", "blue"), "words": [SAME] * 3 + [(None, 1)] + [SAME] * 4
}  # fmt: skip


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
    return model, clip, load_reference(file)


def controller(words: list, long: int, weights: dict | None = None) -> Controller:
    """The published rules, from the counts of tokens alone: equal counts map one to one, others in equal parts, and a
    new word takes no source column. Padding stands by its place (the published code shifts it along); where the source
    has no padding at a place, the edit keeps its own. long: tokens of `LONG`."""
    mapper, new, equalizer = torch.zeros(77, 77), torch.zeros(77), torch.ones(77)
    mapper[0, 0], a, b = 1, 1, 1
    for old, fresh in words:
        old, fresh = (long if count is None else count for count in (old, fresh))
        if old == 0:
            new[b : b + fresh] = 1
        elif old == fresh:
            mapper[range(a, a + old), range(b, b + fresh)] = 1
        else:
            mapper[a : a + old, b : b + fresh] = 1 / fresh
        a, b = a + old, b + fresh
    mapper[a, b] = 1  # the ends
    for column in range(b + 1, 77):
        mapper[column, column], new[column] = (1, 0) if column > a else (0, 1)
    for column, weight in (weights or {}).items():
        equalizer[column] = weight
    return Controller(mapper, new, equalizer)


def by_nodes(model, clip, case, z, sigmas, blend=None):
    """The plan, the rows of text and the run, as the node makes them; the latents, both texts, and the run's record."""
    source, edit = case.get("source", SOURCE), case["edit"]
    read = [read_prompt(clip, text) for text in (source, edit)]
    plan = plan_edits(read[0][0], [read[1][0]], cross_steps=CROSS, self_steps=OWN, self_reduction=1, blend=blend)
    tokens = reweighted(clip, read[1][1], plan.alignments[0].encoded.tolist())
    positive = as_rows([encode_tokens(clip, one) for one in (read[0][1], tokens)])
    empty = encode_tokens(clip, clip.tokenize(""))
    start = model.model.process_latent_out(z * (1 + sigmas[0] ** 2).sqrt()).expand(2, -1, -1, -1).contiguous()
    patched = with_prompt_to_prompt(model, plan)
    out = comfy.sample.sample_custom(
        patched,
        torch.zeros_like(start),
        CFG,
        comfy.samplers.sampler_object("euler"),
        sigmas,
        positive,
        empty,
        start,
        disable_pbar=True,
        seed=0,
    )
    return model.model.process_latent_in(out), positive[0][0], empty[0][0], recording(patched).last


def beginning(reference, steps: int, side: int):
    """The scheduler's levels as sigmas, and unit noise."""
    reference.scheduler.set_timesteps(steps)
    bar = reference.scheduler.alphas_cumprod[reference.scheduler.timesteps]
    sigmas = torch.cat((((1 - bar) / bar).sqrt(), torch.zeros(1)))
    return sigmas, torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("case", [SWAP, ADD, WEIGH, LONGER, SHORTER], ids=["swap", "add", "weigh", "longer", "shorter"])
def test_the_hosts_edit_is_the_papers(parts, case):
    model, clip, reference = parts
    sigmas, z = beginning(reference, STEPS, SIDE)
    ((chunk,),) = clip.tokenize(LONG).values()
    end = getattr(clip.tokenizer, clip.tokenizer.clip).end_token
    long = [token for token, *_ in chunk].index(end) - 1
    assert long > 1
    with torch.inference_mode():
        ours, text, empty, _ = by_nodes(model, clip, case, z, sigmas)
        theirs = prompt_to_prompt_reference(
            reference.unet,
            reference.scheduler,
            controller(case["words"], long, case.get("weights")),
            z,
            text.float(),
            empty.float(),
            cfg=CFG,
            cross=CROSS,
            own=OWN,
        )
    assert torch.allclose(ours, theirs, atol=5e-3)
    assert (theirs[1] - theirs[0]).abs().max() > 0.05


@pytest.mark.parametrize("columns", [((4,), (4,)), ((2, 4), (2,))], ids=["nouns", "several words"])
def test_the_hosts_local_blend_is_the_papers(parts, columns):
    """columns: of words in the source and in the edit, by their places."""
    model, clip, reference = parts
    sigmas, z = beginning(reference, BLEND_STEPS, LARGE)
    official = controller(SWAP["words"], 1)
    official.blend = OfficialLocalBlend(columns, START, THRESHOLD)
    with torch.inference_mode():
        ours, text, empty, record = by_nodes(model, clip, SWAP, z, sigmas, LocalBlend(columns, START, THRESHOLD))
        theirs = prompt_to_prompt_reference(
            reference.unet, reference.scheduler, official, z, text.float(), empty.float(), cfg=CFG, cross=CROSS, own=OWN
        )
    free = record.mask[1] > 0
    assert torch.equal(free, official.blend.mask) and 0.1 < free.float().mean() < 0.9
    assert torch.allclose(ours, theirs, atol=5e-3)
    assert torch.equal(theirs[1][:, ~free], theirs[0][:, ~free])
    assert (theirs[1] - theirs[0])[:, free].abs().max() > 0.05
