"""Train Papercut's classifier, and the two projections of the CLIP score beside it, on the training scenes.

Pictures are spoiled as an autoencoder, a diffusion model or a file format would spoil them. Needs the pictures of
`data.py` and, for the CLIP score, the text encoder of `train_text.py`.

    python -m palimpsest.papercut.train_classifier --minutes 20
"""

import argparse
import time
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.io import decode_jpeg, encode_jpeg
from torchvision.transforms.functional import gaussian_blur
from transformers import CLIPTextModel

from .classifier import ANSWERS, FILE, SIDE, Classifier, load_classifier, rates, truth
from .clip_score import contrastive_loss, picture_features, pooled_text, text_features
from .data import CACHE, kept_aside, pictures, training_scene
from .scenes import Scene, sample_scene
from .shapes import COLOURS, SHAPES
from .text import text_config

PATH = CACHE / "classifier.pt"
ABSENT = -100  # cross_entropy's mark for "no answer is due"
MIDDLE = 160  # spoiling happens at this side, between the picture's and the classifier's


def spoil(picture: Tensor, draw: torch.Generator) -> Tensor:
    """One picture (3, H, W) in 0..1 -> (3, 96, 96), shifted, mirrored, blurred, noisy, or squeezed, each by chance."""

    def chance(low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * torch.rand((), generator=draw).item()

    out = F.interpolate(picture[None], (MIDDLE, MIDDLE), mode="bilinear", antialias=True)
    if chance() < 0.5:
        out = out.flip(-1)
    up, left = int(chance(0, 9)), int(chance(0, 9))
    out = F.pad(out, (4, 4, 4, 4), mode="replicate")[..., up : up + MIDDLE, left : left + MIDDLE]
    if chance() < 0.5:
        out = gaussian_blur(out, 9, chance(0.2, 1.8))
    if chance() < 0.3:
        small = int(chance(0.4, 0.9) * MIDDLE)
        out = F.interpolate(F.interpolate(out, (small, small), mode="area"), (MIDDLE, MIDDLE), mode="bilinear")
    if chance() < 0.5:
        cells = int(chance(8, 33))  # the blotches of a latent that is not quite right
        blotches = torch.randn((1, 3, cells, cells), generator=draw) * chance(0, 0.06)
        out = out + F.interpolate(blotches, (MIDDLE, MIDDLE), mode="bicubic")
    if chance() < 0.5:
        out = out + torch.randn(out.shape, generator=draw) * chance(0, 0.06)
    out = out * chance(0.94, 1.04) + chance(-0.02, 0.02)
    if chance() < 0.3:
        squeezed = encode_jpeg((out[0].clamp(0, 1) * 255).byte(), quality=int(chance(25, 95)))
        out = decode_jpeg(squeezed)[None].float() / 255
    return F.interpolate(out, (SIDE, SIDE), mode="bilinear", antialias=True)[0].clamp(0, 1)


def answers(scenes: list[Scene]) -> dict[str, Tensor]:
    """The right answers as numbers, (N,) each; `ABSENT` where the scene has not exactly one cut-out."""
    truths = [truth(scene) for scene in scenes]
    return {
        name: torch.tensor([options.index(w[name]) if name in w else ABSENT for w in truths])
        for name, options in ANSWERS.items()
    }


@cache
def text_encoder() -> CLIPTextModel | None:
    """The encoder that `train_text.py` made, or None where it has not been trained yet."""
    if not (CACHE / "text.pt").exists():
        return None
    encoder = CLIPTextModel(text_config()).eval()
    encoder.load_state_dict(torch.load(CACHE / "text.pt", weights_only=True)["encoder"])
    return encoder


def all_pooled(captions: list[str]) -> Tensor:
    """(N, 192) pooled text of the captions."""
    return torch.cat([pooled_text(text_encoder(), captions[i : i + 64]) for i in range(0, len(captions), 64)])


class Trainer:
    """The network, its optimiser and its clock; everything that a checkpoint holds."""

    def __init__(self, rate: float, path=PATH):
        torch.manual_seed(0)
        self.rate, self.path = rate, path
        self.model = Classifier().to(memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=rate, weight_decay=0.02)
        self.spent, self.step = 0.0, 0

    def resume(self) -> None:
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.spent, self.step = state["spent"], state["step"]

    def save(self) -> None:
        part = self.path.with_suffix(".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "spent": self.spent,
                "step": self.step,
            },
            part,
        )
        part.replace(self.path)

    def update(self, images: Tensor, wanted: dict[str, Tensor], pooled: Tensor | None, progress: float) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * min(1.0, (self.step + 1) / 100) * (0.01 + 0.99 * (1 - progress))
        self.model.train()
        seen = self.model.features(images.contiguous(memory_format=torch.channels_last))
        losses = [
            F.cross_entropy(head(seen), wanted[name], label_smoothing=0.05)
            for name, head in self.model.heads.items()
            if (wanted[name] != ABSENT).any()
        ]
        if pooled is not None:
            losses.append(0.3 * contrastive_loss(self.model, seen, pooled))
        loss = sum(losses)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        return loss.item()


