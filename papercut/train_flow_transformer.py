"""Train Papercut-DiT: rectified flow (arXiv 2210.02747, 2403.03206) on cached latents of the 16-channel autoencoder.

What is learned lies in FOLDER/RUN, outside of the project: a checkpoint with the network's sizes, the recipe, weights,
average and optimiser, from which the same command goes on; beside it what the pictures and captions were turned into.

    python -m palimpsest.papercut.train_flow_transformer --folder DIR --run large --scenes large --side 128 --steps 3000
    python -m palimpsest.papercut.train_flow_transformer --folder DIR --run whole --begin large --steps 20000

Shapes are decided above level 0.85, where the usual levels (logit-normal of mean 0) hardly ever fall: hence `level`.
"""

import argparse
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from ..inversion.diffusion import noised
from .configs import TRANSFORMER, TransformerConfig
from .data import DEVICE, autocast
from .flow_transformer import modulations, new_transformer, run
from .flow_transformer_data import Examples
from .flow_transformer_export import FILE, autoencoder_file, checkpoint_state, load_autoencoder, write
from .muon import Optimiser
from .reference import load_reference
from .train_vae import clock


@dataclass(frozen=True)
class Recipe:
    """How a run learns; every field is an option of the command line."""

    side: int = 256  # of the pictures in pixels; at 128 the tokens' positions are spread over the whole grid
    scenes: str = "all"  # "large": one cut-out of at least 50 pixels; "single": one of any size; "all"
    steps: int = 3000
    batch: int = 16
    rate: float = 1.2e-3
    level: float = 1.5  # mean and std of the logit of sigma
    spread: float = 1.2
    drop: float = 0.1  # captions left out, for guidance without classifier
    coarse: float = 0.0  # weight, beside 1, of the velocity's error averaged over each token's pixels
    geometry: float = 0.0  # weight of the head that reads signed distances after the double blocks
    decay: float = 0.999  # of the averaged weights


