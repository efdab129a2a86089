"""Prompt-to-Prompt and the maps of words in every family of transformers, on the host's stock sampler."""

import comfy.ldm.flux.math as flux_math
import comfy.ldm.modules.attention as host_attention
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.ldm.anima.model import Anima
from comfy.ldm.flux.model import Flux
from palimpsest.guidance.prompt_to_prompt.plan import EditPlan, LocalBlend, plan_edits
from palimpsest.guidance.prompt_to_prompt.token_alignment import align
from palimpsest.host.attention import families
from palimpsest.host.attention.families import FAMILIES as KNOWN
from palimpsest.host.attention.families.flux import FluxFamily
from palimpsest.host.attention.sequence import Attention, ModelCall, Split
from palimpsest.host.attention.transformer import OVERRIDE, attention_of_call, padding_of
from palimpsest.host.prompt_to_prompt.own_prompt import TEXTS as TEXTS_KEY
from palimpsest.host.prompt_to_prompt.patch import recording, with_prompt_to_prompt
from palimpsest.host.prompt_to_prompt.tokens import as_rows
from palimpsest.host.prompt_to_prompt.word_maps import maps_of_picture
from palimpsest.tools.places import ROOT

from ..tiny_transformers import FAMILIES, KINDS, LENGTH, conditioning_of, noise_of, prompt_of, tiny_transformer

