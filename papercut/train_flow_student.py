"""Train Papercut-DiT's few-step student: a LoRA with which 4 or 8 Euler steps at CFG 1 do what 20 do with guidance.

Progressive and guidance distillation in one (arXiv 2202.00512, section 3; 2210.03142, section 3): from a level of the
student's grid the frozen transformer walks to the next one by several guided Euler steps; the student learns the
straight line that ends there.

    python -m palimpsest.papercut.train_flow_student --folder DIR --teacher whole --steps 1500 --publish
"""

import argparse
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from torch import Tensor, nn

from ..inversion.diffusion import append_dims, guided, noised
from .data import DEVICE, autocast
from .flow_transformer import levels, velocity
from .flow_transformer_data import Examples, embed
from .flow_transformer_export import write
from .networks import WEIGHTS
from .reference import load_reference
from .train_flow_transformer import open_run
from .train_vae import clock

FILE = WEIGHTS / "papercut-dit-few-steps.safetensors"
# Every matrix of the blocks' attention and MLP; embeddings and modulations stay the teacher's.
LAYERS = (
    r".*transformer_blocks\.\d+\.(attn\.(to_[qkv]|add_[qkv]_proj|to_out\.0|to_add_out)"
    r"|ff(_context)?\.net\.(0\.proj|2)|proj_(mlp|out))"
)


@dataclass(frozen=True)
class Recipe:
    """How a student learns; every field is an option of the command line."""

    rank: int = 24  # of the LoRA; 24 are 1.7 MB in fp16
    steps: int = 1500
    batch: int = 16
    rate: float = 5e-4
    cfg: float = 4.0  # the teacher's
    walk: int = 24  # steps of the teacher from noise to picture: 3 to a step of the student's eight, 6 to one of four


def with_lora(model: nn.Module, rank: int) -> nn.Module:
    """`model` with a LoRA of `rank` in every matrix of its blocks, which alone takes gradients; it begins as zero."""
    model.requires_grad_(False)
    return inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=LAYERS), model)


def lora_state(model: nn.Module) -> dict[str, Tensor]:
    """The LoRA under the names that the host's Load LoRA reads for Flux ("transformer. ... .lora_A.weight")."""
    return {f"transformer.{key}": value for key, value in get_peft_model_state_dict(model).items()}


@torch.no_grad()
def walk(teacher: nn.Module, x: Tensor, sigmas: Tensor, texts: tuple[Tensor, ...], cfg: float, stride: int) -> Tensor:
    """x (B, C, h, w) led along `sigmas` (B, k + 1) by k guided Euler steps.

    texts: states (2 B, T, 192) and pooled (2 B, 192), the empty prompt's rows first.
    """
    for now, then in pairwise(sigmas.T):
        with autocast():
            both = velocity(teacher, torch.cat((x, x)), torch.cat((now, now)), *texts, stride=stride)
        without, with_ = both.float().chunk(2)
        x = x + append_dims(then - now, x.ndim) * guided(with_, without, cfg)
    return x


def intervals(count: int, recipe: Recipe, shift: float) -> Tensor:
    """(count, k + 1): the levels within a random step of the student's, of 4 or of 8 for all rows."""
    few = (4, 8)[int(torch.randint(2, ()))]
    inside = recipe.walk // few
    grid = levels(recipe.walk, shift)
    first = torch.randint(few, (count, 1)) * inside
    return grid[first + torch.arange(inside + 1)]


