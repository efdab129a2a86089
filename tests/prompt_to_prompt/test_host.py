"""Prompt-to-Prompt on the host's stock sampler: limits to the last bit, rows, the anchor, the blend."""

from dataclasses import replace

import comfy.ldm.modules.attention as host_attention
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from palimpsest.guidance.anchor import Anchor
from palimpsest.guidance.prompt_to_prompt.plan import LocalBlend, plan_edits
from palimpsest.host.attention.blocks import attention_blocks
from palimpsest.host.attention.patching import AttentionPatch, with_attention
from palimpsest.host.inversion.anchor import anchored
from palimpsest.host.prompt_to_prompt.patch import recording, with_prompt_to_prompt
from palimpsest.host.prompt_to_prompt.tokens import as_rows, encode_tokens, read_prompt
from palimpsest.inversion.trajectory import Trajectory

from ..tiny_models import tiny_cond, tiny_latent, tiny_model
from .tiny_clip import tiny_clip

STEPS, SIZE = 4, (12, 8)
TEXTS = ["a red heart on grey", "a blue heart on grey", "a red star on grey paper"]


@pytest.fixture(scope="module")
def parts():
    """(model, clip), as loader nodes make them."""
    with torch.inference_mode():
        return tiny_model("sd1"), tiny_clip()


@pytest.fixture(scope="module")
def parts_in_double():
    with torch.inference_mode():
        return in_double(tiny_model("sd1")), tiny_clip()


def in_double(model):
    """The network computes in double precision: what a batch or a chunk changes is rounding alone, which 14.6 times the
    error of a prediction, step after step, would make a visible difference."""
    model.model.diffusion_model.double()
    model.model.diffusion_model.dtype = model.model.manual_cast_dtype = torch.float64
    return model


def plan_of(clip, texts=TEXTS, **settings):
    prompts = [read_prompt(clip, text)[0] for text in texts]
    return plan_edits(prompts[0], prompts[1:], **settings)


def rows_of(clip, texts=TEXTS):
    with torch.inference_mode():
        return as_rows([encode_tokens(clip, read_prompt(clip, text)[1]) for text in texts])


def schedule(model, steps=STEPS):
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)


def start(batch, size=SIZE, seed=3):
    return torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(seed)).expand(batch, -1, -1, -1).clone()


def run(model, positive, batch, *, cfg=4.0, sampler="euler", size=SIZE, noise=None, negative=None, steps=STEPS):
    noise = start(batch, size) if noise is None else noise
    with torch.inference_mode():
        return comfy.sample.sample_custom(
            model,
            noise,
            cfg,
            comfy.samplers.sampler_object(sampler),
            schedule(model, steps),
            positive,
            negative or tiny_cond("sd1", seed=2),
            torch.zeros_like(noise),
            disable_pbar=True,
            seed=1,
        )


def test_blocks_and_their_sizes(parts):
    model, _ = parts
    blocks = attention_blocks(model.model.diffusion_model)
    assert blocks == {
        ("input", 1): 1,
        ("input", 3): 2,
        ("middle", 0): 2,
        ("output", 0): 2,
        ("output", 1): 2,
        ("output", 2): 1,
        ("output", 3): 1,
    }


def test_strength_zero_is_the_plain_host_to_the_last_bit(parts):
    model, clip = parts
    patched = with_prompt_to_prompt(model, plan_of(clip, cross_steps=0.0, self_steps=0.0))
    positive = rows_of(clip)
    assert torch.equal(run(patched, positive, 3), run(model, positive, 3))


def test_wrapped_attention_is_the_hosts_to_the_last_bit(parts):
    model, clip = parts
    clone, seen = model.clone(), []
    around = lambda attend, q, k, v, options: (seen.append(1), attend(q, k, v))[1]
    blocks = list(attention_blocks(model.model.diffusion_model))
    patches = [AttentionPatch(kind, blocks, lambda n, k, v, _: (n, k, v), around) for kind in ("attn1", "attn2")]

    def apply_model(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **kwargs):
        options = with_attention(transformer_options, patches, "The test")
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", apply_model)
    positive = rows_of(clip)
    assert torch.equal(run(clone, positive, 3), run(model, positive, 3)) and seen


def test_source_row_is_never_touched_and_edits_are(parts):
    model, clip = parts
    positive = rows_of(clip)
    plain = run(model, positive, 3)
    edited = run(with_prompt_to_prompt(model, plan_of(clip, cross_steps=1.0, self_steps=1.0)), positive, 3)
    assert torch.allclose(edited[0], plain[0], atol=1e-5)
    assert all((edited[row] - plain[row]).abs().max() > 1e-2 for row in (1, 2))
    nearer = [(edited[row] - edited[0]).square().mean() < (plain[row] - plain[0]).square().mean() for row in (1, 2)]
    assert all(nearer)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