STEPS = 3
TEXTS = ["a red heart on grey", "a blue heart on grey", "a red star on grey paper"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    """As loader nodes make it."""
    with torch.inference_mode():
        return tiny_transformer(family)


def plan_of(family, texts=TEXTS, length=LENGTH, **settings):
    prompts = [prompt_of(family, text, length) for text in texts]
    return plan_edits(prompts[0], prompts[1:], **settings)


def run(
    model, family, texts=TEXTS, *, batch=None, cfg=1.0, steps=STEPS, facts={}, length=LENGTH, size=(8, 6), frames=1
):
    batch = batch or len(texts)
    noise = noise_of(family, batch, size)
    noise = noise if frames == 1 else noise.repeat(1, 1, frames, 1, 1)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    with torch.inference_mode():
        positive = as_rows([conditioning_of(family, text, length) for text in texts], padding_of(model))
        negative = conditioning_of(family, "nothing", length)
        positive[0][1].update({TEXTS_KEY: tuple(texts), **facts})
        negative[0][1].update(facts)
        return comfy.sample.sample_custom(
            model,
            noise,
            cfg,
            comfy.samplers.sampler_object("euler"),
            sigmas,
            positive,
            negative,
            torch.zeros_like(noise),
            disable_pbar=True,
            seed=1,
        )


def hooks(model):
    return sum(len(module._forward_pre_hooks) for module in model.model.diffusion_model.modules())


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_strength_zero_is_the_plain_host_to_the_last_bit(model, family, cfg):
    off = with_prompt_to_prompt(model, plan_of(family, cross_steps=0.0, self_steps=0.0))
    assert torch.equal(run(off, family, cfg=cfg), run(model, family, cfg=cfg))


def test_the_model_is_left_as_it_was(model, family):
    before = run(model, family)
    patched = with_prompt_to_prompt(model, plan_of(family, cross_steps=1.0))
    edited = run(patched, family)
    assert not torch.equal(edited[1], before[1])
    assert hooks(model) == 0 and torch.equal(run(model, family), before)
    assert torch.equal(run(patched, family), edited)
    assert recording(model) is None and len(recording(patched).last.maps) == 3


@pytest.mark.parametrize(("cross", "shapes"), [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_the_source_is_untouched_and_edits_are_changed(model, family, cross, shapes):
    plain = run(model, family)
    edited = run(with_prompt_to_prompt(model, plan_of(family, cross_steps=cross, self_steps=shapes)), family)
    assert torch.allclose(edited[0], plain[0], atol=1e-3)
    for row in (1, 2):
        assert (edited[row] - plain[row]).abs().max() > 1e-2 * (plain[row] - plain[0]).abs().max()


@pytest.mark.parametrize(("cross", "shapes"), [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_equal_texts_give_the_source(model, family, cross, shapes):
    """Asked of the plan itself, since the node refuses an edit that changes nothing."""
    source = prompt_of(family, TEXTS[0])
    plan = EditPlan(source, (source,), (align(source, source),), cross_steps=cross, self_steps=shapes)
    texts = [TEXTS[0]] * 2
    edited = run(with_prompt_to_prompt(model, plan), family, texts)
    assert torch.allclose(edited[1], edited[0], atol=1e-3)
    assert torch.allclose(edited[0], run(model, family, texts)[0], atol=1e-3)


def test_rows_do_not_depend_on_their_batch(model, family):
    """Two edits in one run are what they are in runs of their own; two groups are two runs."""
    settings = {"cross_steps": 1.0, "self_steps": 0.5}
    together = run(with_prompt_to_prompt(model, plan_of(family, **settings)), family)
    for row in (1, 2):
        texts = [TEXTS[0], TEXTS[row]]
        alone = run(with_prompt_to_prompt(model, plan_of(family, texts, **settings)), family, texts)
        assert torch.allclose(together[row], alone[1], atol=1e-3)
    twice = run(with_prompt_to_prompt(model, plan_of(family, **settings)), family, batch=6)
    assert torch.allclose(twice, together.repeat(2, *[1] * (together.ndim - 1)), atol=1e-3)


def test_uncond_and_cond_in_calls_of_their_own(model, family, monkeypatch):
    """Where memory is short the host evaluates the two halves one after the other."""
    patched = with_prompt_to_prompt(model, plan_of(family, cross_steps=1.0, self_steps=1.0))
    whole = run(patched, family, cfg=3.0)
    monkeypatch.setattr(type(model.model), "memory_required", lambda *a, **k: 1e30)
    assert torch.allclose(run(patched, family, cfg=3.0), whole, atol=1e-3)


class Foreign:
    """Another node's override of attention, set in the options of a MODEL as stock code does."""

    def __init__(self):
        self.calls = 0

    def __call__(self, func, *args, **kwargs):
        self.calls += 1
        return func(*args, **kwargs) + 0.5

    def on(self, model):
        clone = model.clone()
        clone.model_options["transformer_options"][OVERRIDE] = self
        return clone


def test_a_node_that_sets_the_override_itself_may_stand_before_it_or_behind(model, family):
    plan, foreign = plan_of(family, cross_steps=0.0, self_steps=1.0), Foreign()
    before = run(with_prompt_to_prompt(foreign.on(model), plan), family)
    behind = run(foreign.on(with_prompt_to_prompt(model, plan)), family)
    assert torch.equal(before, behind) and foreign.calls
    assert not torch.allclose(before, run(with_prompt_to_prompt(model, plan), family), atol=1e-3)
    off = plan_of(family, cross_steps=0.0, self_steps=0.0)
    assert torch.equal(run(with_prompt_to_prompt(foreign.on(model), off), family), run(foreign.on(model), family))


def test_few_blocks_are_a_part_of_all(model, family):
    """A third of the blocks, rounded up, is edited, and no more."""
    everywhere = run(with_prompt_to_prompt(model, plan_of(family, cross_steps=1.0)), family)
    some = run(with_prompt_to_prompt(model, plan_of(family, cross_steps=1.0, depth=1 / 3)), family)
    plain = run(model, family)
    assert all(not torch.allclose(some[1], one[1], atol=1e-6) for one in (everywhere, plain))


def test_outside_the_blend_an_edit_is_its_source(model, family):
    texts = TEXTS[:2]
    hearts = [prompt_of(family, text).words[2].columns for text in texts]
    blend = LocalBlend(tuple(hearts), start=0.0, threshold=0.99)
    patched = with_prompt_to_prompt(model, plan_of(family, texts, cross_steps=1.0, self_steps=0.0, blend=blend))
    out = run(patched, family, texts, size=(24, 20))
    mask = recording(patched).last.mask[1]
    kept = (mask == 0).expand(out.shape[1:])
    assert kept.any() and not kept.all()
    assert torch.allclose(out[1][kept], out[0][kept], atol=1e-3)


def seen_by(model, family, facts={}):
    """What each attention of one model call was given, in the order of the forward pass."""
    kind, found = KINDS[family], []
    base = model.model

    def around(attention: Attention):
        out = attention.attend(attention.q, attention.k, attention.v)
        found.append((attention, out))
        return out

    def wrapper(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **kw):
        call = ModelCall(tuple(x.shape), c_crossattn.shape[1], kw)
        with attention_of_call(base.diffusion_model, call, transformer_options, around, "The test") as options:
            return executor(x, t, c_concat, c_crossattn, control, options, **kw)

    clone = model.clone()
    clone.add_wrapper_with_key("apply_model", "test", wrapper)
    run(clone, family, TEXTS[:2], steps=1, facts=facts)
    assert kind and found
    return found


def assert_maps_are_the_softmax(attention: Attention):
    split = attention.split
    q, k = attention.q[1, :, split.picture].double(), attention.k[1].double()
    maps = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    for columns in ([2], [1, 2, 4], list(range(5))):
        places = [attention.begin(1) + column for column in columns]
        assert torch.allclose(attention.masses(1, columns).double(), maps[..., places].mean(0).T, atol=1e-5)


def test_maps_by_indicator_columns_are_the_softmax(model, family):
    for attention, _ in seen_by(model, family):
        if attention.kind != "self":
            assert_maps_are_the_softmax(attention)


def coarse(*arguments, **named):
    """In the place of a kernel with quantised numbers, as SageAttention's: all that it gives out is an eighth's."""
    return (host_attention.attention_pytorch(*arguments, **named) * 8).round() / 8


def assert_maps_are_exact_beside_coarse_attention(model, family):
    for attention, out in seen_by(model, family):
        assert torch.equal(out * 8, (out * 8).round())
        if attention.kind != "self":
            assert_maps_are_the_softmax(attention)


def test_maps_are_exact_where_a_nodes_kernel_is_not(model, family):
    """The picture's attention goes through a kernel that another node sets, and the maps do not."""
    clone, override = model.clone(), lambda func, *arguments, **named: coarse(*arguments, **named)
    clone.model_options["transformer_options"] = {**clone.model_options["transformer_options"], OVERRIDE: override}
    assert_maps_are_exact_beside_coarse_attention(clone, family)


def test_maps_are_exact_where_the_kernel_of_a_start_flag_is_not(monkeypatch):
    """As `--use-sage-attention` puts it in the place of every attention."""
    monkeypatch.setattr(flux_math, "optimized_attention", host_attention.wrap_attn(coarse))
    with torch.inference_mode():
        assert_maps_are_exact_beside_coarse_attention(tiny_transformer("flux"), "flux")


def test_tokens_of_text_and_picture(model, family):
    """The picture has as many tokens as the grid, the text as many columns as the prompt, and both fit."""
    kinds, side = set(), KINDS[family].patch
    prompt = prompt_of(family, TEXTS[0])
    for attention, out in seen_by(model, family):
        split: Split = attention.split
        kinds.add(attention.kind)
        assert split.grid == (1, 8 // side, 6 // side)
        assert split.picture.stop - split.picture.start == split.grid[1] * split.grid[2]
        assert attention.q.shape[2] >= split.picture.stop and out.shape[:3] == attention.q.shape[:3]
        if attention.kind != "self":
            assert split.text.stop <= attention.k.shape[2] and split.text.stop - split.text.start == len(prompt)
    assert kinds in ({"joint"}, {"joint", "self"}, {"self", "cross"})


def test_rows_of_unequal_length_are_what_each_is_alone(model, family):
    """Families whose prompts are as long as they are; others have them filled up by the encoder."""
    plan = plan_of(family, length=0, cross_steps=0.0, self_steps=0.0)
    assert len({len(text.split()) for text in TEXTS}) > 1
    if padding_of(model).read and not KINDS[family].left:
        pytest.skip("the encoder fills up")
    together = run(with_prompt_to_prompt(model, plan), family, length=0)
    for row, text in enumerate(TEXTS):
        alone = run(model, family, [text], length=0)
        assert torch.allclose(together[row], alone[0], atol=1e-3)
    edited = run(with_prompt_to_prompt(model, plan_of(family, length=0, cross_steps=1.0)), family, length=0)
    assert torch.allclose(edited[0], together[0], atol=1e-3)


def test_reference_tokens_are_untouched(model, family):
    """The tokens of references ask and are asked as on the plain model, in the first block, which all see alike."""
    kind = KINDS[family]
    if not kind.references:
        pytest.skip("has no reference tokens")
    facts = {"reference_latents": [noise_of(family, 1, (4, 6), seed=9)]}
    found = []

    class Spy(Foreign):
        def __call__(self, func, q, k, v, *args, **kwargs):
            found.append((q, k, v))
            return func(q, k, v, *args, **kwargs)

    plan = plan_of(family, TEXTS[:2], cross_steps=0.0, self_steps=1.0)
    edited = run(with_prompt_to_prompt(Spy().on(model), plan), family, TEXTS[:2], steps=1, facts=facts)
    calls, found = found, []
    plain = run(Spy().on(model), family, TEXTS[:2], steps=1, facts=facts)
    split = next(iter(seen_by(model, family, facts)))[0].split
    for one, other in zip(calls[0], found[0]):
        assert one.shape == other.shape and one.shape[2] > split.picture.stop
        assert torch.equal(one[:, :, split.picture.stop :], other[:, :, split.picture.stop :])
    assert not torch.allclose(edited[1], plain[1], atol=1e-5)
    assert torch.allclose(edited[0], plain[0], atol=1e-3)


def test_the_hosts_attention_is_called_as_before(model, family):
    """A wrapper that changes nothing changes no bit."""
    plain = run(model, family, TEXTS[:2], steps=1)
    clone = model.clone()

    def wrapper(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **kw):
        call = ModelCall(tuple(x.shape), c_crossattn.shape[1], kw)
        same = lambda a: a.attend(a.q, a.k, a.v)
        with attention_of_call(model.model.diffusion_model, call, transformer_options, same, "The test") as options:
            return executor(x, t, c_concat, c_crossattn, control, options, **kw)

    clone.add_wrapper_with_key("apply_model", "test", wrapper)
    assert torch.equal(run(clone, family, TEXTS[:2], steps=1), plain)


def test_every_known_family_is_tested_here():
    """But for Anima, which is Cosmos-Predict 2 with an adapter of 135 million weights before it."""
    tested = {Anima} | {type(tiny_transformer(name).model.diffusion_model) for name in FAMILIES}
    assert {network for family in KNOWN for network in family.networks} == tested


class Renamed(Flux):
    """A network that nobody knows."""


class RenamedFamily(FluxFamily):
    name = "Renamed"
    networks = (Renamed,)


def test_an_unknown_family_is_a_sentence_and_a_new_one_touches_no_technique(monkeypatch):
    with torch.inference_mode():
        known, unknown = tiny_transformer("flux"), tiny_transformer("flux")
        unknown.model.diffusion_model.__class__ = Renamed
    plan = plan_of("flux", cross_steps=1.0)
    with pytest.raises(ValueError, match="does not know the attention of this model"):
        with_prompt_to_prompt(unknown, plan)
    monkeypatch.setattr(families, "FAMILIES", [*KNOWN, RenamedFamily()])
    edited = run(with_prompt_to_prompt(unknown, plan), "flux")
    assert torch.equal(edited, run(with_prompt_to_prompt(known, plan), "flux"))


def test_no_technique_knows_a_family():
    for path in sorted((ROOT / "host").rglob("*.py")):
        if path.parent.name not in ("families", "attention"):
            assert "attention.families" not in path.read_text(encoding="utf-8"), path.name


def test_word_maps_of_a_picture_add_up_over_blocks_and_levels(model, family):
    """In 0..1, alike for each row of a batch of one picture, and the same in a batch or alone."""
    text = TEXTS[0]
    prompt, positive = prompt_of(family, text), conditioning_of(family, text)
    columns = [column for word in prompt.words for column in word.columns]
    latent = {"samples": noise_of(family, 2)}
    with torch.inference_mode():
        maps = maps_of_picture(model, prompt, positive, latent, 2, 0)
    side = KINDS[family].patch
    assert maps.shape == (2, len(prompt), 8 // side, 6 // side)
    assert bool((maps[:, columns] > 0).all()) and bool((maps.sum(1) <= 1 + 1e-4).all())
    rest = [column for column in range(len(prompt)) if column not in columns]
    assert not bool(maps[:, rest].any())


# Families that take ControlNets here, and the width of their blocks.
CONTROLLED = {"flux": 128, "flux 2": 128, "chroma": 128, "sd3": 128, "qwen-image": 32}


def controlled(model, family):
    """A clone whose calls bring what a ControlNet adds to the picture's tokens, in every block."""
    clone, tokens = model.clone(), (8 // KINDS[family].patch) * (6 // KINDS[family].patch)

    def wrapper(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **kw):
        added = torch.randn(1, tokens, CONTROLLED[family], generator=torch.Generator().manual_seed(4))
        control = {"input": [added.expand(len(x), -1, -1)] * 2, "output": [added.expand(len(x), -1, -1)] * 2}
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kw)

    clone.add_wrapper_with_key("apply_model", "control", wrapper)
    return clone


@pytest.mark.parametrize("family", list(CONTROLLED))
def test_beside_a_controlnet(family):
    """It acts on sources and edits alike, whichever node stands first, and is left as it is where nothing is edited."""
    with torch.inference_mode():
        model = tiny_transformer(family)
    off, on = plan_of(family, cross_steps=0.0, self_steps=0.0), plan_of(family, cross_steps=1.0)
    plain = run(controlled(model, family), family)
    assert not torch.allclose(plain, run(model, family), atol=1e-3)
    assert torch.equal(run(with_prompt_to_prompt(controlled(model, family), off), family), plain)
    before = run(with_prompt_to_prompt(controlled(model, family), on), family)
    behind = run(controlled(with_prompt_to_prompt(model, on), family), family)
    assert torch.equal(before, behind) and torch.allclose(before[0], plain[0], atol=1e-3)
    assert not torch.allclose(before[1], plain[1], atol=1e-5)


@pytest.mark.parametrize("family", ["wan", "cosmos"])
def test_videos_are_edited_and_have_no_blend(family):
    with torch.inference_mode():
        model = tiny_transformer(family)
    plain = run(model, family, frames=3)
    assert plain.shape[2] == 3
    edited = run(with_prompt_to_prompt(model, plan_of(family, cross_steps=1.0)), family, frames=3)
    assert torch.allclose(edited[0], plain[0], atol=1e-3) and not torch.allclose(edited[1], plain[1], atol=1e-5)
    columns = tuple(prompt_of(family, text).words[2].columns for text in TEXTS)
    with pytest.raises(ValueError, match="this latent is a video"):
        run(with_prompt_to_prompt(model, plan_of(family, blend=LocalBlend(columns))), family, frames=3)
