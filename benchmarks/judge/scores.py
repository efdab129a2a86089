"""All measures of an edit: those of its pixels, and those of networks that lie in the user's own folders."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...morphing.lpips_network import lpips_network
from ...tools.client import Client
from ...tools.steps import Problem
from .cases import Case, read_picture
from .dino import Dino, read_weights
from .measures import covered, of_pixels

CLIP_SCORE = re.compile(r"CLIP score: source (-?[\d.]+), edit (-?[\d.]+)")


class Pictures(NamedTuple):
    """source, edit: (H, W, 3) in 0..1 at the source's size; mask: (H, W), 1 = to be edited, or None."""

    source: Tensor
    edit: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, case: Case, edit: Path) -> "Pictures":
        source = read_picture(case.picture)
        size = (source.shape[0], source.shape[1])
        return cls(source, read_picture(edit, size), case.mask(*size))


class Scorer(NamedTuple):
    """gives: the measures that `score` finds, of which a picture may lack some."""

    gives: tuple[str, ...]
    score: Callable[[Case, Pictures], dict[str, float]]


PIXELS = Scorer(("psnr", "mse", "ssim", "psnr_own"), lambda case, seen: of_pixels(*seen))


class Scores:
    """Measures what a record lacks. Called as `editing.Measure` asks for."""

    def __init__(self, scorers: Sequence[Scorer]):
        self.scorers = scorers

    def __call__(self, case: Case, edit: Path, known: Mapping[str, float]) -> dict[str, float]:
        lacking = [one for one in self.scorers if not any(name in known for name in one.gives)]
        seen = Pictures.of(case, edit) if lacking else None
        found = dict(known)
        for one in lacking:
            found |= one.score(case, seen)
        return found


def dino(path: Path) -> Scorer:
    network = Dino(read_weights(path))
    return Scorer(("structure", "structure_unit"), lambda case, seen: network.distances(seen.source, seen.edit))


def lpips() -> Scorer:
    """LPIPS of the background with SqueezeNet. Raises ValueError where package or weights are missing."""
    network = lpips_network("squeeze", "LPIPS", "or judge without it.")

    @torch.inference_mode()
    def score(case: Case, seen: Pictures) -> dict[str, float]:
        keep = torch.ones_like(seen.source[..., 0]) if seen.mask is None else 1 - seen.mask
        if not bool(keep.any()):
            return {}
        one, two = (covered(x, keep).movedim(-1, 0)[None] * 2 - 1 for x in (seen.source, seen.edit))
        return {"lpips": float(network(one, two))}

    return Scorer(("lpips",), score)


def fidelity() -> Scorer:
    """DragBench's image fidelity: 1 - LPIPS with AlexNet at 224 x 224. Raises ValueError as `lpips` does."""
    network = lpips_network("alex", "Image fidelity", "or judge without it.")

    @torch.inference_mode()
    def score(case: Case, seen: Pictures) -> dict[str, float]:
        small = (F.interpolate(x.movedim(-1, 0)[None] * 2 - 1, (224, 224), mode="bilinear") for x in seen[:2])
        return {"fidelity": 1 - float(network(*small))}

    return Scorer(("fidelity",), score)


def clip(client: Client, vision: str, text: str, folder: Path) -> Scorer:
    """CLIP scores by the pack's own Edit Report in the host: of the edit, and of its edited part with black around it.

    vision, text: the files' names in the host's clip_vision and text_encoders. Raises Problem where they are missing
    or do not fit.
    """
    _require(client, "CLIPVisionLoader", "clip_name", vision, "VISION")
    _require(client, "CLIPLoader", "clip_name", text, "TEXT")

    def score(case: Case, seen: Pictures) -> dict[str, float]:
        whole, part = _upload(client, folder, "whole", seen.edit), None
        if seen.mask is not None and bool(seen.mask.any()):
            part = _upload(client, folder, "part", covered(seen.edit, seen.mask))
        first, second = _reported(client, clip_prompt(vision, text, case.target, whole, part or whole))
        return {"clip": first} | ({} if part is None else {"clip_edited": second})

    return Scorer(("clip", "clip_edited"), score)


def clip_prompt(vision: str, text: str, words: str, whole: str, part: str) -> dict[str, dict]:
    """Edit Report on the whole edit, as its source, and on the edited part, as its edit."""
    load = lambda name: {"class_type": "LoadImage", "inputs": {"image": name}}
    compared = {"source": ["3", 0], "edit": ["4", 0], "clip_vision": ["1", 0], "clip": ["2", 0], "text": words}
    return {
        "1": {"class_type": "CLIPVisionLoader", "inputs": {"clip_name": vision}},
        "2": {"class_type": "CLIPLoader", "inputs": {"clip_name": text, "type": "stable_diffusion"}},
        "3": load(whole),
        "4": load(part),
        "5": {"class_type": "PalimpsestEditReport", "inputs": compared},
    }


def _reported(client: Client, prompt: dict[str, dict]) -> tuple[float, float]:
    result = client.run(prompt)
    found = CLIP_SCORE.search("\n".join(result.texts("5")))
    if found is None:
        raise Problem(f"VISION and TEXT gave no CLIP score: {result.error or 'Edit Report shows none'}")
    return float(found[1]), float(found[2])


def _upload(client: Client, folder: Path, name: str, picture: Tensor) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"palimpsest_judge_{name}.png"
    Image.fromarray((picture * 255).round().numpy().astype(np.uint8)).save(file)
    return client.upload(file)


def _require(client: Client, node: str, widget: str, name: str, setting: str) -> None:
    spec = client.object_info()[node]["input"]["required"][widget]
    names = spec[0] if isinstance(spec[0], list) else spec[1]["options"]
    if name not in names:
        raise Problem(f"{setting}={name} is not there: choose from {', '.join(names) or 'none: there is no file'}.")
