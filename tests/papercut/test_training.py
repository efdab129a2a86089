"""Papercut's training scripts: they learn from the training split alone, and go on where they were interrupted."""

import re
from pathlib import Path

import pytest
import torch
from palimpsest.papercut import data, train_classifier, train_vae
from palimpsest.papercut.classifier import SIDE
from palimpsest.papercut.reference import load_reference
from palimpsest.papercut.scenes import SPLITS, sample_scene

FOLDER = Path(data.__file__).parent


@pytest.mark.parametrize("path", [FOLDER / "data.py", *sorted(FOLDER.glob("train_*.py"))], ids=lambda path: path.stem)
def test_no_training_script_reads_another_split(path):
    assert set(re.findall(r'SPLITS\["(\w+)"\]', path.read_text(encoding="utf-8"))) <= {"train"}
    assert "SPLITS[" not in re.sub(r'SPLITS\["train"\]', "", path.read_text(encoding="utf-8"))


def test_what_is_kept_aside_is_of_the_training_split_and_far_from_what_is_learned():
    aside = data.kept_aside(100)
    assert len(aside) == 100 and set(aside) <= set(SPLITS["train"]) and min(aside) > 900_000


def classifier_step(trainer, seed):
    torch.manual_seed(seed)
    wanted = {name: torch.zeros(4, dtype=torch.long) for name in trainer.model.heads}
    trainer.update(torch.rand(4, 3, SIDE, SIDE), wanted, None, 0.1)


def test_an_interrupted_classifier_is_the_same_as_one_that_was_not(tmp_path):
    whole, part = (train_classifier.Trainer(1e-3, tmp_path / f"{name}.pt") for name in ("whole", "part"))
    for trainer in (whole, part):
        classifier_step(trainer, 1)
    part.save()
    again = train_classifier.Trainer(1e-3, tmp_path / "part.pt")
    again.resume()
    for trainer in (whole, again):
        classifier_step(trainer, 2)
    assert again.step == whole.step == 2
    assert all(torch.equal(a, b) for a, b in zip(whole.model.state_dict().values(), again.model.state_dict().values()))


def test_an_interrupted_autoencoder_goes_on_with_its_weights_and_its_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(train_vae, "CACHE", tmp_path)
    first = train_vae.Trainer("guide", 1e-3)
    first.spent, first.step = 12.0, 34
    first.save()
    again = train_vae.Trainer("guide", 1e-3)
    with torch.no_grad():
        next(again.vae.parameters()).add_(1.0)
    again.resume()
    assert (again.spent, again.step) == (12.0, 34)
    assert all(torch.equal(a, b) for a, b in zip(first.vae.state_dict().values(), again.vae.state_dict().values()))


@torch.no_grad()
def test_a_widened_autoencoder_begins_as_good_as_the_shipped_one(tmp_path):
    trainer = train_vae.Trainer("widen", 1e-3, channels=16, folder=tmp_path)
    trainer.widen_shipped()
    picture = sample_scene(SPLITS["train"][0]).render()[None]
    latents = train_vae.encode(trainer.vae, picture)
    shipped = load_reference()
    usual = train_vae.psnr(shipped.pictures(shipped.latents(picture)), picture)
    assert latents.shape == (1, 16, 32, 32)
    assert train_vae.psnr(train_vae.decode(trainer.vae, latents).clamp(0, 1), picture) > usual - 1
