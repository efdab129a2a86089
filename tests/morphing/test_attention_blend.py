"""Attention Blend on the host's own UNets: key pictures keep their result, chunks and extra rows change nothing."""

from types import SimpleNamespace

import pytest
import torch
from palimpsest.guidance.anchor import Anchor
from palimpsest.host.inversion.anchor import anchored
from palimpsest.host.morphing.attention_blend import blended
from palimpsest.host.morphing.conditioning import morphed
from palimpsest.host.morphing.row_chunks import Limits, RowChunks
from palimpsest.host.morphing.row_lora import interpolated
from palimpsest.inversion.trajectory import Trajectory
from palimpsest.morphing.attention_blend import BLENDS
from palimpsest.morphing.latents import morph_latents
from palimpsest.morphing.schedule import Alphas, schedule

from ..tiny_models import tiny_cond, tiny_latent, tiny_model
from .parts import SIGMAS, ask, random_lora, sample

TOLERANCE = {"atol": 2e-3, "rtol": 1e-3}


@pytest.fixture(scope="module")
def model():
    return tiny_model("sd1")


def prompts(count, alphas):
    return morphed([tiny_cond("sd1", seed=seed) for seed in range(count)], alphas)


def start(count, alphas, scale=8.0):
    keys = torch.cat([tiny_latent("sd1", seed=seed) for seed in range(count)]) * scale / 2
    return morph_latents(keys, alphas), keys


@pytest.mark.parametrize("blend", BLENDS)
def test_key_pictures_keep_their_own_result_with_their_own_lora(model, blend):
    alphas = schedule(5, 3)
    loras = [random_lora(model, seed) for seed in range(3)]
    x, keys = start(3, alphas)
    patched = blended(interpolated(model, loras, alphas), alphas, blend=blend)
    frames = sample(patched, prompts(3, alphas), x / SIGMAS[0])
    for key, frame in enumerate((0, 2, 4)):
        one = Alphas((float(key),), 3)
        alone = sample(interpolated(model, loras, one), prompts(3, one), keys[key : key + 1] / SIGMAS[0])
        assert torch.allclose(frames[frame : frame + 1], alone, **TOLERANCE)
    without = sample(interpolated(model, loras, alphas), prompts(3, alphas), x / SIGMAS[0])
    assert not torch.allclose(frames[1], without[1], atol=5e-2)


@pytest.mark.parametrize("at_once", [0, 2])
def test_trajectory_anchor_holds_the_key_pictures_of_a_morph(model, at_once):
    """To the bit, by the inverted key pictures and their rows, whatever their noise would have come back as."""
    alphas = schedule(5, 3)
    x, keys = start(3, alphas)
    pictures = torch.cat([tiny_latent("sd1", seed=10 + seed) for seed in range(3)])
    levels, path = torch.tensor([0.0, float(SIGMAS[0])]), torch.stack([pictures, keys])
    inverted = Trajectory(levels, path, "", 1.0, "", "eps", "SD15")
    patched = blended(model, alphas, rows_at_once=at_once)
    free = sample(patched, prompts(3, alphas), x / SIGMAS[0])
    fixed = sample(anchored(patched, Anchor(inverted, rows=(0, 2, 4))), prompts(3, alphas), x / SIGMAS[0])
    assert torch.equal(fixed[[0, 2, 4]], model.model.process_latent_out(pictures))
    assert torch.isfinite(fixed).all() and not torch.allclose(fixed[[0, 2, 4]], free[[0, 2, 4]], atol=5e-2)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_frame_that_mixes_one_picture_with_itself_changes_nothing(family, blend):
    """All rows alike: whatever is mixed, the mixture is the row's own."""
    model, alphas = tiny_model(family), Alphas((0.0, 0.5, 1.0), 2)
    x = tiny_latent(family).expand(3, -1, -1, -1).contiguous()
    same = ask(blended(model, alphas, blend=blend), tiny_cond(family), x)
    assert torch.allclose(same, ask(model, tiny_cond(family), x), atol=1e-4)


