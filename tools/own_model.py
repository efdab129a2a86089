"""`COMFYUI=path CHECKPOINT=name make demo`: the examples as they ship, on a model of one's own.

MEGAPIXELS is the size that it paints: 0.25 for Stable Diffusion 1 (what most examples are set to), 1 for XL.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from .client import HostError
from .examples import set_widgets, widgets_of
from .places import HOST, Installation

FOLDERS = ("checkpoints", "optical_flow", "loras", "edge_predictors", "clip_vision", "text_encoders")
TEACHER = "Train an edge predictor"
"""The example that makes what another loads; and the folder that a third one edits."""
PICTURES = "my_pictures"


def with_checkpoint(workflow: Mapping, info: Mapping[str, dict], name: str, megapixels: float | None = None) -> dict:
    """A copy of the workflow that loads the checkpoint `name` and paints at so many megapixels (None: as it ships).

    Raises HostError where the host has no such checkpoint.
    """
    names = info["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"]
    names = names[0] if isinstance(names[0], list) else names[1]["options"]
    if name not in names:
        raise HostError(f"CHECKPOINT={name} is not there: choose from {', '.join(names)}.")
    changed = copy.deepcopy(dict(workflow))
    for node in changed["nodes"]:
        if node["type"] == "CheckpointLoaderSimple":
            set_widgets(node, {"ckpt_name": name}, info)
        if megapixels and "megapixels" in widgets_of(node, info):
            set_widgets(node, {"megapixels": megapixels}, info)
    return changed


def in_order(paths: Sequence[Path]) -> list[Path]:
    """The example that teaches an edge predictor before those that load it."""
    return sorted(paths, key=lambda path: path.stem != TEACHER)


def lend(installation: Installation) -> tuple[str, ...]:
    """Gives the demo's host the models and the example picture of the ComfyUI that runs; its further arguments."""
    comfyui, base = Path(installation.comfyui), Path(installation.base)
    for folder in (base / "input", base / "input" / PICTURES):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(comfyui / "input" / "example.png", folder / "example.png")
    places = {name: name for name in FOLDERS}
    config = HOST / "own_models.yaml"
    # JSON is YAML, too.
    config.write_text(json.dumps({"own": {"base_path": str(comfyui / "models"), **places}}), encoding="utf-8")
    return "--extra-model-paths-config", str(config)
