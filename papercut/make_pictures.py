"""Draw the pictures that the example workflows load: a few composed scenes, their masks and sketches.

python -m palimpsest.papercut.make_pictures
"""

import math
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import save_image

from ..guidance.finish.alignment import Alignment, Box, resample
from ..guidance.morphology import dilate
from .scenes import SIZE, CutOut, Ground, Scene

FOLDER = Path(__file__).resolve().parent / "pictures"
CREAM, MINT = Ground("checked", "cream", (0.6, 0.2), 58.0), Ground("plain", "mint")
GREY, LILAC = Ground("waves", "grey", (0.3, 1.1), 60.0), Ground("gradient", "lilac", (0.9, 0.0))

SCENES = {
    "source": Scene(CREAM, (CutOut("heart", "red", "striped", 128, 132, 62, -10.0),)),
    "star": Scene(MINT, (CutOut("star", "purple", "plain", 120, 128, 66, 8.0),)),
    "moon": Scene(LILAC, (CutOut("moon", "yellow", "dotted", 140, 120, 58, 12.0, (1.0, 1.0), 0.42),)),
    "two": Scene(
        GREY,
        (CutOut("circle", "green", "plain", 78, 104, 42), CutOut("square", "orange", "striped", 178, 158, 44, 14.0)),
    ),
    "cross": Scene(MINT, (CutOut("cross", "blue", "dotted", 84, 150, 46, -12.0, (1.0, 1.0), 0.5),)),
    "small": Scene(LILAC, (CutOut("triangle", "green", "plain", 182, 150, 34, 10.0),)),
    "frame_1": Scene(GREY, (CutOut("circle", "blue", "dotted", 120, 128, 76, 0.0, (1.0, 1.0), 0.4),)),
    "frame_2": Scene(GREY, (CutOut("circle", "blue", "dotted", 142, 114, 76, 11.0, (1.0, 1.0), 0.4),)),
    "key_1": Scene(MINT, (CutOut("circle", "red", "plain", 128, 128, 56),)),
    "key_2": Scene(MINT, (CutOut("heart", "pink", "plain", 128, 128, 58),)),
    "key_3": Scene(MINT, (CutOut("star", "purple", "plain", 128, 128, 64),)),
    "key_4": Scene(MINT, (CutOut("square", "blue", "plain", 128, 128, 54, 10.0),)),
}
MASKED = ("source", "star", "moon", "two", "cross", "small")
SKETCHED = ("source", "star", "moon", "cross")


def sketch(scene: Scene) -> Tensor:
    """(1, 256, 256): the outlines as dark strokes, three pixels wide, on white paper."""
    strokes = dilate(scene.edges()[None], 1, "square")
    return 1 - 0.9 * strokes.float()


def edited() -> Tensor:
    """(3, 248, 264): the scene "two" as an instruction editor gives it back, asked for a blue star in the place of the
    square: larger by 3 %, turned, moved, warmer, and of other proportions."""
    scene = SCENES["two"].with_object(1, shape="star", colour="blue", pattern="plain", size=52)
    turned = math.radians(0.8)
    matrix = torch.tensor([[math.cos(turned), -math.sin(turned)], [math.sin(turned), math.cos(turned)]]).double() / 1.03
    back = Alignment(matrix=matrix, shift=torch.tensor([-1.0, 5.0]).double(), source=(SIZE, SIZE), edited=(SIZE, SIZE))
    view = resample(scene.render(), back.at((248, 264), (SIZE, SIZE)), Box(0, 248, 0, 264))
    return (view * torch.tensor([1.05, 1.0, 0.93])[:, None, None] + 0.01).clamp(0, 1)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    lines = ["# The demo's pictures", "", "Drawn by `papercut/make_pictures.py`; 256 pixels a side.", ""]
    for name, scene in SCENES.items():
        save_image(scene.render(), FOLDER / f"papercut_{name}.png")
        lines.append(f"- `papercut_{name}.png`: {scene.caption}")
    for name in MASKED:
        mask = SCENES[name].masks().any(0).float()
        save_image(mask.expand(3, SIZE, SIZE), FOLDER / f"papercut_{name}_mask.png")
    for name in SKETCHED:
        save_image(sketch(SCENES[name]).expand(3, SIZE, SIZE), FOLDER / f"papercut_{name}_sketch.png")
    to_pil_image(edited()).save(FOLDER / "papercut_two_edited.jpg", quality=85)
    lines.append("- `papercut_two_edited.jpg`: the same with a blue star, as an instruction editor gives it back")
    lines += ["", "`papercut_<name>_mask.png` is white on the cut-outs; `papercut_<name>_sketch.png`"]
    lines += ["their outlines.", ""]
    (FOLDER / "README.md").write_text("\n".join(lines), encoding="ascii")


if __name__ == "__main__":
    main()