class Trainer:
    """Transformer, its average, the head of geometry, optimiser and clock: what a checkpoint holds."""

    def __init__(self, path: Path, recipe: Recipe, config: TransformerConfig = TRANSFORMER):
        torch.manual_seed(0)
        self.path, self.recipe, self.config = path, recipe, config
        self.model = new_transformer(config).to(DEVICE)
        self.head = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, 16)).to(DEVICE)
        self.ema = self._new_average()
        ends = (self.model.x_embedder, self.model.context_embedder, self.model.time_text_embed, self.model.proj_out)
        by_adam = [p for part in (*ends, *modulations(self.model), self.head) for p in part.parameters()]
        weights = [*self.model.parameters(), *(self.head.parameters() if recipe.geometry else ())]
        self.optimiser = Optimiser(weights, recipe.rate, by_adam=by_adam)
        self.spent, self.step = 0.0, 0

    def _new_average(self) -> EMAModel:
        return EMAModel(self.model.parameters(), decay=self.recipe.decay, use_ema_warmup=True, power=0.8)

    def begin_with(self, path: Path) -> None:
        """The averaged weights of another run, with a fresh optimiser."""
        state = torch.load(path, weights_only=True)
        self.ema.load_state_dict(state["ema"])
        self.ema.copy_to(self.model.parameters())
        self.head.load_state_dict(state["head"])
        self.ema = self._new_average()

    def resume(self) -> None:
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.head.load_state_dict(state["head"])
            self.ema.load_state_dict(state["ema"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.spent, self.step = state["spent"], state["step"]

    def save(self) -> None:
        part = self.path.with_suffix(".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            {
                "model": self.model.state_dict(),
                "head": self.head.state_dict(),
                "ema": self.ema.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "spent": self.spent,
                "step": self.step,
                "config": asdict(self.config),
                "recipe": asdict(self.recipe),
            },
            part,
        )
        part.replace(self.path)

    def averaged(self) -> nn.Module:
        """A transformer with the averaged weights, ready for evaluation."""
        model = new_transformer(self.config)
        self.ema.copy_to(model.parameters())
        return model.eval()

    def rate(self) -> float:
        """Warm-up of 100 steps; the last two fifths fall to zero."""
        left = max(0.0, 1 - self.step / self.recipe.steps)
        return self.recipe.rate * min(1.0, (self.step + 1) / 100, 0.01 + 2.5 * left)

    def update(self, latents: Tensor, text: Tensor, pooled: Tensor, distances: Tensor) -> tuple[float, float]:
        """One step; returns the squared error of the velocity and of the distances.

        latents: (B, 16, h, w); text: (B, T, 192); pooled: (B, 192); distances: (B, h/2 * w/2, 16) in -1..1.
        """
        sigma = torch.sigmoid(self.recipe.level + self.recipe.spread * torch.randn(len(latents), device=DEVICE))
        noise = torch.randn_like(latents)
        with autocast():
            answer, features = run(
                self.model,
                noised(latents, noise, sigma, flow=True),
                sigma,
                text,
                pooled,
                stride=256 // self.recipe.side,
            )
            guess = self.head(features)
        error = answer.float() - (noise - latents)
        flow, shape = error.square().mean(), F.mse_loss(guess.float(), distances)
        # The velocity that is best for one is best for the other; outlines are coarse, patterns and grain are not.
        coarse = F.avg_pool2d(error, self.config.patch).square().mean() if self.recipe.coarse else 0.0
        (flow + self.recipe.coarse * coarse + self.recipe.geometry * shape).backward()
        self.optimiser.update(self.rate())
        self.ema.step(self.model.parameters())
        self.step += 1
        return flow.item(), shape.item()


def open_run(path: Path, recipe: Recipe | None = None, config: TransformerConfig = TRANSFORMER) -> Trainer:
    """The run at `path`. One that was begun before keeps its sizes and recipe; only `steps` are taken from `recipe`."""
    if path.exists():
        state = torch.load(path, weights_only=True)
        config, known = TransformerConfig(**state["config"]), Recipe(**state["recipe"])
        recipe = replace(known, steps=recipe.steps) if recipe else known
    trainer = Trainer(path, recipe or Recipe(), config)
    trainer.resume()
    return trainer


def train(trainer: Trainer, examples: Examples) -> None:
    """Up to the recipe's steps; reports and saves every few minutes."""
    recipe = trainer.recipe
    torch.manual_seed(trainer.step + 1)
    average, last, reported = None, clock(), trainer.spent
    while trainer.step < recipe.steps:
        values = torch.tensor(trainer.update(*examples.batch(recipe.batch, recipe.drop)))
        average = values if average is None else 0.99 * average + 0.01 * values
        trainer.spent, last = trainer.spent + clock() - last, clock()
        if trainer.spent - reported > 90 or trainer.step == recipe.steps:
            reported = trainer.spent
            trainer.save()
            print(
                f"{trainer.spent / 60:.1f} min, step {trainer.step}, loss {average[0]:.4f}, distances {average[1]:.4f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="checkpoints and caches, outside of the project")
    parser.add_argument("--run", required=True, help="name of this run")
    parser.add_argument("--begin", help="name of a run whose averaged weights this one begins with")
    for field in fields(Recipe):
        parser.add_argument(f"--{field.name}", type=field.type, default=field.default)
    numbers = ("width", "heads", "theta", "double_blocks", "single_blocks", "text_tokens")
    for name in numbers:
        parser.add_argument(f"--{name}", type=int, default=getattr(TRANSFORMER, name))
    parser.add_argument("--axes", type=int, nargs=3, default=TRANSFORMER.axes)
    parser.add_argument("--publish", action="store_true", help="write the file for Load Checkpoint at the end")
    args = parser.parse_args()
    recipe = Recipe(**{field.name: getattr(args, field.name) for field in fields(Recipe)})
    sizes = {name: getattr(args, name) for name in numbers}
    config = replace(TRANSFORMER, **sizes, axes=tuple(args.axes))
    trainer = open_run(args.folder / args.run / "transformer.pt", recipe, config)
    if args.begin and trainer.step == 0:
        trainer.begin_with(args.folder / args.begin / "transformer.pt")
    train(trainer, Examples(args.folder, trainer.recipe, trainer.config))
    if args.publish:
        parts = trainer.averaged(), load_reference().text_encoder, load_autoencoder(autoencoder_file(args.folder))
        write(checkpoint_state(*parts, trainer.config), FILE, "Papercut-DiT")


if __name__ == "__main__":
    main()
