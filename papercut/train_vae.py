"""Train Papercut's autoencoder in the TAESD layout, on a CPU, in well under an hour.

The TAESD encoder is the dearer half, and half of its cost lies at full resolution. So a cheap guide encoder (pixels
folded into channels) is trained first together with the TAESD decoder; it settles the latent space, and later encodes
the training set for the diffusion model. The TAESD encoder then learns to answer as the guide does, and is polished
through the frozen decoder. At last every latent channel is brought to mean 0 and std 1, exactly in the encoders
and by a short training in the decoder: a diffusion model whose samples start from noise of mean 0 cannot reach latents
that lie far from it, and paints everything dark.

    python -m palimpsest.papercut.train_vae --stage guide --minutes 20
    python -m palimpsest.papercut.train_vae --stage encoder --minutes 8
    python -m palimpsest.papercut.train_vae --stage settle --minutes 6 --rate 5e-4

With --shipped the last stage goes on from the shipped file, where the checkpoints of the first two are gone.
For more channels no guide is needed: the shipped autoencoder's layers serve, but for the two at the latents.

    python -m palimpsest.papercut.train_vae --channels 16 --folder DIR --stage widen --minutes 10 --rate 2.5e-4
    python -m palimpsest.papercut.train_vae --channels 16 --folder DIR --stage settle --begin widen \
        --minutes 2 --rate 2e-4

With `--publish FILE` the last writes the flow transformer's autoencoder.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from .data import CACHE, DEVICE, autocast, kept_aside, pictures
from .flow_transformer_export import autoencoder_state, write
from .muon import Optimiser
from .reference import load_reference
from .scenes import SPLITS, sample_scene

LATENT_NOISE = 0.05  # small noise while the decoder learns: the diffusion model's answers are never exact
BEFORE = {"encoder": "guide", "settle": "encoder"}  # the stage that each one goes on from


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class GuideEncoder(nn.Sequential):
    """(B, 3, H, W) in 0..1 -> (B, channels, H/8, W/8); a tenth of the TAESD encoder's arithmetic."""

    def __init__(self, channels: int = 4):
        super().__init__(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, 96, 3, padding=1),
            Residual(96),
            nn.PixelUnshuffle(2),
            nn.Conv2d(384, 128, 1),
            Residual(128),
            Residual(128),
            Residual(128),
            nn.ReLU(),
            nn.Conv2d(128, channels, 3, padding=1),
        )


def decode(vae: AutoencoderTiny, latents: Tensor) -> Tensor:
    """Latents -> pictures in 0..1, not clamped."""
    return vae.decoder(latents) * 0.5 + 0.5


