"""Train Papercut's optical-flow network: RAFT-large (arXiv 2003.12039) in torchvision's layout, from scratch on a CPU.

Pairs of a scene and its rearrangement, six updates, the paper's sequence loss with gamma 0.8: first on 128x128 crops
that hold something moving, then on whole pictures, since a crop may lie inside a plain cut-out, where nobody could see
what moves.

    python -m palimpsest.papercut.train_flow --minutes 34
    python -m palimpsest.papercut.train_flow --minutes 62 --crop 256 --batch 1
"""

import argparse
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models.optical_flow import raft_large

from .data import CACHE, DEVICE, autocast, kept_aside
from .muon import Optimiser
from .networks import WEIGHTS
from .scenes import SIZE, SPLITS, rearranged, sample_scene

PATH = CACHE / "flow.pt"
FLOW_FILE = WEIGHTS / "papercut-flow.safetensors"
CHUNK, UPDATES, GAMMA = 50, 6, 0.8


def pair(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """first, second: (3, 256, 256) in 0..1; flow: (2, 256, 256) pixels; shown: (256, 256) bool, seen in both."""
    scene = sample_scene(seed)
    after = rearranged(scene, seed)
    motion = scene.motion_to(after)
    return scene.render(), after.render(), motion.flow.permute(2, 0, 1), ~motion.occluded


def pairs(count: int) -> tuple[np.memmap, np.memmap]:
    """(count, 6, 256, 256) uint8 pictures and (count, 2, 256, 256) float16 flows of the training split."""
    paths = CACHE / f"pairs-{count}.u8", CACHE / f"pairs-{count}.f16"
    shapes, done = ((count, 6, SIZE, SIZE), (count, 2, SIZE, SIZE)), paths[0].with_suffix(".done")
    if not done.exists():
        for path, shape, kind in zip(paths, shapes, (np.uint8, np.float16)):
            np.memmap(path, kind, "w+", shape=shape).flush()
        with ProcessPoolExecutor(2) as pool:
            for i, _ in enumerate(pool.map(_render_chunk, *zip(*[(paths, count, k) for k in range(0, count, CHUNK)]))):
                print(f"\rrendered {min((i + 1) * CHUNK, count)} of {count} pairs", end="", flush=True)
        print()
        done.touch()
    return np.memmap(paths[0], np.uint8, "r", shape=shapes[0]), np.memmap(paths[1], np.float16, "r", shape=shapes[1])


def _render_chunk(paths: tuple[Path, Path], count: int, first: int) -> None:
    torch.set_num_threads(1)
    pictures = np.memmap(paths[0], np.uint8, "r+", shape=(count, 6, SIZE, SIZE))
    flows = np.memmap(paths[1], np.float16, "r+", shape=(count, 2, SIZE, SIZE))
    for index in range(first, min(first + CHUNK, count)):
        a, b, flow, _ = pair(SPLITS["train"][index])
        pictures[index] = (torch.cat((a, b)) * 255).round().byte().numpy()
        flows[index] = flow.half().numpy()


def crops(store: tuple[np.memmap, np.memmap], batch: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """first, second: (batch, 3, side, side) in -1..1; flow (batch, 2, side, side); round a moving pixel."""
    firsts, seconds, flows = [], [], []
    for _ in range(batch):
        index = int(torch.randint(len(store[0]), ()))
        pictures = torch.from_numpy(store[0][index].copy()).float() / 127.5 - 1
        flow = torch.from_numpy(store[1][index].copy()).float()
        moving = flow.abs().sum(0).nonzero()
        centre = moving[int(torch.randint(len(moving), ()))]
        y, x = ((centre - side // 2 + torch.randint(-40, 41, (2,))).clamp(0, SIZE - side)).tolist()
        pictures, flow = pictures[:, y : y + side, x : x + side], flow[:, y : y + side, x : x + side]
        for axis in (1, 2):
            if torch.rand(()) < 0.5:
                pictures, flow = pictures.flip(axis), flow.flip(axis)
                flow = flow * torch.tensor([1.0, -1.0] if axis == 1 else [-1.0, 1.0])[:, None, None]
        firsts.append(pictures[:3])
        seconds.append(pictures[3:])
        flows.append(flow)
    return torch.stack(firsts), torch.stack(seconds), torch.stack(flows)


def sequence_loss(guesses: list[Tensor], flow: Tensor) -> Tensor:
    """Mean L1 of each update's guess, later ones weighing more; half of the weight lies on what moves."""
    moves = (flow != 0).any(1, keepdim=True)
    fraction = 0.5 + 0.5 * moves / moves.float().mean().clamp_min(0.01)
    weights = [GAMMA ** (len(guesses) - 1 - i) for i in range(len(guesses))]
    return sum(w * (fraction * (g - flow).abs()).mean() for w, g in zip(weights, guesses))


@torch.no_grad()
def end_point_error(model, seeds: Iterable[int], updates: int = 12) -> dict[str, float]:
    """Mean distance in pixels of guess and truth, over moving pixels, over those seen in both, and over still ones."""
    model.eval()
    sums = {"moving": [0.0, 0], "moving, seen in both": [0.0, 0], "still": [0.0, 0]}
    for seed in seeds:
        a, b, flow, shown = pair(seed)
        frames = ((picture * 2 - 1)[None].to(DEVICE) for picture in (a, b))
        guess = model(*frames, num_flow_updates=updates)[-1][0].cpu()
        error, moves = (guess - flow).norm(dim=0), flow.norm(dim=0) > 0
        for name, where in (("moving", moves), ("moving, seen in both", moves & shown), ("still", ~moves)):
            sums[name][0] += error[where].sum().item()
            sums[name][1] += int(where.sum())
    model.train()
    return {name: total / max(n, 1) for name, (total, n) in sums.items()}


def export(model) -> None:
    """The shipped file, fp16, in torchvision's own names."""
    state = {k: v.detach().cpu() for k, v in model.state_dict().items()}
    halves = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}
    save_file(halves, FLOW_FILE, metadata={"format": "pt", "title": "Papercut optical flow"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=3000)
    args = parser.parse_args()
    torch.manual_seed(0)
    store, model = pairs(args.pairs), raft_large(weights=None).to(DEVICE)
    optimiser, spent, step = Optimiser(list(model.parameters()), args.rate), 0.0, 0
    if PATH.exists():
        state = torch.load(PATH, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        spent, step = state["spent"], state["step"]
    torch.manual_seed(step + 1)
    average, reported, last = None, spent, time.time()
    while spent < 60 * args.minutes:
        first, second, flow = (part.to(DEVICE) for part in crops(store, args.batch, args.crop))
        with autocast():
            guesses = model(first, second, num_flow_updates=UPDATES)
        loss = sequence_loss(guesses, flow)
        loss.backward()
        left = 1 - spent / 60 / args.minutes
        optimiser.update(args.rate * min(1.0, (step + 1) / 100) * min(1.0, 0.02 + 1.4 * left))
        step += 1
        average = loss.item() if average is None else 0.95 * average + 0.05 * loss.item()
        spent, last = spent + time.time() - last, time.time()
        if spent - reported > 180 or spent >= 60 * args.minutes:
            reported = spent
            part = PATH.with_suffix(".part")
            torch.save(
                {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "spent": spent, "step": step}, part
            )
            part.replace(PATH)
            errors = {k: round(v, 2) for k, v in end_point_error(model, kept_aside(8)).items()}
            print(f"{spent / 60:.1f} min, step {step}, loss {average:.3f}, end-point error {errors}", flush=True)
            last = time.time()
    export(model)


if __name__ == "__main__":
    main()
