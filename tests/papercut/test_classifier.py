"""The judge must be beyond doubt before it judges: its own rates on scenes that it was never trained on."""

import pytest
import torch
from palimpsest.papercut.classifier import ANSWERS, FILE, Classifier, Reading, load_classifier, rates, truth
from palimpsest.papercut.clip_score import clip_score
from palimpsest.papercut.networks import FILE as MODEL_FILE
from palimpsest.papercut.scenes import SPLITS, sample_scene
from palimpsest.papercut.train_classifier import Trainer, answers, publish, spoil

COUNT = 150  # of the test split; the training script judges by 1000


@pytest.fixture(scope="module")
def scenes():
    return [sample_scene(seed, objects=1) for seed in SPLITS["test"][:COUNT]]


@pytest.fixture(scope="module")
def trained():
    if not FILE.exists():
        pytest.skip("the trained classifier is not there")
    return load_classifier()


def test_answers_are_counted_by_name(scenes):
    right = [Reading(**truth(scene)) for scene in scenes[:4]]
    assert set(rates(right, scenes[:4]).values()) == {1.0}
    colour = "red" if right[0].colour != "red" else "blue"
    wrong = [Reading(**{**truth(scenes[0]), "colour": colour}), *right[1:]]
    found = rates(wrong, scenes[:4])
    assert found["colour"] == found["shape and colour"] == found["all"] == 0.75
    assert found["shape"] == found["pattern"] == found["kind"] == found["tone"] == 1.0


def test_a_scene_without_a_single_cutout_has_only_a_ground():
    assert set(truth(sample_scene(1, objects=2))) == {"kind", "tone"} == set(truth(sample_scene(1, objects=0)))
    numbers = answers([sample_scene(1, objects=2), sample_scene(1, objects=1)])
    assert numbers["shape"][0] == -100 and numbers["shape"][1] >= 0 and (numbers["tone"] >= 0).all()


def test_each_picture_is_read_by_itself():
    torch.manual_seed(0)
    model = Classifier().eval()
    pictures = torch.rand(3, 3, 256, 256)
    together = model(pictures)
    assert {name: scores.shape[1] for name, scores in together.items()} == {k: len(v) for k, v in ANSWERS.items()}
    for i in range(3):
        for name, scores in model(pictures[i : i + 1]).items():
            assert torch.allclose(scores[0], together[name][i], atol=1e-5)


def test_spoiling_keeps_the_range_and_repeats_by_its_generator():
    picture = torch.rand(3, 256, 256)
    first, again = (spoil(picture, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again) and first.shape == (3, 96, 96) and 0 <= first.min() and first.max() <= 1


def test_training_goes_on_where_it_stopped(tmp_path):
    scenes = [sample_scene(seed) for seed in range(4)]
    wanted = answers(scenes)
    draws = torch.Generator().manual_seed(0)
    images = [torch.rand(4, 3, 96, 96, generator=draws) for _ in range(3)]
    through, stopped = Trainer(1e-3, tmp_path / "a.pt"), Trainer(1e-3, tmp_path / "b.pt")
    for i in range(3):
        last = through.update(images[i], wanted, None, 0.1)
    for i in range(2):
        stopped.update(images[i], wanted, None, 0.1)
    stopped.save()
    resumed = Trainer(1e-3, tmp_path / "b.pt")
    resumed.resume()
    assert resumed.step == 2 and resumed.update(images[2], wanted, None, 0.1) == pytest.approx(last, abs=1e-5)
    publish(resumed.model, tmp_path / "weights.safetensors")
    assert (tmp_path / "weights.safetensors").stat().st_size < 1_000_000
    load_classifier(tmp_path / "weights.safetensors")


def test_it_is_right_on_the_test_split(trained, scenes):
    drawn = [trained.read(scene.render()[None])[0] for scene in scenes]
    for name, rate in rates(drawn, scenes).items():
        assert rate >= (0.97 if name == "all" else 0.98), f"{name}: {rate:.3f}"


def test_it_is_right_through_the_autoencoder(trained, scenes):
    if not MODEL_FILE.exists():
        pytest.skip("the trained weights are not there")
    from palimpsest.papercut.reference import load_reference

    reference, some = load_reference(), scenes[:40]
    pictures = [reference.pictures(reference.latents(scene.render()[None])) for scene in some]
    found = rates([trained.read(picture)[0] for picture in pictures], some)
    assert found["shape and colour"] >= 0.97, found


def test_the_clip_score_prefers_the_right_caption(trained, scenes):
    if not MODEL_FILE.exists():
        pytest.skip("the trained weights are not there")
    from palimpsest.papercut.reference import load_reference

    encoder, won = load_reference().text_encoder, 0
    for scene, other in zip(scenes[:40], scenes[40:80]):
        pair = scene.render()[None].expand(2, -1, -1, -1)
        mine, theirs = clip_score(trained, encoder, pair, [scene.caption, other.caption])
        won += int(mine > theirs)
    assert won >= 39
