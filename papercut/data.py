"""Pre-rendered training scenes: a memory-mapped array of pictures, rendered once by several processes.

python -m palimpsest.papercut.data --count 8000
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from .scenes import SIZE, SPLITS, Scene, sample_scene

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "papercut"
CHUNK = 100
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Where the machine computes in bfloat16 it saves half of the time; other CPUs only emulate it, at many times.
FAST = torch.bfloat16 if DEVICE.type == "cuda" or torch.cpu._is_avx512_bf16_supported() else torch.float32


def autocast() -> torch.autocast:
    """The networks' arithmetic in `FAST`; weights and losses stay in float32."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=FAST == torch.bfloat16)


def training_scene(index: int) -> Scene:
    """The training scene of an index; one in twenty-five is bare ground, so that "nothing there" is learned too."""
    return sample_scene(SPLITS["train"][index], objects=0 if index % 25 == 24 else None)


def kept_aside(count: int) -> range:
    """Seeds at the far end of the training split, whose pictures nothing learns from: progress is measured on them."""
    return SPLITS["train"][-count:]


def pictures(count: int) -> np.memmap:
    """(count, 3, 256, 256) uint8 of the first training scenes, rendered where they are not yet."""
    path = CACHE / f"pictures-{count}.u8"
    path.parent.mkdir(parents=True, exist_ok=True)
    shape, done = (count, 3, SIZE, SIZE), path.with_suffix(".done")
    if not done.exists():
        np.memmap(path, np.uint8, "w+", shape=shape).flush()
        with ProcessPoolExecutor(2) as pool:
            for i, _ in enumerate(pool.map(_render_chunk, *zip(*[(path, shape, k) for k in range(0, count, CHUNK)]))):
                print(f"\rrendered {min((i + 1) * CHUNK, count)} of {count} scenes", end="", flush=True)
        print()
        done.touch()
    return np.memmap(path, np.uint8, "r", shape=shape)


def _render_chunk(path: Path, shape: tuple[int, ...], first: int) -> None:
    torch.set_num_threads(1)
    store = np.memmap(path, np.uint8, "r+", shape=shape)
    for index in range(first, min(first + CHUNK, shape[0])):
        store[index] = (training_scene(index).render() * 255).round().byte().numpy()
    store.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=8000)
    pictures(parser.parse_args().count)
