"""Parts of the picture and of the batch: tiles, areas and windows are put together, or refused."""

import pytest
import torch
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_tomesd import TomePatchModel
from palimpsest.guidance.prompt_to_prompt.local_blend import heat, outline
from palimpsest.guidance.prompt_to_prompt.plan import LocalBlend
from palimpsest.host.prompt_to_prompt.patch import recording, with_prompt_to_prompt
from palimpsest.host.prompt_to_prompt.tokens import read_prompt
from palimpsest.host.prompt_to_prompt.word_maps import maps_of_trajectory
from palimpsest.inversion.trajectory import Trajectory

from nodes import ConditioningSetArea

from .stand_ins import tiled, windowed
from .test_host import TEXTS, parts, plan_of, rows_of, run, start, trajectory_for  # noqa: F401

WIDE = (12, 16)
HALVES, HALF = [(0, 0), (0, 8)], (12, 8)
OVERLAPPING = [(0, 0), (0, 4), (0, 8)]
ORDERS = ["tiles first", "rows first"]


def heart(clip, texts):
    return tuple(read_prompt(clip, text)[0].find(read_prompt(clip, "heart")[0]) for text in texts)


@pytest.mark.parametrize("order", ORDERS)
def test_tiles_are_edited_each_as_a_picture_of_its_own(parts, order):
    model, clip = parts
    plan, positive = plan_of(clip, cross_steps=1.0, self_steps=1.0), rows_of(clip)
    # As long as the positive prompt, so that the host puts both into one call.
    noise, negative = start(3, WIDE), rows_of(clip, [""])
    patched = with_prompt_to_prompt(tiled(model, HALVES, HALF, order), plan)
    out = run(patched, positive, 3, size=WIDE, noise=noise, negative=negative)
    alone = [
        run(with_prompt_to_prompt(model, plan), positive, 3, noise=noise[..., left : left + 8], negative=negative)
        for _, left in HALVES
    ]
    assert torch.allclose(out, torch.cat(alone, -1), atol=1e-3)


@pytest.mark.parametrize("order", ORDERS)
def test_the_maps_of_tiles_lie_where_the_tiles_lie(parts, order):
    """Of one step: later ones see what overlapping tiles have made of each other."""
    model, clip = parts
    texts = TEXTS[:2]
    plan = plan_of(clip, texts, blend=LocalBlend(heart(clip, texts), start=0.0, threshold=0.8))
    noise, positive = start(2, WIDE), rows_of(clip, texts)
    patched = with_prompt_to_prompt(tiled(model, OVERLAPPING, HALF, order), plan)
    out = run(patched, positive, 2, size=WIDE, noise=noise, steps=1)
    record, found = recording(patched).last, []
    for _, left in OVERLAPPING:
        alone = with_prompt_to_prompt(model, plan)
        run(alone, positive, 2, noise=noise[..., left : left + 8], steps=1)
        found.append(recording(alone).last.maps)
    for row in range(2):
        total, seen = torch.zeros(77, *WIDE), torch.zeros(WIDE)
        for (_, left), maps in zip(OVERLAPPING, found):
            total[..., left : left + 8] += maps[row]
            seen[:, left : left + 8] += 1
        assert torch.allclose(record.maps[row], total / seen, atol=1e-5)
    places = [outline(heat(maps, columns), WIDE, 0.8) for maps, columns in zip(record.maps, plan.blend.columns)]
    assert torch.equal(record.mask[1], torch.maximum(*places))
    kept = (record.mask[1] == 0).expand(4, -1, -1)
    assert kept.any() and not kept.all() and torch.equal(out[1][kept], out[0][kept])


def test_the_map_of_an_area_is_the_areas(parts):
    model, clip = parts
    texts = TEXTS[:2]
    plan = plan_of(clip, texts, blend=LocalBlend(heart(clip, texts), start=0.0, threshold=0.5))
    noise, positive = start(2, WIDE), rows_of(clip, texts)
    area = ConditioningSetArea().append(positive, 64, 96, 64, 0, 1.0)[0]
    patched = with_prompt_to_prompt(model, plan)
    out = run(patched, area, 2, size=WIDE, noise=noise, steps=1)
    alone = with_prompt_to_prompt(model, plan)
    run(alone, positive, 2, noise=noise[..., 8:], steps=1)
    for found, wanted in zip(recording(patched).last.maps, recording(alone).last.maps):
        assert torch.allclose(found[..., 8:], wanted, atol=1e-5) and not found[..., :8].any()
    mask = recording(patched).last.mask[1]
    assert not mask[:, :7].any() and torch.equal(out[1][..., :7], out[0][..., :7])


