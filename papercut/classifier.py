"""The judge of the Papercut benchmarks: a small network that reads a picture and says what lies where on what.

It names the shape, colour and pattern of a single cut-out and the kind and tone of the ground; the same features, set
against the text encoder's, give a CLIP score (arXiv 2103.00020) for any caption (`clip_score.py`). It was trained on
scenes alone, drawn and then spoiled (blur, noise, JPEG), so that it knows nothing of the generator that it judges.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from .configs import TEXT
from .scenes import Scene
from .shapes import COLOURS, GROUNDS, PATTERNS, SHAPES, TONES

FILE = Path(__file__).resolve().parent / "weights" / "classifier.safetensors"
SIDE = 96  # the narrowest stripes are 17 pixels of 256 wide, so 6 here
WIDTHS = (32, 48, 96, 112)
OBJECT = {"shape": tuple(SHAPES), "colour": tuple(COLOURS), "pattern": tuple(PATTERNS)}
GROUND = {"kind": tuple(GROUNDS), "tone": tuple(TONES)}
ANSWERS = OBJECT | GROUND


@dataclass(frozen=True)
class Reading:
    """What the classifier sees in one picture, in the scenes' own words, and how sure it is of each (0..1)."""

    shape: str
    colour: str
    pattern: str
    kind: str
    tone: str
    sureness: tuple[float, ...] = ()

    def agrees(self, scene: Scene, *names: str) -> bool:
        """Whether the named answers ("shape", "tone", ...; all five if none is named) are right for the scene."""
        return all(getattr(self, name) == truth(scene)[name] for name in names or ANSWERS)


def truth(scene: Scene) -> dict[str, str]:
    """The right answers for a scene; those on the cut-out are left out unless there is exactly one."""
    words = {name: getattr(scene.ground, name) for name in GROUND}
    if len(scene.objects) == 1:
        words |= {name: getattr(scene.objects[0], name) for name in OBJECT}
    return words


class Block(nn.Sequential):
    """Convolution, normalisation, activation."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(outputs), nn.SiLU())


class Residual(nn.Module):
    """Two blocks beside a straight way."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(Block(width, width), Block(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Classifier(nn.Module):
    """Pictures (B, 3, H, W) in 0..1 of any size -> scores for each answer, and features for the CLIP score."""

    def __init__(self):
        super().__init__()
        a, b, c, d = WIDTHS
        self.trunk = nn.Sequential(
            Block(3, a, 2), Block(a, b, 2), Residual(b), Block(b, c, 2), Residual(c), Block(c, d, 2)
        )
        self.heads = nn.ModuleDict({name: nn.Linear(2 * d, len(words)) for name, words in ANSWERS.items()})
        self.picture_projection = nn.Linear(2 * d, TEXT.width, bias=False)
        self.text_projection = nn.Linear(TEXT.width, TEXT.width, bias=False)
        self.sharpness = nn.Parameter(torch.tensor(2.0))

    def features(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> (B, 224): the mean and the strongest answer of each last channel."""
        if pictures.shape[-2:] != (SIDE, SIDE):
            pictures = F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True)
        maps = self.trunk(pictures * 2 - 1)
        return torch.cat((maps.mean((2, 3)), maps.amax((2, 3))), 1)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Answer's name -> (B, number of words) scores before the softmax, words in the order of `ANSWERS`."""
        seen = self.features(pictures)
        return {name: head(seen) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, pictures: Tensor) -> list[Reading]:
        """(B, 3, H, W) in 0..1, one cut-out in each -> what is seen."""
        best = {name: scores.softmax(1).max(1) for name, scores in self(pictures).items()}
        return [
            Reading(
                **{name: words[best[name].indices[i]] for name, words in ANSWERS.items()},
                sureness=tuple(best[name].values[i].item() for name in ANSWERS),
            )
            for i in range(len(pictures))
        ]


def load_classifier(path: Path = FILE) -> Classifier:
    """The trained classifier, in float32 on the CPU, ready for evaluation."""
    model = Classifier()
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False)


def rates(readings: Sequence[Reading], scenes: Sequence[Scene]) -> dict[str, float]:
    """The fraction (0..1) of right answers, for each of the five, for "shape and colour" together, and for "all"."""
    sets = {name: (name,) for name in ANSWERS} | {"shape and colour": ("shape", "colour"), "all": tuple(ANSWERS)}
    pairs = list(zip(readings, scenes, strict=True))
    return {label: sum(r.agrees(s, *names) for r, s in pairs) / len(pairs) for label, names in sets.items()}