def test_rows_do_not_depend_on_their_batch(parts_in_double, sampler):
    """Two edits in one run are what they are in runs of their own; two groups are two runs."""
    model, clip = parts_in_double
    settings = {"cross_steps": 0.8, "self_steps": 0.5, "blend": None}
    together = run(with_prompt_to_prompt(model, plan_of(clip, **settings)), rows_of(clip), 3, sampler=sampler)
    for row in (1, 2):
        texts = [TEXTS[0], TEXTS[row]]
        patched = with_prompt_to_prompt(model, plan_of(clip, texts, **settings))
        alone = run(patched, rows_of(clip, texts), 2, sampler=sampler)
        assert torch.allclose(together[row], alone[1], atol=1e-3)
    twice = run(with_prompt_to_prompt(model, plan_of(clip, **settings)), rows_of(clip), 6, sampler=sampler)
    assert torch.allclose(twice[:3], together, atol=1e-3) and torch.allclose(twice[3:], together, atol=1e-3)


def test_uncond_and_cond_in_calls_of_their_own(parts, monkeypatch):
    """Where memory is short the host evaluates the two halves one after the other."""
    model, clip = parts
    patched = with_prompt_to_prompt(model, plan_of(clip, self_steps=1.0))
    whole = run(patched, rows_of(clip), 3)
    monkeypatch.setattr(type(model.model), "memory_required", lambda *a, **k: 1e30)
    assert torch.allclose(run(patched, rows_of(clip), 3), whole, atol=1e-3)