def encode(vae: AutoencoderTiny, images: Tensor) -> Tensor:
    """Pictures in 0..1 -> latents of about unit variance."""
    return vae.encoder(images * 2 - 1)


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over pictures, in decibels."""
    return (-10 * torch.log10(((a - b) ** 2).mean((1, 2, 3)))).mean().item()


class Trainer:
    """The two networks, their optimiser and clock; everything that a checkpoint holds."""

    def __init__(
        self, stage: str, rate: float, *, channels: int = 4, folder: Path | None = None, before: str | None = None
    ):
        self.stage, self.rate, self.folder = stage, rate, folder or CACHE
        self.before = before or BEFORE.get(stage)
        self.guide = GuideEncoder(channels).to(DEVICE)
        self.vae = AutoencoderTiny(latent_channels=channels).to(DEVICE)
        learns = {
            "guide": (self.guide, self.vae.decoder),
            "encoder": (self.vae.encoder,),
            "settle": (self.vae.decoder,),
            "widen": (self.vae,),
        }[stage]
        self.weights = [p for m in learns for p in m.parameters()]
        self.optimiser = Optimiser(self.weights, rate)
        self.spent, self.step = 0.0, 0
        self.path = self.folder / f"vae-{stage}.pt"

    def resume(self) -> None:
        if self.before and self.guide is not None and not self.path.exists():
            first = torch.load(self.folder / f"vae-{self.before}.pt", weights_only=True)
            self._load(first)
            if self.stage == "settle":
                lasts = (self.vae.encoder.layers[-1], *(() if self.guide is None else (self.guide[-1],)))
                normalise(lasts, self.vae, self.wanted)
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            self._load(state)
            self.optimiser.load_state_dict(state["optimiser"])
            self.spent, self.step = state["spent"], state["step"]

    def _load(self, state: dict) -> None:
        if state["guide"] is None:
            self.guide = None
        else:
            self.guide.load_state_dict(state["guide"])
        self.vae.load_state_dict(state["vae"])

    @torch.no_grad()
    def widen_shipped(self) -> None:
        """The shipped autoencoder with more channels: the first four as they are, the rest of it not yet decoded."""
        self.guide, shipped = None, load_reference().vae.state_dict()
        here = self.vae.state_dict()
        few = shipped["decoder.layers.0.weight"].shape[1]
        here["decoder.layers.0.weight"].zero_()
        for key, value in shipped.items():
            if key == "decoder.layers.0.weight":
                here[key][:, :few] = value
            else:
                here[key][: len(value)] = value  # the encoder's last layer has more rows, all others fit
        normalise((self.vae.encoder.layers[-1],), self.vae, self.wanted, count=32)

    def start_from_shipped(self) -> None:
        """The shipped autoencoder alone; its own encoder stands in for the guide."""
        self.guide = None
        self.vae.load_state_dict(load_reference().vae.state_dict())
        normalise((self.vae.encoder.layers[-1],), self.vae, self.wanted)

    def wanted(self, images: Tensor) -> Tensor:
        """The latents that both encoders should answer with."""
        return encode(self.vae, images) if self.guide is None else self.guide(images)

    def save(self) -> None:
        part = self.path.with_suffix(".part")
        guide = None if self.guide is None else self.guide.state_dict()
        torch.save(
            {
                "guide": guide,
                "vae": self.vae.state_dict(),
                "spent": self.spent,
                "optimiser": self.optimiser.state_dict(),
                "step": self.step,
            },
            part,
        )
        part.replace(self.path)

    def loss(self, images: Tensor) -> Tensor:
        if self.stage in ("guide", "widen"):
            latents = self.wanted(images)
            spread = latents.var((0, 2, 3)) + 1e-6
            order = (latents.mean((0, 2, 3)) ** 2 + (spread - 1) ** 2).mean()
            noisy = latents + LATENT_NOISE * torch.randn_like(latents)
            return _difference(decode(self.vae, noisy), images) + 2e-4 * order
        with torch.no_grad():
            wanted = self.wanted(images)
        if self.stage == "settle":
            return _difference(decode(self.vae, wanted + LATENT_NOISE * torch.randn_like(wanted)), images)
        latents = encode(self.vae, images)
        return 0.02 * F.mse_loss(latents, wanted) + _polish(self.vae, latents, images, self.step)

    def update(self, images: Tensor, progress: float) -> float:
        warm = min(1.0, (self.step + 1) / 100)
        with autocast():
            loss = self.loss(images.to(DEVICE))
        loss.backward()
        self.optimiser.update(self.rate * warm * (0.01 + 0.99 * (1 - progress)))
        self.step += 1
        return loss.item()


@torch.no_grad()
def normalise(lasts: Sequence[nn.Conv2d], vae: AutoencoderTiny, encoder: Callable, count: int = 96) -> None:
    """Latent channels of mean 0 and std 1: exact in the encoders, whose last layers are given, and a first guess
    in the decoder."""
    pictures = torch.stack([sample_scene(SPLITS["train"][i]).render() for i in range(count)]).to(DEVICE)
    latents = torch.cat([encoder(part) for part in pictures.split(8)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    for last in lasts:
        last.weight /= std.view(-1, 1, 1, 1)
        last.bias.copy_((last.bias - mean) / std)
    first = vae.decoder.layers[0]
    first.bias += (first.weight * mean.view(1, -1, 1, 1)).sum((1, 2, 3))
    first.weight *= std.view(1, -1, 1, 1)


def _difference(a: Tensor, b: Tensor) -> Tensor:
    return F.mse_loss(a, b) + 0.05 * F.l1_loss(a, b)


def _polish(vae: AutoencoderTiny, latents: Tensor, images: Tensor, step: int) -> Tensor | float:
    """Every eighth step is taken through the frozen decoder as well: what the latents are for."""
    if step % 8:
        return 0.0
    return 0.5 * _difference(decode(vae, latents), images)


def crops(store, batch: int, size: int, generator: torch.Generator) -> Tensor:
    """(batch, 3, size, size) in 0..1; of two random places the busier one."""
    out = []
    for _ in range(batch):
        picture = torch.from_numpy(store[int(torch.randint(len(store), (1,), generator=generator))].copy())
        best = None
        for _ in range(2):
            y, x = (8 * int(v) for v in torch.randint((256 - size) // 8 + 1, (2,), generator=generator))
            tile = picture[:, y : y + size, x : x + size].float() / 255
            if best is None or tile.std() > best.std():
                best = tile
        if torch.rand((), generator=generator) < 0.5:
            best = best.flip(-1)
        out.append(best)
    return torch.stack(out)


@torch.no_grad()
def validate(trainer: Trainer, count: int = 12) -> str:
    images = torch.stack([sample_scene(seed).render() for seed in kept_aside(count)]).to(DEVICE)
    latents = torch.cat([trainer.wanted(i) for i in images.split(4)])
    line = f"latent mean {latents.mean((0, 2, 3)).abs().max():.2f}, std {latents.std():.2f}"
    if trainer.stage in ("guide", "widen"):
        got = torch.cat([decode(trainer.vae, z) for z in latents.split(4)])
    else:
        mine = torch.cat([encode(trainer.vae, i) for i in images.split(4)])
        line += f", latent error {(mine - latents).pow(2).mean().sqrt():.3f}"
        got = torch.cat([decode(trainer.vae, z) for z in mine.split(4)])
    return f"PSNR {psnr(got.clamp(0, 1), images):.2f} dB, {line}"


def clock() -> float:
    """Seconds of processor time a thread: other programs beside the training do not shorten its schedule."""
    return time.process_time() / torch.get_num_threads()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("guide", "encoder", "settle", "widen"), required=True)
    parser.add_argument("--begin", help="the stage that this one goes on from, where not the usual one")
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--pictures", type=int, default=8000)
    parser.add_argument("--shipped", action="store_true", help="settle the shipped autoencoder")
    parser.add_argument("--channels", type=int, default=4, help="of the latents; 16 for the flow transformer's")
    parser.add_argument("--folder", type=Path, default=CACHE, help="where the checkpoints lie")
    parser.add_argument("--publish", type=Path, help="file for the flow transformer's autoencoder")
    args = parser.parse_args()
    store = pictures(args.pictures)
    trainer = Trainer(args.stage, args.rate, channels=args.channels, folder=args.folder, before=args.begin)
    if args.stage == "widen" and not args.begin and not trainer.path.exists():
        trainer.widen_shipped()
    if args.shipped and not trainer.path.exists():
        trainer.start_from_shipped()
    trainer.resume()
    generator = torch.Generator().manual_seed(trainer.step)
    last, reported, average = clock(), trainer.spent, None
    while trainer.spent < 60 * args.minutes:
        progress = trainer.spent / (60 * args.minutes)
        size = args.size if progress < 0.8 else 2 * args.size  # the last fifth sees wider crops, so fewer false borders
        batch = args.batch if progress < 0.8 else max(1, args.batch // 2)
        value = trainer.update(crops(store, batch, size, generator), progress)
        average = value if average is None else 0.98 * average + 0.02 * value
        trainer.spent, last = trainer.spent + clock() - last, clock()
        if trainer.spent - reported > 120:
            reported = trainer.spent
            print(f"{trainer.spent / 60:.1f} min, step {trainer.step}, loss {average:.5f}, ", end="")
            print(validate(trainer), flush=True)
            trainer.save()
            trainer.spent, last = trainer.spent + clock() - last, clock()
    trainer.save()
    print("done:", validate(trainer, 48), flush=True)
    if args.publish:
        write(autoencoder_state(trainer.vae), args.publish, "Papercut-DiT autoencoder")


if __name__ == "__main__":
    main()
