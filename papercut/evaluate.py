"""Measure the shipped Papercut networks on the test split, write `weights/measured.json` and the model cards' tables.

python -m palimpsest.papercut.evaluate [vae diffusion classifier flow edges dit]
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..inversion.diffusion import guided
from .classifier import FILE as CLASSIFIER_FILE, load_classifier, rates
from .edge_quality import FILE as EDGES_FILE, measure_edges
from .flow_transformer_export import AUTOENCODER, load_autoencoder
from .networks import FILE, WEIGHTS
from .reference import Reference, load_reference
from .scenes import SPLITS, Scene, sample_scene
from .train_flow import FLOW_FILE, end_point_error

MEASURED = WEIGHTS / "measured.json"
STEPS, CFG = 20, 5.0


def single_scenes(count: int, first: int = 0) -> list[Scene]:
    """Test scenes with one cut-out."""
    return [sample_scene(seed, objects=1) for seed in SPLITS["test"][first : first + count]]


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """(B,) decibels of pictures in 0..1."""
    return -10 * torch.log10(((a - b) ** 2).mean((1, 2, 3)))


@torch.no_grad()
def sample(reference: Reference, captions: list[str], seed: int, *, steps: int = STEPS, cfg: float = CFG) -> Tensor:
    """Pictures (B, 3, 256, 256) of the captions by DDIM with diffusers' modules."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn((len(captions), 4, 32, 32), generator=draw)
    context = torch.cat((reference.embed([""] * len(captions)), reference.embed(captions)))
    reference.scheduler.set_timesteps(steps)
    for t in reference.scheduler.timesteps:
        without, with_ = reference.unet(torch.cat((x, x)), t, context).sample.chunk(2)
        x = reference.scheduler.step(guided(with_, without, cfg), t, x).prev_sample
    return torch.cat([reference.pictures(z) for z in x.split(8)])


@torch.no_grad()
def measure_vae(count: int = 64) -> dict[str, float]:
    reference, values = load_reference(), []
    for seeds in range(0, count, 8):
        pictures = torch.stack([sample_scene(s).render() for s in SPLITS["test"][seeds : seeds + 8]])
        values.append(psnr(reference.pictures(reference.latents(pictures)), pictures))
    found = torch.cat(values)
    return {"reconstruction PSNR, dB": found.mean().item(), "worst picture, dB": found.min().item(), "pictures": count}


@torch.no_grad()
def measure_wide_vae(count: int = 64) -> dict[str, float]:
    vae, values = load_autoencoder(), []
    for seed in SPLITS["test"][:count]:
        picture = sample_scene(seed).render()[None]
        values.append(psnr((vae.decode(vae.encode(picture * 2 - 1).latents).sample / 2 + 0.5).clamp(0, 1), picture))
    found = torch.cat(values)
    return {"reconstruction PSNR, dB": found.mean().item(), "worst picture, dB": found.min().item(), "pictures": count}


def measure_diffusion(count: int = 200) -> dict[str, float]:
    reference, judge, readings = load_reference(), load_classifier(), []
    scenes = single_scenes(count)
    for first in range(0, count, 20):
        readings += judge.read(sample(reference, [s.caption for s in scenes[first : first + 20]], seed=first))
    return {f"{name} right": rate for name, rate in rates(readings, scenes).items()} | {"prompts": count}


def measure_classifier(count: int = 1000) -> dict[str, float]:
    judge, scenes = load_classifier(), single_scenes(count, first=5000)
    readings = []
    for first in range(0, count, 50):
        readings += judge.read(torch.stack([s.render() for s in scenes[first : first + 50]]))
    return {f"{name} right": rate for name, rate in rates(readings, scenes).items()} | {"pictures": count}


def measure_flow(count: int = 100) -> dict[str, float]:
    from torchvision.models.optical_flow import raft_large

    model = raft_large(weights=None)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(FLOW_FILE).items()})
    errors = end_point_error(model, SPLITS["test"][:count])
    return {f"end-point error, {name}, px": error for name, error in errors.items()} | {"pairs": count}


PARTS = {
    "vae": (FILE, measure_vae),
    "diffusion": (CLASSIFIER_FILE, measure_diffusion),
    "classifier": (CLASSIFIER_FILE, measure_classifier),
    "flow": (FLOW_FILE, measure_flow),
    "edges": (EDGES_FILE, measure_edges),
    "dit": (AUTOENCODER, measure_wide_vae),
}


def fill_card(name: str, found: dict[str, float], folder: Path = WEIGHTS) -> None:
    """Put the table between the marks of the part's model card, where there is one."""
    card = folder / f"{name}.md"
    if card.exists():
        before, _, rest = card.read_text(encoding="ascii").partition("<!-- measured -->")
        _, _, after = rest.partition("<!-- end -->")
        rows = "\n".join(f"| {k} | {round(v, 4):g} |" for k, v in found.items())
        table = f"<!-- measured -->\n| on the test split | value |\n|---|---|\n{rows}\n<!-- end -->"
        card.write_text(before + table + after, encoding="ascii")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="vae, diffusion, classifier, flow, edges, dit; all if none is named")
    measured = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    for name in parser.parse_args().parts or PARTS:
        needs, measure = PARTS[name]
        if not needs.exists():
            print(f"{name}: {needs.name} is not there yet")
            continue
        measured[name] = measure()
        print(name, measured[name], flush=True)
        MEASURED.write_text(json.dumps(measured, indent=1) + "\n", encoding="ascii")
        fill_card(name, measured[name])


if __name__ == "__main__":
    main()