def with_explicit_maps(model, plan):
    """Prompt-to-Prompt at cross_steps 1 with every map built in full: M' = (M_source take + M_edit new) scale."""

    def attn2(q, k, v, options):
        heads = options["n_heads"]
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        maps = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        out, parts = maps @ v, options["cond_or_uncond"]
        if 0 not in parts:
            return out.transpose(1, 2).flatten(2)
        begin = parts.index(0) * (len(q) // len(parts))

        def own(row):
            """A prompt is repeated up to the length of the longest: its map is the sum of its copies'."""
            return maps[begin + row].unflatten(-1, (-1, len(plan.prompts[row]))).sum(-2)

        for row, alignment in enumerate(plan.alignments, 1):
            edited = (own(0) @ alignment.take.to(maps) + own(row) * alignment.new) * alignment.scale
            out[begin + row] = edited @ v[begin + row][:, : len(plan.prompts[row])]
        return out.transpose(1, 2).flatten(2)

    clone = model.clone()
    for block in attention_blocks(model.model.diffusion_model):
        clone.set_model_attn2_replace(attn2, *block)
    return clone


def test_prompts_of_several_chunks_are_edited_as_with_maps_built_in_full(parts_in_double):
    model, clip = parts_in_double
    long = "a red heart on grey, " + "with more and more paper around it, " * 10
    texts = [long, long.replace("red", "blue"), "a blue (heart:2)"]
    plan = plan_of(clip, texts, cross_steps=1.0, self_steps=0.0)
    assert len(plan.source) > 77 == len(plan.edits[1])
    # The same words in the same places: column to column, in every chunk.
    assert torch.equal(plan.alignments[0].take, torch.eye(len(plan.source)))
    positive = rows_of(clip, texts)
    out, wanted = (run(make(model, plan), positive, 3) for make in (with_prompt_to_prompt, with_explicit_maps))
    assert torch.allclose(out, wanted, atol=1e-3)
    assert (wanted - run(model, positive, 3)).abs().max() > 1e-2


def test_the_edit_is_made_in_the_positive_part_wherever_a_guider_puts_it(parts_in_double):
    """With one negative prompt for both of its others, Dual CFG Guider is CFG Guider."""
    model, clip = parts_in_double
    texts = TEXTS[:2]
    patched = with_prompt_to_prompt(model, plan_of(clip, texts, cross_steps=1.0, self_steps=1.0))
    positive, noise = rows_of(clip, texts), start(2)
    # One chunk shorter than the host's prompts, as the empty prompt of other nodes may be.
    negative = tiny_cond("sd1", seed=2)
    wanted = run(patched, positive, 2, negative=negative)
    with torch.inference_mode():
        guider = Guider_DualCFG(patched)
        guider.set_conds(positive, negative, negative)
        guider.set_cfg(4.0, 4.0)
        sampler = comfy.samplers.sampler_object("euler")
        out = guider.sample(noise, torch.zeros_like(noise), sampler, schedule(model), disable_pbar=True, seed=1)
    assert torch.allclose(out, wanted, atol=1e-3)
    assert (out[1] - run(model, positive, 2, negative=negative)[1]).abs().max() > 1e-2


def test_what_stood_in_the_slot_still_runs(parts):
    model, clip = parts
    before = model.clone()
    seen = []

    def other(q, k, v, options):
        seen.append(options["block"])
        return host_attention.optimized_attention(q, k, v, options["n_heads"]) * 0.5

    before.set_model_attn2_replace(other, "middle", 0)
    before.set_model_attn1_replace(other, "output", 0, 0)
    positive = rows_of(clip)
    off = plan_of(clip, cross_steps=0.0, self_steps=0.0)
    assert torch.equal(run(with_prompt_to_prompt(before, off), positive, 3), run(before, positive, 3))
    assert {("middle", 0), ("output", 0)} <= set(seen)


def test_model_is_left_as_it_was(parts):
    model, clip = parts
    before = run(model, rows_of(clip), 3)
    patched = with_prompt_to_prompt(model, plan_of(clip))
    run(patched, rows_of(clip), 3)
    assert torch.equal(run(model, rows_of(clip), 3), before)
    assert recording(model) is None and recording(patched).last is not None
    assert "palimpsest_prompt_to_prompt" not in patched.model_options["transformer_options"]


def trajectory_for(model, size=SIZE):
    """A straight path from a picture to the noise that the runs start with."""
    levels = schedule(model).flip(0)
    source = model.model.process_latent_in(tiny_latent("sd1", size=size))
    noise = start(1, size)
    top = (1 + float(levels[-1]) ** 2) ** 0.5 / float(levels[-1])
    return Trajectory(levels, torch.stack([source + s * top * noise for s in levels]), "", 1.0, "", "eps", "SD15")


class Counter:
    """Rows of the network's calls."""

    def __init__(self, model):
        self.rows = []
        self.model = model.clone()
        self.model.set_model_unet_function_wrapper(self.call)

    def call(self, apply, args):
        self.rows.append(len(args["input"]))
        return apply(args["input"], args["timestep"], **args["c"])


@pytest.mark.parametrize("anchor_first", [True, False])
def test_anchored_source_needs_three_forwards_and_is_exact(parts, anchor_first):
    model, clip = parts
    texts = TEXTS[:2]
    anchor = Anchor(trajectory_for(model), rows=(0,))
    plan = plan_of(clip, texts, cross_steps=1.0, self_steps=0.5)
    counter = Counter(model)
    if anchor_first:
        patched = with_prompt_to_prompt(anchored(counter.model, anchor), plan)
    else:
        patched = anchored(with_prompt_to_prompt(counter.model, plan), anchor)
    out = run(patched, rows_of(clip, texts), 2)
    assert sum(counter.rows) == 3 * STEPS
    assert torch.allclose(model.model.process_latent_in(out[:1]), anchor.trajectory.latents[0], atol=1e-5)
    # The same edit with the source's unconditional pass left in.
    full = Counter(model)
    anchor = Anchor(trajectory_for(model), rows=(0,), strength=1 - 1e-7)
    slow = run(with_prompt_to_prompt(anchored(full.model, anchor), plan), rows_of(clip, texts), 2)
    assert sum(full.rows) == 4 * STEPS
    assert torch.allclose(out[1], slow[1], atol=1e-2)


def test_without_an_anchor_nothing_is_left_out(parts):
    model, clip = parts
    counter = Counter(model)
    run(with_prompt_to_prompt(counter.model, plan_of(clip)), rows_of(clip), 3)
    assert sum(counter.rows) == 6 * STEPS


@pytest.mark.parametrize("anchor_first", [True, False])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_outside_the_blend_an_edit_is_its_source(parts, anchor_first, sampler):
    model, clip = parts
    texts = TEXTS[:2]
    columns = tuple(p.find(read_prompt(clip, "heart")[0]) for p in (read_prompt(clip, text)[0] for text in texts))
    plan = plan_of(clip, texts, blend=LocalBlend(columns, start=0.25, threshold=0.8))
    anchor = Anchor(trajectory_for(model), rows=(0,))
    patched = anchored(model, anchor) if anchor_first else model
    patched = with_prompt_to_prompt(patched, plan)
    patched = patched if anchor_first else anchored(patched, anchor)
    out = run(patched, rows_of(clip, texts), 2, sampler=sampler)
    mask = recording(patched).last.mask
    kept = (mask[1] == 0).expand(4, -1, -1)
    assert kept.any() and not kept.all()
    assert torch.allclose(out[1][kept], out[0][kept], atol=1e-4)
    assert (out[1] - out[0])[~kept].abs().max() > 1e-3
    assert torch.equal(mask[0], mask[1])


def test_a_word_that_is_kept_is_cut_out_of_what_may_change(parts):
    model, clip = parts
    texts = TEXTS[:2]
    none, prompts = ((), ()), [read_prompt(clip, text)[0] for text in texts]
    columns = tuple(p.find(read_prompt(clip, "heart")[0]) for p in prompts)
    anchor = anchored(model, Anchor(trajectory_for(model), rows=(0,)))
    masks = []
    for blend in (LocalBlend(none, 0.25, 0.9, columns), LocalBlend(columns, 0.25, 0.9, columns)):
        patched = with_prompt_to_prompt(anchor, plan_of(clip, texts, blend=blend))
        out = run(patched, rows_of(clip, texts), 2)
        mask = recording(patched).last.mask[1]
        kept = (mask == 0).expand(4, -1, -1)
        assert kept.any() and torch.allclose(out[1][kept], out[0][kept], atol=1e-4)
        masks.append(mask)
    # Alone it leaves all else free; the words that may change give up the place that both claim.
    assert bool(masks[0].any()) and masks[1].sum() < masks[0].sum()


def test_record_of_a_run(parts):
    model, clip = parts
    patched = with_prompt_to_prompt(model, plan_of(clip))
    run(patched, rows_of(clip), 6)
    record = recording(patched).last
    assert len(record.maps) == 6 == len(record.prompts) and record.mask is None
    assert all(maps.shape == (77, 12, 8) for maps in record.maps)
    assert all(torch.allclose(record.maps[row].sum(0), torch.ones(12, 8), atol=1e-4) for row in (0, 3))


@pytest.mark.parametrize(
    "batch, positive, message",
    [(2, None, "batch of 3"), (3, "one", "positive prompt is not the one"), (1, None, "Repeat Latent Batch")],
)
def test_bad_runs_are_sentences(parts, batch, positive, message):
    model, clip = parts
    patched = with_prompt_to_prompt(model, plan_of(clip))
    with pytest.raises(ValueError, match=message):
        run(patched, rows_of(clip, TEXTS[:1]) if positive else rows_of(clip), batch)


@pytest.mark.parametrize(("prompt", "warned"), [(TEXTS[0], False), ("A photo", True), (None, False)])
def test_another_caption_than_the_trajectorys_is_reported(parts, caplog, prompt, warned):
    model, clip = parts
    anchor = Anchor(replace(trajectory_for(model), prompt=prompt), rows=(0,))
    run(anchored(with_prompt_to_prompt(model, plan_of(clip)), anchor), rows_of(clip), 3)
    assert ("was inverted with" in caplog.text) == warned


@pytest.mark.parametrize(
    ("alike", "from_source", "warned"), [(True, False, False), (False, False, True), (False, True, False)]
)
def test_rows_of_different_noises_are_reported(parts, caplog, alike, from_source, warned):
    model, clip = parts
    noise = start(3) if alike else torch.randn(3, 4, *SIZE, generator=torch.Generator().manual_seed(3))
    patched = with_prompt_to_prompt(model, plan_of(clip))
    if from_source:
        patched = anchored(patched, Anchor(trajectory_for(model), rows=(0,)), start_from_source=True)
    run(patched, rows_of(clip), 3, noise=noise)
    assert ("start from different noises" in caplog.text) == warned


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_other_unets_and_what_they_predict(parts, family):
    """v-prediction, and a second text encoder with pooled outputs: nothing at strength zero, exact where anchored."""
    _, clip = parts
    texts = TEXTS[:2]
    with torch.inference_mode():
        model = tiny_model(family)
        one, two = (tiny_cond(family, seed=seed) for seed in (0, 1))
        for seed, cond in enumerate((one, two)):
            shape = (1, 77, cond[0][0].shape[-1])
            cond[0][0] = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        positive, negative = as_rows([one, two]), tiny_cond(family, seed=2)
    off = with_prompt_to_prompt(model, plan_of(clip, texts, cross_steps=0.0, self_steps=0.0))
    plain = run(model, positive, 2, negative=negative)
    assert torch.equal(run(off, positive, 2, negative=negative), plain)
    trajectory = trajectory_for(model)
    counter = Counter(with_prompt_to_prompt(model, plan_of(clip, texts)))
    out = run(anchored(counter.model, Anchor(trajectory, rows=(0,))), positive, 2, negative=negative)
    assert sum(counter.rows) == 3 * STEPS
    assert torch.allclose(model.model.process_latent_in(out[:1]), trajectory.latents[0], atol=1e-5)
    assert (out[1] - plain[1]).abs().max() > 1e-2


def test_few_blocks_are_for_transformers(parts):
    model, clip = parts
    with pytest.raises(ValueError, match="choice for transformers"):
        with_prompt_to_prompt(model, plan_of(clip, depth=1 / 3))
