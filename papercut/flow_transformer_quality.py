"""What Papercut-DiT paints, judged by the classifier: the rates of right shapes, colours, patterns and grounds.

python -m palimpsest.papercut.flow_transformer_quality --folder DIR --run large
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.utils import save_image

from ..inversion.diffusion import guided, noised
from .classifier import load_classifier, rates
from .configs import TransformerConfig
from .data import autocast
from .flow_transformer import levels, velocity
from .flow_transformer_data import LARGE, embed, shrunk
from .flow_transformer_export import autoencoder_file, load_autoencoder
from .reference import load_reference
from .scenes import SPLITS, Scene, sample_scene
from .shapes import SHAPES
from .train_flow_transformer import Trainer, open_run

STEPS, CFG = 20, 4.0


@dataclass(frozen=True)
class Painter:
    """Text encoder, transformer and decoder (latents (B, 16, h, w) of unit size -> pictures in 0..1)."""

    text_encoder: nn.Module
    model: nn.Module
    decode: Callable[[Tensor], Tensor]
    config: TransformerConfig

    @torch.no_grad()
    def paint(self, captions: list[str], noise: Tensor, *, steps: int = STEPS, cfg: float = CFG) -> Tensor:
        """Pictures (B, 3, 8h, 8w) from noise (B, 16, h, w), by Euler's steps with guidance without classifier."""
        text, pooled = embed(self.text_encoder, [""] * len(captions) + captions, self.config.text_tokens)
        x, sigmas = noise, levels(steps, self.config.shift)
        for now, then in pairwise(sigmas):
            with autocast():
                both = velocity(
                    self.model, torch.cat((x, x)), now.expand(2 * len(x)), text, pooled, stride=32 // x.shape[-1]
                )
            without, with_ = both.float().chunk(2)
            x = x + (then - now) * guided(with_, without, cfg)
        return torch.cat([self.decode(z) for z in x.split(8)]).clamp(0, 1)


def decoder(folder: Path) -> Callable[[Tensor], Tensor]:
    """The autoencoder's: latents (B, 16, h, w) of unit size -> pictures (B, 3, 8h, 8w) in 0..1."""
    vae = load_autoencoder(autoencoder_file(folder))

    def decode(z: Tensor) -> Tensor:
        with autocast():
            return vae.decode(z).sample.float() * 0.5 + 0.5

    return decode


def load_run(folder: Path, name: str) -> tuple[Painter, Trainer]:
    """A training run, and what it paints with its averaged weights."""
    trainer = open_run(folder / name / "transformer.pt")
    return Painter(load_reference().text_encoder, trainer.averaged(), decoder(folder), trainer.config), trainer


def measure(painter: Painter, *, side: int, count: int, split: str, cfg: float, show: Path | None) -> dict[str, float]:
    """Rates on `count` prompts of a split, one cut-out each; `show`: where to put a sheet of the pictures."""
    scenes = [sample_scene(seed, objects=1) for seed in SPLITS[split][:count]]
    judge, readings, shown = load_classifier(), [], []
    for first in range(0, count, 25):
        batch = scenes[first : first + 25]
        noise = torch.randn((len(batch), 16, side // 8, side // 8), generator=torch.Generator().manual_seed(first))
        found = painter.paint([s.caption for s in batch], noise, cfg=cfg)
        readings += judge.read(found)
        shown.append(found)
    if show:
        save_image(torch.cat(shown), show, nrow=10)
    return rates(readings, scenes)


def with_another_shape(scenes: list[Scene]) -> list[Scene]:
    """The same scenes of one cut-out each, which is another of the eight shapes: in turn each of the other seven."""
    names = list(SHAPES)
    return [
        scene.with_object(0, shape=names[(names.index(scene.objects[0].shape) + 1 + i % 7) % 8])
        for i, scene in enumerate(scenes)
    ]


@torch.no_grad()
def shape_information(painter: Painter, scenes: list[Scene], clean: Tensor, sigma: float) -> Tensor:
    """(B,): how much the velocity's squared error grows where the caption names another shape.

    scenes: of one cut-out; clean: (B, 16, h, w) their latents; one draw of noise at the level sigma. It tells within
    a minute what a run has learned of shapes, long before the classifier sees them in samples.
    """
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    state, level = noised(clean, noise, torch.tensor(sigma), flow=True), torch.full((len(clean),), sigma)

    def errors(of: list[Scene]) -> Tensor:
        words = embed(painter.text_encoder, [scene.caption for scene in of], painter.config.text_tokens)
        with autocast():
            found = velocity(painter.model, state, level, *words, stride=32 // clean.shape[-1])
        return (found.float() - (noise - clean)).square().mean((1, 2, 3))

    return errors(with_another_shape(scenes)) - errors(scenes)


def print_shape_information(painter: Painter, folder: Path, side: int, count: int) -> None:
    """On `count` unseen large cut-outs, with the standard error of the mean."""
    drawn = (sample_scene(seed, objects=1) for seed in SPLITS["validation"])
    scenes = list(islice((scene for scene in drawn if scene.objects[0].size >= LARGE), count))
    vae = load_autoencoder(autoencoder_file(folder))
    with torch.no_grad(), autocast():
        clean = torch.cat([vae.encode(shrunk(s.render()[None], side) * 2 - 1).latents.float() for s in scenes])
    for sigma in (0.6, 0.8, 0.9, 0.95):
        found = shape_information(painter, scenes, clean, sigma)
        print(f"level {sigma}: {found.mean():.4f} ({found.std() / count**0.5:.4f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--cfg", type=float, default=CFG)
    parser.add_argument("--shapes", action="store_true", help="how much it knows of shapes, without sampling")
    parser.add_argument("--show", type=Path, help="a file for a sheet of the pictures")
    args = parser.parse_args()
    painter, trainer = load_run(args.folder, args.run)
    if args.shapes:
        return print_shape_information(painter, args.folder, trainer.recipe.side, args.count)
    found = measure(painter, side=trainer.recipe.side, count=args.count, split=args.split, cfg=args.cfg, show=args.show)
    print(
        f"{args.run}, step {trainer.step}, {trainer.spent / 60:.1f} min:",
        ", ".join(f"{name} {100 * rate:.0f} %" for name, rate in found.items()),
        flush=True,
    )


if __name__ == "__main__":
    main()
