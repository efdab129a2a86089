"""The benchmark's parts: edits with a known truth, plots, costs, and the methods on the shipped weights."""

import contextlib
import json
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import pytest
import torch
from palimpsest.benchmarks import plots
from palimpsest.benchmarks.diffedit import batch_edits, fixtures as papercut_edits, methods
from palimpsest.benchmarks.diffedit.cases import KINDS, LARGEST, SMALLEST, edits, pictures
from palimpsest.benchmarks.diffedit.cost import costs, peak_memory
from palimpsest.host.content_cache import RESULTS
from palimpsest.host.diffedit.heat_map import MapRecipe, Prompts, compare

from ..tiny_models import tiny_cond, tiny_latent, tiny_model
from .maps import heat

ROOT = __import__("pathlib").Path(__file__).resolve().parents[2]


def test_edits_change_one_word_and_know_where():
    some = edits(40)
    assert [edit.kind for edit in some[:8]] == list(KINDS) * 2
    objects = [edit for edit in some if edit.kind in ("colour", "pattern")]
    assert (
        min(edit.fraction for edit in objects) < 1.5 * SMALLEST
        and max(edit.fraction for edit in objects) > 0.6 * LARGEST
    )
    for edit in some:
        before, after = edit.before.caption.split(), edit.after.caption.split()
        # A plain pattern has no word, and the first article follows the first word.
        assert 1 <= len(set(before) ^ set(after)) <= 4 and edit.mask.any()
        outside = (edit.before.render() != edit.after.render()).any(0) & ~edit.mask
        assert edit.kind == "shape" or edit.kind == "tone" or float(outside.float().mean()) < 0.02


def test_a_plot_is_a_picture_of_its_curves(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "FOLDER", tmp_path / "figures")
    curves = [plots.Curve("a & b", [0.0, 0.5, 1.0]), plots.Curve("level", [0.5] * 3, flat=True)]
    path = plots.line_plot("rising", "Rising <curve>", "place", [0.0, 0.5, 1.0], curves)
    root = ElementTree.parse(path).getroot()
    lines = [one for one in root if one.tag.endswith("polyline")]
    labels = [one.text for one in root if one.tag.endswith("text")]
    assert {"a & b", "Rising <curve>", "place"} <= set(labels) and path.name == "rising.svg"
    rising = next(one for one in lines if "stroke-dasharray" not in one.attrib).attrib["points"].split()
    x, y = zip(*(map(float, point.split(",")) for point in rising))
    assert x[0] < x[1] < x[2] and y[0] > y[1] > y[2] and len(lines) == 2
    with pytest.raises(ValueError):
        plots.line_plot("short", "", "", [0.0, 1.0], curves)


def test_costs_are_counted_and_the_methods_take_turns():
    network, turns = torch.nn.Linear(2, 2), []

    def method(name, *rows):
        def call():
            turns.append(name)
            for count in rows:
                network(torch.zeros(count, 2))

        return call, network

    one, two = costs([method("a", 3, 1), method("b", 2)], repeats=2)
    assert (one.samples, one.largest, two.samples) == (4, 3, 2) and turns == ["a", "b", "a", "b"]


def test_peak_memory_is_what_lives_at_one_time():
    def both():
        return torch.zeros(500, 500) + torch.zeros(500, 500)

    assert peak_memory(lambda: torch.zeros(500, 500)) == pytest.approx(1.0, rel=0.1)
    assert peak_memory(both) == pytest.approx(3.0, rel=0.1)


