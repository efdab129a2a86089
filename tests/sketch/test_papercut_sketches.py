"""The Papercut side of the sketch: outlines read off pictures, unsteady hands, a benchmark that names its targets."""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from palimpsest.benchmarks.results import Row
from palimpsest.benchmarks.sketch import cost, plots, suite, suite_cost
from palimpsest.benchmarks.sketch.fixtures import Judged, Tests, error_of_loss, legible, pooled
from palimpsest.papercut.classifier import load_classifier
from palimpsest.papercut.edge_quality import lines
from palimpsest.papercut.edge_score import edge_score
from palimpsest.papercut.outlines import SKETCHES, outline, outlines_score, readable
from palimpsest.papercut.scenes import SPLITS, sample_scene
from palimpsest.papercut.train_edges import AUTOSAVE, draw_pairs, prompt, unfinished_training


@pytest.fixture(scope="module")
def scenes():
    found = [sample_scene(seed, objects=1) for seed in SPLITS["test"][:8]]
    return [scene for scene in found if readable(scene)][:4]


def test_the_outline_of_a_picture_is_found_without_knowing_what_is_in_it(scenes):
    assert len(scenes) == 4
    pictures = torch.stack([scene.render() for scene in scenes])
    noisy = (pictures + 0.02 * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    wanted = torch.stack([scene.edges() for scene in scenes])
    for seen in (pictures, noisy):
        assert float(outlines_score(seen, wanted).f1.min()) > 0.93
    assert not outline(sample_scene(SPLITS["test"][0], objects=0).render()).any()


def test_unsteady_hands_leave_what_they_should(scenes):
    edges = scenes[0].edges()
    drawn = {kind: make(edges, 3) for kind, make in SKETCHES.items()}
    assert torch.equal(drawn["outline"], edges)
    near = edge_score(drawn["wobbled"][None], edges[None], tolerance=10.0)
    assert float(near.f1) > 0.95 and float(edge_score(drawn["wobbled"][None], edges[None]).f1) < 0.95
    for kind, fraction in (("broken", 0.7), ("partial", 0.5)):
        assert not (drawn[kind] & ~edges).any()
        assert float(drawn[kind].sum() / edges.sum()) == pytest.approx(fraction, abs=0.08)
    assert all(torch.equal(make(edges, 3), drawn[kind]) for kind, make in SKETCHES.items())


def test_predicted_closeness_becomes_thin_lines_in_its_place(scenes):
    from palimpsest.guidance.sketch.targets import closeness

    wanted = scenes[0].edges()[None]
    found = lines(closeness(wanted.float(), 4.0))
    assert float(edge_score(found, wanted).f1) > 0.97


def test_a_training_picture_holds_the_scene_beside_its_edges(tmp_path):
    from torchvision.io import read_image

    draw_pairs(tmp_path, 1)
    both, text = read_image(str(tmp_path / "0000.png")), (tmp_path / "0000.txt").read_text()
    assert both.shape == (3, 256, 512) and text.startswith("a")
    assert set(both[:, :, 256:].unique().tolist()) == {0, 255}
    assert prompt("pairs", 9, 2, {"detail": "4"}, "x.safetensors")["6"]["inputs"]["continue_from"] == ["9", 0]


def test_an_interrupted_training_of_the_shipped_predictor_is_found_again(tmp_path):
    assert unfinished_training(tmp_path / "nowhere") is None
    for number in (1, 2):
        path = tmp_path / f"{AUTOSAVE}_{number:05}_.safetensors"
        path.write_bytes(b"")
        os.utime(path, (number, number))
    assert unfinished_training(tmp_path).name == f"{AUTOSAVE}_00002_.safetensors"


def test_without_weights_the_suites_still_name_every_row_and_target():
    make = lambda *values: Row.make(*values, machine="m", date="2026-01-01")
    context = SimpleNamespace(row=make)
    found = [*suite.own_rows(context, None, None), *suite.all_rows(context, {})]
    found += [row for part in suite_cost.PARTS for row in part(context, None, None, None)]
    assert len({row.key for row in found}) == len(found) and all(row.value is None for row in found)
    targets = {row.measure: row.target for row in found if row.target}
    assert targets == {"sketches": ">= 100"} | {
        f"{kind}: {measure}": target
        for kind in ("outline", "all sketches")
        for measure, target in (
            ("edge F1 beside no guidance", ">= 2"),
            ("caption success lost", "< 5"),
            ("edge F1 added by Best Seed", "> 0"),
            ("caption success added by Best Seed", "> 0"),
        )
    }


def test_scenes_that_the_classifier_misreads_as_they_are_take_no_part():
    """By the judge's own answers on the scene as the VAE leaves it."""
    scenes = [sample_scene(seed, objects=1) for seed in SPLITS["validation"][:3]]
    t = Tests(scenes, [scene.caption for scene in scenes], torch.stack([scene.edges() for scene in scenes]), [1, 2, 3])
    same = SimpleNamespace(encode=lambda picture: picture, decode=lambda picture: picture)
    judge = load_classifier()
    wrong = {0: "shape", 2: "colour"}

    class Misled:
        """The classifier, wrong about one word of some scenes."""

        def __init__(self):
            self.count = -1

        def read(self, picture):
            self.count += 1
            (reading,) = judge.read(picture)
            word = wrong.get(self.count)
            return [reading if word is None else replace(reading, **{word: "nothing"})]

    assert legible(SimpleNamespace(vae=same, judge=judge), t) == [0, 1, 2]
    assert legible(SimpleNamespace(vae=same, judge=Misled()), t) == [1]


def test_the_first_layer_is_far_cheaper_before_the_enlargement():
    context = SimpleNamespace(row=lambda *values: Row.make(*values, machine="m", date="2026-01-01"))
    with torch.inference_mode():
        row = cost.first_layer_row(context, "x")
    assert row.met and row.value < 10


def test_all_sketches_count_each_picture_once():
    one, two = Judged(0.2, 0.4, 0.3, 1.0, 0.9, 30, (("a", True),)), Judged(0.6, 0.8, 0.7, 0.5, 0.5, 10, (("b", False),))
    both = pooled([one, two])
    assert both[:-1] == pytest.approx((0.3, 0.5, 0.4, 0.875, 0.8, 40)) and both.right == one.right + two.right


def test_each_kind_of_sketch_is_drawn_and_knows_what_is_meant(scenes):
    plain = torch.stack([scene.render() for scene in scenes]).flip(-1)
    edges = torch.stack([scene.edges() for scene in scenes])
    t = Tests(scenes, [scene.caption for scene in scenes], edges, [5, 6, 7, 8])
    made = {kind: suite.sketches(kind, t, plain) for kind in suite.KINDS}
    assert torch.equal(made["outline"].lines, edges) and torch.equal(made["broken"].wanted, edges)
    assert torch.equal(made["wobbled"].wanted, made["wobbled"].lines) and made["partial"].recipe.one_sided > 0
    against = made["outline against the seed"]
    assert torch.equal(against.lines, against.wanted) and len(against.tests.scenes) == len(against.plain) > 0
    assert all(len(one.lines) == len(one.plain) == len(one.tests.seeds) for one in made.values())


def test_an_outline_against_the_seed_lies_elsewhere(scenes):
    """Mirrored, or upside down where mirrored it would be nothing that the model was ever shown."""
    scenes = [*scenes, next(s for s in map(sample_scene, SPLITS["validation"]) if s.objects[0].shape == "moon")]
    pictures = torch.stack([scene.render() for scene in scenes])
    own = torch.stack([outline(picture) for picture in pictures])
    t = Tests(scenes, [scene.caption for scene in scenes], own, [5, 6, 7, 8, 9])
    mirrored, rows = suite.contradicting(t, pictures)
    for scene, turned, line in zip(scenes, mirrored, own):
        assert torch.equal(turned, line.flip(-2 if scene.objects[0].shape == "moon" else -1))
    assert all(float(edge_score(mirrored[i : i + 1], own[i : i + 1]).f1) < 0.35 for i in rows)
    some = t.chosen([2, 0])
    assert some.seeds == [7, 5] and torch.equal(some.edges, own[[2, 0]])


def test_the_kinds_of_unsteady_sketches_have_few_scenes_in_common():
    parts = [suite.spread(suite.COUNT, number) for number in range(3)]
    assert [len(part) for part in parts] == [suite.FEW] * 3 and not set(parts[0]) & set(parts[2])
    assert set().union(*parts) == set(range(suite.COUNT)) and suite.spread(4, 2) == [0, 1, 2, 3]


def test_what_is_lost_has_the_error_of_scenes_and_not_of_sketches():
    """Of single sketches it is the textbook's, of what differs; three copies of a scene count no more than one."""
    wrong = torch.rand(200, generator=torch.Generator().manual_seed(0)) < 0.1

    def error(copies: int) -> float:
        scenes = [scene for scene in range(200) for _ in range(copies)]
        plain = tuple((scene, True) for scene in scenes)
        guided = tuple((scene, not bool(wrong[scene])) for scene in scenes)
        lost = float(wrong.float().mean())
        return error_of_loss(
            Judged(0, 0, 0, 1.0, count=len(scenes), right=plain),
            Judged(0, 0, 0, 1 - lost, count=len(scenes), right=guided),
        )

    assert error(1) == pytest.approx(float(wrong.float().std()) / 200**0.5, rel=1e-5)
    assert error(3) == pytest.approx(error(1), rel=1e-5)


def test_what_is_lost_is_reported_of_the_same_sketches_only():
    one, other = (Judged(0, 0, 0, 1.0, right=((scene, True),)) for scene in "ab")
    with pytest.raises(ValueError, match="same sketches"):
        error_of_loss(one, other)


def test_the_trade_off_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "FILE", tmp_path / "figures" / "plot.svg")
    found = {0.8: Judged(0.5, 0.5, 0.5, 0.9), 1.6: Judged(0.7, 0.7, 0.7, 0.8)}
    text = plots.draw([plots.Curve("guided", found)], Judged(0.1, 0.1, 0.1, 0.9)).read_text()
    assert ">guided<" in text and ">1.6<" in text and text.count("<circle") == 3 + 2


def test_the_judges_sureness_is_the_probability_of_the_right_shape_and_colour(scenes):
    from palimpsest.benchmarks.sketch.fixtures import sureness
    from palimpsest.papercut.classifier import ANSWERS, truth

    some = scenes[:2]
    answers = {name: torch.zeros(2, len(words)) for name, words in ANSWERS.items()}
    chance = 1 / (len(ANSWERS["shape"]) * len(ANSWERS["colour"]))
    assert sureness(answers, some) == pytest.approx(chance)
    for name in ("shape", "colour"):
        answers[name][0, ANSWERS[name].index(truth(some[0])[name])] = 50.0
    assert sureness(answers, some) == pytest.approx((1 + chance) / 2)


def test_the_resident_peak_is_what_a_run_takes_and_gives_back():
    if cost.resident_peak(lambda: None) is None:
        pytest.skip("only Linux reports the peak of resident memory")
    peak = cost.resident_peak(lambda: torch.ones(48, 2**20).sum())
    assert 180 < peak < 230