def test_where_and_what_is_mixed_is_what_the_paper_says(model):
    """The decoder's self-attention alone, keys and values from the mixture of the key rows' inputs."""
    seen = {}

    def spy(name):
        def patch(n, k, v, options):
            seen.setdefault(name, {})[tuple(options["block"])] = (n.clone(), k.clone(), v.clone())
            return n, k, v

        return patch

    alphas = Alphas((0.0, 0.3, 1.0), 2)
    watched = model.clone()
    watched.set_model_attn1_patch(spy("before"))
    watched = blended(watched, alphas, strength=0.5)
    watched.set_model_attn1_patch(spy("after"))
    ask(watched, tiny_cond("sd1"), start(2, alphas)[0])
    blocks = set()
    for block, (n, k, v) in seen["before"].items():
        after = seen["after"][block]
        assert torch.equal(after[0], n)
        if block[0] != "output":
            assert torch.equal(after[1], k) and torch.equal(after[2], v)
            continue
        blocks.add(block)
        wanted = 0.5 * n[1] + 0.5 * (0.7 * n[0] + 0.3 * n[2])
        for part in after[1:]:
            assert torch.equal(part[[0, 2]], n[[0, 2]])
            assert torch.allclose(part[1], wanted, atol=1e-5)
    assert blocks


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_chunks_change_nothing(model, blend, at_once):
    alphas = schedule(7, 3)
    loras = [random_lora(model, seed) for seed in range(3)]
    x, _ = start(3, alphas)
    cond, negative = prompts(3, alphas), tiny_cond("sd1", seed=9)
    mixed = interpolated(model, loras, alphas)
    whole = ask(blended(mixed, alphas, blend=blend), cond, x, negative=negative, cfg=3.0)
    parts = ask(blended(mixed, alphas, blend=blend, rows_at_once=at_once), cond, x, negative=negative, cfg=3.0)
    assert torch.allclose(whole, parts, **TOLERANCE)


def scarce(model, alphas, most):
    """Attention Blend on a model that answers more than `most` rows with no memory, and the rows of all its calls."""
    calls = []
    patched = blended(model, alphas)

    def short(executor, x, *args, **kwargs):
        calls.append(x.shape[0])
        if x.shape[0] > most:
            raise torch.OutOfMemoryError("short")
        return executor(x, *args, **kwargs)

    patched.add_wrapper_with_key("diffusion_model", "short", short)
    return patched, calls


def test_memory_that_runs_out_is_answered_by_smaller_chunks(model):
    alphas = schedule(6)
    x, _ = start(2, alphas)
    cond = prompts(2, alphas)
    patched, calls = scarce(model, alphas, 4)
    assert torch.allclose(ask(patched, cond, x), ask(blended(model, alphas), cond, x), **TOLERANCE)
    assert calls[0] == 6 and max(calls[1:]) <= 5


def test_a_run_finds_out_once_what_fits_and_the_next_run_anew(model):
    """Of five steps the first alone asks for too much; a later run may find more memory."""
    alphas = schedule(6)
    x, _ = start(2, alphas)
    patched, calls = scarce(model, alphas, 4)
    for _ in range(2):
        frames = sample(patched, prompts(2, alphas), x / SIGMAS[0])
        assert sum(rows > 4 for rows in calls) == 1 and calls[0] == 6
        assert torch.allclose(frames, sample(blended(model, alphas), prompts(2, alphas), x / SIGMAS[0]), **TOLERANCE)
        calls.clear()


@pytest.mark.parametrize("reserved", [0, 3])
def test_the_estimate_of_what_fits_counts_the_extra_key_pictures(reserved):
    """Nine frames that read two of them: memory for four rows of each group is for two frames and both key rows. What
    LoRAs are yet to take is not free."""
    alphas = schedule(9, 2)
    needs = {row: {0, 8} for row in range(9)}
    patcher = SimpleNamespace(get_free_memory=lambda device: 12.5)
    host = SimpleNamespace(current_patcher=patcher, memory_required=lambda shape: shape[0])
    calls = []

    def call(rows, x):
        calls.append(x.shape[0])
        return x

    x = torch.randn(18, 4, 2, 2)
    whole = RowChunks().run(host, call, tuple(range(len(alphas))), 2, needs, {"x": x}, Limits(), reserved)
    assert torch.equal(whole, x)
    assert max(calls) * 1.5 < 12.5 - reserved