def judge(model: Classifier, count: int) -> dict[str, float]:
    """Rates on single-object scenes that are kept aside, spoiled."""
    model.eval()
    draw = torch.Generator().manual_seed(1)
    scenes = [sample_scene(seed, objects=1) for seed in kept_aside(count)]
    readings = [reading for scene in scenes for reading in model.read(spoil(scene.render(), draw)[None])]
    return rates(readings, scenes)


@torch.no_grad()
def judge_captions(model: Classifier, count: int) -> float:
    """How often the CLIP score puts a scene's caption above the same one with another shape or another colour."""
    model.eval()
    right = 0
    for seed in kept_aside(count):
        scene = sample_scene(seed, objects=1)
        others = [scene.with_object(0, shape=s).caption for s in SHAPES if s != scene.objects[0].shape]
        others += [scene.with_object(0, colour=c).caption for c in COLOURS if c != scene.objects[0].colour]
        texts = text_features(model, pooled_text(text_encoder(), [scene.caption, *others]))
        right += int((texts @ picture_features(model, scene.render()[None])[0]).argmax() == 0)
    return right / count


def publish(model: Classifier, path=FILE) -> None:
    """The weights in fp16, under the names that `load_classifier` expects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file(state, path, metadata={"format": "pt", "title": "Papercut classifier"})


def in_percent(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {100 * value:.1f} %" for name, value in values.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--pictures", type=int, default=8000)
    args = parser.parse_args()
    store = pictures(args.pictures)
    scenes = [training_scene(i) for i in range(args.pictures)]
    pooled = all_pooled([s.caption for s in scenes]) if text_encoder() else None
    wanted, trainer = answers(scenes), Trainer(args.rate)
    trainer.resume()
    draw = torch.Generator().manual_seed(trainer.step + 1)
    average, last, reported = None, time.time(), trainer.spent
    while trainer.spent < 60 * args.minutes:
        pick = torch.randint(args.pictures, (args.batch,), generator=draw)
        images = torch.stack([spoil(torch.from_numpy(np.array(store[i])).float() / 255, draw) for i in pick.tolist()])
        due = {name: numbers[pick] for name, numbers in wanted.items()}
        text = None if pooled is None else pooled[pick]
        value = trainer.update(images, due, text, trainer.spent / 60 / args.minutes)
        average = value if average is None else 0.98 * average + 0.02 * value
        trainer.spent, last = trainer.spent + time.time() - last, time.time()
        if trainer.spent - reported > 120:
            reported = trainer.spent
            trainer.save()
            score = in_percent(judge(trainer.model, 100))
            print(f"{trainer.spent / 60:.1f} min, step {trainer.step}, loss {average:.4f}, {score}", flush=True)
    trainer.save()
    publish(trainer.model)
    if pooled is not None:
        print(f"right caption among 17: {100 * judge_captions(load_classifier(), 200):.1f} %", flush=True)


if __name__ == "__main__":
    main()