class Student:
    """Teacher, student, optimiser and clock: what a checkpoint holds."""

    def __init__(self, path: Path, teacher: nn.Module, model: nn.Module, recipe: Recipe, *, shift: float, stride: int):
        torch.manual_seed(0)
        self.path, self.recipe, self.shift, self.stride = path, recipe, shift, stride
        self.teacher, self.model = teacher.requires_grad_(False), with_lora(model, recipe.rank)
        self.optimiser = torch.optim.Adam([p for p in self.model.parameters() if p.requires_grad], betas=(0.9, 0.99))
        self.spent, self.step = 0.0, 0

    def resume(self) -> None:
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            set_peft_model_state_dict(self.model, state["lora"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.spent, self.step = state["spent"], state["step"]

    def save(self) -> None:
        part = self.path.with_suffix(".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        kept = {"spent": self.spent, "step": self.step, "recipe": asdict(self.recipe)}
        lora = get_peft_model_state_dict(self.model)
        torch.save(kept | {"lora": lora, "optimiser": self.optimiser.state_dict()}, part)
        part.replace(self.path)

    def update(self, latents: Tensor, texts: tuple[Tensor, ...]) -> float:
        """One step; returns the mean squared error of the velocity. latents: (B, C, h, w); texts: as for `walk`."""
        sigmas = intervals(len(latents), self.recipe, self.shift).to(latents)
        first, last = sigmas[:, 0], sigmas[:, -1]
        x = noised(latents, torch.randn_like(latents), first, flow=True)
        end = walk(self.teacher, x, sigmas, texts, self.recipe.cfg, self.stride)
        wanted = (end - x) / append_dims(last - first, x.ndim)
        with autocast():
            answer = velocity(self.model, x, first, *(part.chunk(2)[1] for part in texts), stride=self.stride)
        loss = F.mse_loss(answer.float(), wanted)
        loss.backward()
        left = 1 - self.step / self.recipe.steps
        self.optimiser.param_groups[0]["lr"] = self.recipe.rate * min(1.0, (self.step + 1) / 50, 0.01 + 2 * left)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()


def train(student: Student, examples: Examples, empty: tuple[Tensor, ...]) -> None:
    """Up to the recipe's steps, with reports. empty: the empty prompt's states and pooled text."""
    torch.manual_seed(student.step + 1)
    average, last, reported = 0.0, clock(), student.spent
    while student.step < student.recipe.steps:
        latents, *texts, _ = examples.batch(student.recipe.batch, 0.0)
        both = tuple(torch.cat((none.expand_as(part), part)) for none, part in zip(empty, texts))
        value = student.update(latents, both)
        average = 0.98 * average + 0.02 * value if average else value
        student.spent, last = student.spent + clock() - last, clock()
        if student.spent - reported > 90 or student.step == student.recipe.steps:
            reported = student.spent
            student.save()
            print(f"{student.spent / 60:.1f} min, step {student.step}, loss {average:.4f}", flush=True)


def load_student(folder: Path, teacher: str, name: str, recipe: Recipe | None = None) -> tuple[Student, object]:
    """A student's run (begun, or taken up again) of a teacher's run in the same folder, and that run.

    One that was begun before keeps its recipe; only `steps` are taken from `recipe`.
    """
    run, path = open_run(folder / teacher / "transformer.pt"), folder / name / "student.pt"
    recipe = recipe or Recipe()
    if path.exists():
        recipe = replace(Recipe(**torch.load(path, weights_only=True)["recipe"]), steps=recipe.steps)
    places = run.averaged().to(DEVICE), run.averaged().to(DEVICE)
    student = Student(path, *places, recipe, shift=run.config.shift, stride=256 // run.recipe.side)
    student.resume()
    return student, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="checkpoints and caches, outside of the project")
    parser.add_argument("--teacher", required=True, help="name of the transformer's run")
    parser.add_argument("--run", default="student", help="name of this run")
    for field in fields(Recipe):
        parser.add_argument(f"--{field.name}", type=field.type, default=field.default)
    parser.add_argument("--publish", action="store_true", help="write the file for Load LoRA at the end")
    args = parser.parse_args()
    recipe = Recipe(**{field.name: getattr(args, field.name) for field in fields(Recipe)})
    student, run = load_student(args.folder, args.teacher, args.run, recipe)
    empty = embed(load_reference().text_encoder, [""], run.config.text_tokens)
    train(student, Examples(args.folder, run.recipe, run.config), empty)
    if args.publish:
        write(lora_state(student.model), FILE, "Papercut-DiT, 4 to 8 steps at CFG 1")


if __name__ == "__main__":
    main()