def test_single_maps_make_the_map_and_more_begin_with_the_same():
    model, latent = tiny_model("sd1"), tiny_latent("sd1", batch=2)
    prompts = Prompts(tiny_cond("sd1", seed=1), tiny_cond("sd1", seed=2))
    with torch.inference_mode():
        maps, _, cost = compare(model, prompts, latent, MapRecipe(noises=4), [0, 1])
        whole, _ = heat(model, prompts, latent, MapRecipe(noises=4), [0, 1])
        RESULTS.clear()
        fewer = compare(model, prompts, latent, MapRecipe(noises=2), [0, 1]).maps
        RESULTS.clear()
    assert maps.shape == (4, 2, 8, 8) and cost == 16
    torch.testing.assert_close(maps.mean(0), whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(maps[:2], fewer, atol=1e-6, rtol=1e-5)


def test_a_mask_is_found_on_the_noises_of_diffusers():
    before, after = (tiny_cond("sd1", seed=seed)[0][0] for seed in (1, 2))
    nothing = {"vae": None, "reference": None, "pipeline": None, "pictures": torch.zeros(1), "embed": None}
    texts = {"before": before, "after": after, "asked": after, "empty": before}
    with torch.inference_mode():
        one = papercut_edits.Fixtures(
            model=tiny_model("sd1"), edits=[None], latents=tiny_latent("sd1"), **texts, **nothing
        )
        masks = methods.faithful_masks(one)
    assert masks.shape == (1, 8, 8) and masks.dtype == torch.bool


@pytest.fixture
def fixtures(monkeypatch):
    """Four edits on the shipped weights, in few steps and batches of two."""
    monkeypatch.setattr(methods, "STEPS", 5)
    for module in (papercut_edits, batch_edits):
        monkeypatch.setattr(module, "BATCH", 2)
    with torch.inference_mode():
        yield papercut_edits.papercut(4)


def test_the_whole_edit_leaves_the_rest_alone_and_sdedit_does_not(fixtures):
    with torch.inference_mode():
        maps, changes = methods.our_search(fixtures, noises=2)
        masks, changes = methods.our_places(fixtures, maps, changes)
        scores = methods.scored(masks, fixtures)
        one = fixtures.part([1])
        made = methods.anchored_edit(one, masks[1:2], changes[1:2], methods.inverted(one))
        noisy = methods.sdedit(one)
    assert masks.shape == (4, 256, 256) and maps.shape == (2, 4, 32, 32)
    assert fixtures.grounds.tolist() == [False, False, False, True]
    assert changes[:3].any() and not changes[3].any()
    assert ((0 <= scores.iou) & (scores.iou <= scores.recall) & (scores.recall <= 1)).all()
    untouched = made.soft == 0
    assert torch.equal(made.pictures[untouched], one.pictures[untouched]) and untouched.any()
    assert not torch.equal(noisy[untouched], one.pictures[untouched])


def test_batch_edits_are_the_single_ones_and_an_empty_mask_leaves_its_picture(fixtures, monkeypatch):
    monkeypatch.setattr(batch_edits, "autocast", contextlib.nullcontext)
    masks = torch.zeros(4, 256, 256, dtype=torch.bool)
    masks[[0, 1, 3], 96:160, 96:160] = True
    with torch.inference_mode():
        path = batch_edits.inversions(fixtures)
        made = batch_edits.our_edits(fixtures, masks, None, path)
        last = fixtures.part([3])
        alone = methods.anchored_edit(last, masks[3:], None, methods.inverted(last))
    assert torch.equal(made.pictures[2], fixtures.pictures[2]) and not made.soft[2].any()
    torch.testing.assert_close(made.pictures[3:], alone.pictures, atol=1e-3, rtol=0)
    assert torch.equal(made.soft[3:], alone.soft) and not torch.equal(made.pictures[0], fixtures.pictures[0])


def test_what_is_measured_is_the_blueprint():
    (graph,) = json.loads((ROOT / "subgraphs" / "Change Only That.json").read_text())["definitions"]["subgraphs"]
    values = {node["type"]: node["widgets_values"] for node in graph["nodes"]}
    mask = values["PalimpsestDiffEditMask"][:14]  # before the preset
    assert values["BasicScheduler"][:2] == ["normal", round(methods.STEPS * methods.DEPTH)]
    assert [n["widgets_values"] for n in graph["nodes"] if n.get("title") == "Depth"] == [[methods.DEPTH]]
    assert values["CFGGuider"] == [methods.CFG]
    assert values["PalimpsestDiffEditHeadStart"] == [methods.HEAD_START, methods.DRAFTS, "detect"]
    assert mask[1:4] == [methods.NOISES, methods.STRENGTH, "adaptive"] and mask[-1] == methods.ROOMY.room
    assert mask[-4:-2] == [methods.GROW, methods.OURS.soft_edge] and values["KSamplerSelect"] == ["euler"]


def test_true_pictures_are_judged_right_and_sources_wrong():
    chosen = edits(40)[20:32]
    before, after = (pictures([getattr(edit, name) for edit in chosen]).movedim(1, -1) for name in ("before", "after"))
    fixtures = SimpleNamespace(edits=chosen, pictures=before)
    found, source = batch_edits.judged(after, fixtures), batch_edits.judged(before, fixtures)
    assert found.right.mean() >= found.whole.mean() > 0.9 and source.right.mean() < 0.1
    assert (source.kept == 60).all() and not source.whole.any()
    changed = before.clone()
    changed[0] += 0.1
    assert float(batch_edits.judged(changed, fixtures).kept[0]) == pytest.approx(20, abs=1e-3)


def test_sizes_and_kinds_part_the_edits():
    chosen = edits(80)
    fixtures = SimpleNamespace(edits=chosen, grounds=torch.tensor([edit.kind == "tone" for edit in chosen]))
    found = batch_edits.groups(fixtures)
    objects = [name for name in found if name.startswith("objects of")]
    assert torch.equal(sum(found[name].int() for name in objects), found["objects"].int())
    assert torch.equal(sum(found[f"new {kind}"].int() for kind in KINDS[:-1]), found["objects"].int())
    assert not (found["objects"] & found["grounds"]).any() and all(rows.any() for rows in found.values())


def test_scores_are_what_they_say():
    fixtures = type("Fixtures", (), {"edits": [type("Edit", (), {"mask": torch.eye(4) > 0})]})
    half = torch.zeros(1, 4, 4, dtype=torch.bool)
    half[0, 0, 0] = half[0, 1, 1] = half[0, 0, 3] = True
    scores = methods.scored(half, fixtures)
    assert float(scores.iou) == pytest.approx(2 / 5) and float(scores.recall) == 0.5