def morph_run(family, blend="input", pictures=3, frames=8, **options):
    """A whole morph with LoRAs, and `run(alphas, rows of its start)`; key pictures that are no frames are extra."""
    model, whole = tiny_model(family), schedule(frames, pictures)
    keys = torch.cat([tiny_latent(family, seed=seed) for seed in range(pictures)]) * 4
    x = morph_latents(keys, whole)
    loras = [random_lora(model, seed) for seed in range(pictures)]
    path = torch.stack([torch.zeros_like(keys), keys])
    inverted = Trajectory(torch.tensor([0.0, float(SIGMAS[0])]), path, "", 1.0, "", "eps", "SD15")
    texts = [tiny_cond(family, seed=seed) for seed in range(pictures)]

    def run(alphas, rows):
        patched = blended(interpolated(model, loras, alphas), alphas, blend=blend, keys=inverted, **options)
        negative = tiny_cond(family, seed=9)
        return sample(patched, morphed(texts, alphas), x[rows] / SIGMAS[0], negative=negative, cfg=3.0)

    return whole, run


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("part", [(1, 2), (3, 0), (2, 4)])
def test_parts_of_a_morph_join_to_the_whole(blend, part):
    """Key pictures that are no frames of the part are sampled along, with their own noise, prompt and LoRA."""
    whole, run = morph_run("sd1", blend)
    some = whole.part(*part)
    rows = slice(part[0], part[0] + len(some))
    assert torch.allclose(run(some, rows), run(whole, slice(None))[rows], **TOLERANCE)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("frames, pictures", [(2, 2), (5, 2), (8, 3)])
def test_as_many_frames_are_as_many_single_runs(family, frames, pictures):
    """Also where a frame's one row of the prompt is a mixture of its own, pooled outputs included."""
    whole, run = morph_run(family, pictures=pictures, frames=frames)
    together = run(whole, slice(None))
    for row in range(frames):
        alone = run(whole.part(row, 1), slice(row, row + 1))
        assert torch.allclose(alone, together[row : row + 1], **TOLERANCE), row


def test_until_ends_the_blend_and_0_is_the_plain_model(model):
    alphas = schedule(4)
    x, _ = start(2, alphas)
    cond = prompts(2, alphas)
    plain = sample(model, cond, x / SIGMAS[0])
    assert torch.equal(sample(blended(model, alphas, until=0.0), cond, x / SIGMAS[0]), plain)
    assert torch.equal(sample(blended(model, alphas, strength=0.0), cond, x / SIGMAS[0]), plain)
    counted = []

    def spy(n, k, v, options):
        if options["block"][0] == "output":
            counted.append(not torch.equal(n, k))
        return n, k, v

    patched = blended(model, alphas, until=0.6)
    patched.set_model_attn1_patch(spy)
    sample(patched, cond, x / SIGMAS[0])
    assert sum(counted) / len(counted) == 3 / 5


def test_a_replacement_that_was_there_is_honoured(model):
    alphas = schedule(3)
    x, _ = start(2, alphas)
    seen = []

    def replacement(q, k, v, options):
        seen.append(k.shape)
        return q * 0.5

    patched = model.clone()
    for number in range(len(model.model.diffusion_model.output_blocks)):
        patched.set_model_attn1_replace(replacement, "output", number)
    ours = ask(blended(patched, alphas, blend="values"), prompts(2, alphas), x)
    assert seen and torch.equal(ours, ask(patched, prompts(2, alphas), x))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda m: blended(m, schedule(8, 3).part(1, 2)), "key picture 0 and 1"),
        (lambda m: blended(m, schedule(4), blend="all"), "input, values, output"),
        (lambda m: sample(blended(m, schedule(4)), tiny_cond("sd1"), tiny_latent("sd1", batch=3)), "4 frames, but 3"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(model, make, message):
    with pytest.raises(ValueError, match=message):
        make(model)
