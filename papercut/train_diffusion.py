"""Train Papercut's text-to-image model: Stable Diffusion 1's recipe (arXiv 2112.10752) on cached latents, on a CPU.

Needs `vae-settle.pt` (train_vae) in the cache folder, and takes the text encoder from `text.pt` (train_text) there or
from the shipped file; with --shipped it goes on from the shipped file alone. Epsilon-prediction,
scaled-linear betas; losses weighted by min-SNR (arXiv 2303.09556, gamma 5), which learns in a third of the steps; EMA
weights; one caption in ten is dropped for guidance without classifier.

    python -m palimpsest.papercut.train_diffusion --minutes 75
"""

import argparse
import time
from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import EMAModel, compute_snr
from torch import Tensor
from transformers import CLIPTextModel

from .configs import SCHEDULE, UNET
from .data import CACHE, DEVICE, autocast, training_scene
from .muon import Optimiser
from .reference import load_reference, text_weights
from .text import encode, text_config
from .train_vae import Trainer as Autoencoder

PATH = CACHE / "diffusion.pt"
GAMMA, DROP, SHARD = 5.0, 0.1, 1000


def cached_latents(count: int) -> Tensor:
    """(count, 4, 32, 32) float32 latents of the training pictures, a shard a file: several can encode at once."""
    return torch.cat([_shard(first) for first in range(0, count, SHARD)])[:count]


@torch.no_grad()
def _shard(first: int) -> Tensor:
    path = CACHE / f"latents-{first:06}.pt"
    if not path.exists():
        encoder, out = _encoder(), []
        for start in range(first, first + SHARD, 16):
            scenes = [training_scene(i).render() for i in range(start, min(start + 16, first + SHARD))]
            with autocast():
                latents = encoder(torch.stack(scenes).to(DEVICE, memory_format=torch.channels_last))
            out.append(latents.float().cpu())
        torch.save(torch.cat(out), path)
        print(f"encoded pictures {first} to {first + SHARD}", flush=True)
    return torch.load(path, weights_only=True)


def _encoder() -> Callable[[Tensor], Tensor]:
    if not (CACHE / "vae-settle.pt").exists():
        return load_reference().latents
    autoencoder = Autoencoder("settle", 0.0)
    autoencoder.resume()
    autoencoder.vae.to(memory_format=torch.channels_last)
    return autoencoder.wanted


@torch.no_grad()
def cached_text(count: int) -> Tensor:
    """(count + 1, 77, 192) float16: each caption's embedding; the last row is the empty text's."""
    path = CACHE / f"text-{count}.pt"
    if not path.exists():
        model = CLIPTextModel(text_config())
        model.load_state_dict(text_weights())
        captions = [training_scene(i).caption for i in range(count)] + [""]
        parts = [
            model.eval()(input_ids=encode(captions[i : i + 64])).last_hidden_state.half()
            for i in range(0, len(captions), 64)
        ]
        torch.save(torch.cat(parts), path)
    return torch.load(path, weights_only=True)


class Trainer:
    """UNet, its average, its optimiser and clock: what a checkpoint holds."""

    def __init__(self, rate: float):
        torch.manual_seed(0)
        self.rate = rate
        self.unet = UNet2DConditionModel(**UNET.diffusers()).to(DEVICE)
        if DEVICE.type == "cpu":  # torch's fused attention takes longer there for so few tokens
            self.unet.set_attn_processor(AttnProcessor())
        self.ema = EMAModel(self.unet.parameters(), decay=0.999, use_ema_warmup=True, power=0.8)
        self.optimiser = Optimiser(list(self.unet.parameters()), rate)
        self.noise = DDIMScheduler(**SCHEDULE.diffusers())
        self.spent, self.step = 0.0, 0

    def start_from_shipped(self) -> None:
        """The shipped (averaged) weights, with a fresh optimiser."""
        self.unet.load_state_dict(load_reference().unet.state_dict())
        self.ema = EMAModel(self.unet.parameters(), decay=0.999, use_ema_warmup=True, power=0.8)

    def resume(self) -> None:
        if PATH.exists():
            state = torch.load(PATH, weights_only=True)
            self.unet.load_state_dict(state["unet"])
            self.ema.load_state_dict(state["ema"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.spent, self.step = state["spent"], state["step"]

    def save(self) -> None:
        part = PATH.with_suffix(".part")
        torch.save(
            {
                "unet": self.unet.state_dict(),
                "ema": self.ema.state_dict(),
                "spent": self.spent,
                "optimiser": self.optimiser.state_dict(),
                "step": self.step,
            },
            part,
        )
        part.replace(PATH)

    def averaged(self) -> UNet2DConditionModel:
        """A copy of the UNet with the averaged weights."""
        unet = UNet2DConditionModel(**UNET.diffusers())
        self.ema.copy_to(unet.parameters())
        return unet.eval()

    def update(self, latents: Tensor, text: Tensor, progress: float) -> float:
        noise, t = torch.randn_like(latents), torch.randint(0, SCHEDULE.steps, (len(latents),), device=DEVICE)
        noisy = self.noise.add_noise(latents, noise, t)
        snr = compute_snr(self.noise, t)
        with autocast():
            guess = self.unet(noisy, t, text).sample.float()
        each = ((guess - noise) ** 2).mean((1, 2, 3))
        loss = (each * snr.clamp(max=GAMMA) / snr).mean()
        loss.backward()
        self.optimiser.update(self.rate * min(1.0, (self.step + 1) / 100) * min(1.0, 0.02 + 1.4 * (1 - progress)))
        self.ema.step(self.unet.parameters())
        self.step += 1
        return each.mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pictures", type=int, default=8000)
    parser.add_argument("--shipped", action="store_true", help="begin with the shipped weights")
    args = parser.parse_args()
    latents, text, trainer = cached_latents(args.pictures), cached_text(args.pictures), Trainer(args.rate)
    if args.shipped and not PATH.exists():
        trainer.start_from_shipped()
    trainer.resume()
    torch.manual_seed(trainer.step + 1)
    average, reported, last = None, trainer.spent, time.time()
    while trainer.spent < 60 * args.minutes:
        pick = torch.randint(args.pictures, (args.batch,))
        captions = torch.where(torch.rand(args.batch) < DROP, args.pictures, pick)
        rows = latents[pick].to(DEVICE), text[captions].to(DEVICE).float()
        value = trainer.update(*rows, trainer.spent / 60 / args.minutes)
        average = value if average is None else 0.99 * average + 0.01 * value
        trainer.spent, last = trainer.spent + time.time() - last, time.time()
        if trainer.spent - reported > 180:
            reported = trainer.spent
            trainer.save()
            print(f"{trainer.spent / 60:.1f} min, step {trainer.step}, loss {average:.4f}", flush=True)
    trainer.save()


if __name__ == "__main__":
    main()