def shifted(model):
    """A node that cuts the picture after it has moved it: no tile stands anywhere in what was asked about."""
    inner = tiled(model, HALVES, HALF)
    cut = inner.model_options["model_function_wrapper"]
    rolled = lambda apply, args: cut(apply, {**args, "input": args["input"] * 1.01})
    inner.set_model_unet_function_wrapper(rolled)
    return inner


@pytest.mark.parametrize(("make", "words"), [
    (shifted, "take that node off"), (lambda model: windowed(model, 2), "all 3 rows"),
    (lambda model: windowed(model, 1), "all 3 rows"),
])  # fmt: skip
def test_parts_that_cannot_be_separated_are_refused(parts, make, words):
    model, clip = parts
    with pytest.raises(ValueError, match=words):
        run(with_prompt_to_prompt(make(model), plan_of(clip)), rows_of(clip), 3, size=WIDE)


def wide_trajectory(model, rows=1):
    path = trajectory_for(model, WIDE)
    latents = torch.cat([path.latents, path.latents.flip(-1), path.latents], 1)[:, :rows]
    return Trajectory(path.sigmas, latents, "", 1.0, "", "eps", "SD15")


def word_maps_of(model, clip, trajectory):
    prompt, positive = read_prompt(clip, TEXTS[0])[0], rows_of(clip, TEXTS[:1])
    with torch.inference_mode():
        return maps_of_trajectory(model, prompt, positive, trajectory, 2)


@pytest.mark.parametrize("rows", [1, 3])
def test_word_maps_of_tiles_are_put_together(parts, rows):
    model, clip = parts
    path = wide_trajectory(model, rows)
    found = word_maps_of(tiled(model, OVERLAPPING, HALF), clip, path)
    total, seen = torch.zeros(rows, 77, *WIDE), torch.zeros(WIDE)
    for _, left in OVERLAPPING:
        tile = Trajectory(path.sigmas, path.latents[..., left : left + 8], "", 1.0, "", "eps", "SD15")
        total[..., left : left + 8] += word_maps_of(model, clip, tile)
        seen[:, left : left + 8] += 1
    assert found.shape == total.shape and torch.allclose(found, total / seen, atol=1e-5)


def test_word_maps_of_windows_are_put_together(parts):
    model, clip = parts
    path = wide_trajectory(model, 3)
    assert torch.allclose(word_maps_of(windowed(model, 1), clip, path), word_maps_of(model, clip, path), atol=1e-5)


def test_word_maps_of_parts_that_stand_nowhere_are_refused(parts):
    model, clip = parts
    with pytest.raises(ValueError, match="take that node off"):
        word_maps_of(shifted(model), clip, wide_trajectory(model))


def hypertile(model):
    return HyperTile.execute(model, 32, 2, 1, False)[0]


def merged(model):
    return TomePatchModel.execute(model, 0.5).args[0]


@pytest.mark.parametrize("make", [hypertile, merged])
def test_nodes_that_thin_out_self_attention_stand_before_or_behind(parts, make):
    """Shapes are kept before they cut or merge the tokens: the source is theirs, whatever is edited, and the order of
    the nodes does not matter."""
    model, clip = parts
    size, texts = (32, 32), TEXTS[:2]
    plan = plan_of(clip, texts, cross_steps=0.5, self_steps=1.0, self_reduction=1)
    positive, outs = rows_of(clip, texts), []
    for patched in (with_prompt_to_prompt(make(model), plan), make(with_prompt_to_prompt(model, plan))):
        torch.manual_seed(0)
        outs.append(run(patched, positive, 2, size=size))
    torch.manual_seed(0)
    plain = run(make(model), positive, 2, size=size)
    assert torch.allclose(*outs, atol=1e-4) and torch.allclose(outs[0][0], plain[0], atol=1e-3)
    assert (outs[0][1] - plain[1]).abs().max() > 1e-2


@pytest.mark.parametrize("sampler", ["dpm_fast", "dpm_adaptive", "uni_pc", "uni_pc_bh2", "euler", "heun", "dpmpp_2m"])
def test_outside_the_blend_an_edit_is_its_source_with_every_sampler(parts, sampler):
    model, clip = parts
    texts = TEXTS[:2]
    plan = plan_of(clip, texts, blend=LocalBlend(heart(clip, texts), start=0.25, threshold=0.8))
    patched = with_prompt_to_prompt(model, plan)
    out = run(patched, rows_of(clip, texts), 2, sampler=sampler)
    kept = (recording(patched).last.mask[1] == 0).expand(4, -1, -1)
    assert kept.any() and not kept.all() and torch.equal(out[1][kept], out[0][kept])
