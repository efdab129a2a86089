"""LoRA files as LORA_MODELs: those in the host's LoRA folders, and those that its Save LoRA Weights has written."""

from __future__ import annotations

import os
from pathlib import Path

import comfy.utils
import folder_paths
from torch import Tensor

SAVED = " [output]"
_ENDINGS = {".safetensors", ".sft"}


def lora_names() -> list[str]:
    """As a combo lists them: the host's own, and below output/loras those with `[output]` behind their name."""
    return folder_paths.get_filename_list("loras") + [name + SAVED for name in _saved()]


def lora_path(name: str) -> Path:
    """The file that a combo's value names. Raises ValueError if there is none in those folders."""
    if not isinstance(name, str) or name not in lora_names():
        raise ValueError(
            f"There is no LoRA '{name}': choose another, or save one with Save LoRA Weights and press R to see it."
        )
    if name.endswith(SAVED):
        return _folder() / name.removesuffix(SAVED)
    return Path(folder_paths.get_full_path_or_raise("loras", name))


def load_lora(name: str) -> dict[str, Tensor]:
    """A file's weights, on the CPU. Raises ValueError for a file without any."""
    path = lora_path(name)
    try:
        weights = comfy.utils.load_torch_file(str(path), safe_load=True)
    except Exception as error:
        raise ValueError(f"The file '{name}' cannot be read ({error}): save or download it again.") from error
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"The file '{name}' holds no LoRA: choose another.")
    return weights


def _folder() -> Path:
    return Path(folder_paths.get_output_directory()) / "loras"


def _saved() -> list[str]:
    folder = _folder()
    if not folder.is_dir():
        return []
    inside = lambda path: folder_paths.is_within_directory(str(folder), os.path.realpath(path))
    files = (path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS and path.is_file() and inside(path))
    return sorted(path.relative_to(folder).as_posix() for path in files)
