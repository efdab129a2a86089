"""Train Papercut's edge predictor by the pack's own node, through a running ComfyUI and stock nodes.

    python -m palimpsest.papercut.train_edges

Training scenes are drawn beside their edge maps, one file each, so that pictures, edges and captions cannot come
apart; the host's dataset node reads them, its crop node parts them, Edge Predictor Train learns. An interrupted run
goes on where it stopped when the command is given again.
"""

import argparse
import json
from pathlib import Path

import torch
from torchvision.utils import save_image

from ..guidance.sketch.files import read_predictor, write_predictor
from ..guidance.sketch.predictor import EdgePredictor
from ..tools.server import Host
from ..tools.setup import make_base, read_record
from .data import CACHE
from .edge_quality import FILE
from .networks import FILE as CHECKPOINT
from .scenes import SIZE, SPLITS, sample_scene

FOLDER, AUTOSAVE, PREFIX = "papercut_edge_training", "papercut_edges_unfinished", "papercut_edges"
# Narrow and with a high rate: on scenes kept aside it reads as well as one of twice the width, and guides faster.
SETTINGS = {"detail": "4", "learning_rate": 0.005, "flips": False, "width": 128, "held_out": 0.05}
FIRST = 500_000  # the diffusion model has learned from the first few thousand training scenes; these are new to it


def draw_pairs(folder: Path, count: int) -> None:
    """`count` files of 512 x 256: the scene on the left, its edges on the right; the caption in a text file."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        path = folder / f"{i:04}.png"
        if not path.exists():
            scene = sample_scene(SPLITS["train"][FIRST + i])
            both = torch.cat((scene.render(), scene.edges().float().expand(3, SIZE, SIZE)), 2)
            save_image(both, path)
            path.with_suffix(".txt").write_text(scene.caption, encoding="ascii")


def prompt(folder: str, steps: int, batch: int, settings: dict, unfinished: str | None) -> dict:
    """The workflow that trains and saves, in the host's API form."""
    node = lambda kind, **inputs: {"class_type": kind, "inputs": inputs}
    crop = lambda x: node("ImageCrop", image=["2", 0], width=SIZE, height=SIZE, x=x, y=0)
    nodes = {
        "1": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT.name),
        "2": node("LoadImageTextDataSetFromFolder", folder=folder),
        "3": crop(0),
        "4": crop(SIZE),
        "5": node("CLIPTextEncode", clip=["1", 1], text=["2", 1]),
        "6": node(
            "PalimpsestEdgePredictorTrain", model=["1", 0], vae=["1", 2], clip=["1", 1], images=["3", 0],
            edges=["4", 0], conditioning=["5", 0], steps=steps, batch_size=batch, autosave=AUTOSAVE, **settings,
        ),
        "7": node("PalimpsestSaveEdgePredictor", edge_predictor=["6", 0], filename_prefix=PREFIX),
        "8": node("PreviewImage", images=["6", 1]),
    }  # fmt: skip
    if unfinished:
        nodes["9"] = node("PalimpsestLoadEdgePredictor", file=unfinished)
        nodes["6"]["inputs"]["continue_from"] = ["9", 0]
    return nodes


def train(count: int, steps: int, batch: int, threads: int = 2, **settings) -> EdgePredictor:
    """The trained predictor; its facts hold the minutes of the node's prompt, unless it went on from an earlier one."""
    base = make_base(CACHE / "edge_host")
    folder = f"{FOLDER}_{count}"
    draw_pairs(base / "input" / folder, count)
    made = base / "output" / "edge_predictors"
    kept = unfinished_training(made)
    unfinished = kept.name if kept else None
    with Host.start(read_record()._replace(base=str(base)), log=base / "host.log", threads=threads) as host:
        result = host.client.run(prompt(folder, steps, batch, settings, unfinished), timeout=7200, listener=Ticker())
    if result.status != "success":
        raise SystemExit(f"The training failed: {result.error or result.status}")
    predictor = read_predictor(max(made.glob(f"{PREFIX}_*.safetensors"), key=lambda path: path.stat().st_mtime))
    if kept:
        kept.unlink()  # the node leaves the file that it went on from
        return predictor
    facts = {"minutes": round(result.seconds / 60, 1), "threads": threads}
    return EdgePredictor(predictor.spec.with_facts(**facts), predictor.network)


def unfinished_training(folder: Path) -> Path | None:
    """The last autosave of a training that was interrupted; the node counts their names on."""
    return max(folder.glob(f"{AUTOSAVE}_*.safetensors"), key=lambda path: path.stat().st_mtime, default=None)


class Ticker:
    """The node's progress as a line on the terminal."""

    def __call__(self, event: str, data: dict) -> None:
        states = data.get("nodes", {}).values() if event == "progress_state" else ()
        running = [one for one in states if one.get("state") == "running"]
        if running:
            print(f"\rstep {running[-1]['value']:.0f} of {running[-1]['max']:.0f}   ", end="", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2, help="cores of this machine; kept in the file's facts")
    parser.add_argument("--file", type=Path, default=FILE, help="where the trained predictor goes; the shipped one")
    options = parser.parse_args()
    if not CHECKPOINT.exists():
        raise SystemExit(f"{CHECKPOINT.name} is missing: train the diffusion model first.")
    predictor = train(options.pictures, options.steps, options.batch, options.threads, **SETTINGS)
    write_predictor(predictor, options.file, dtype=torch.float16)
    print("\n" + json.dumps(dict(predictor.spec.facts), indent=1))


if __name__ == "__main__":
    main()
