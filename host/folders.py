"""The host's own folders for what the pack keeps on disk; nothing outside them is ever read or written."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import folder_paths

Kind = Literal["trajectories", "flows", "edge_predictors"]

EXTENSIONS: dict[Kind, set[str]] = {
    "trajectories": {".safetensors"},
    "flows": {".flo", ".npz", ".npy", ".safetensors", ".pt", ".pth"},
    "edge_predictors": {".safetensors"},
}


def register() -> None:
    """Makes models/<kind> and output/<kind> known to the host, beside what extra_model_paths.yaml names. Idempotent."""
    for kind, extensions in EXTENSIONS.items():
        folder_paths.add_model_folder_path(kind, os.path.join(folder_paths.models_dir, kind))
        folder_paths.add_model_folder_path(kind, str(output_folder(kind)))
        folder_paths.folder_names_and_paths[kind] = (folder_paths.get_folder_paths(kind), set(extensions))


def output_folder(kind: Kind) -> Path:
    """Where new files of a kind go."""
    return Path(folder_paths.get_output_directory()) / kind


def file_names(kind: Kind) -> list[str]:
    """The files of a kind as a combo lists them: paths relative to their folder, sorted."""
    return [name for name in folder_paths.get_filename_list(kind) if _find(kind, name) is not None]


def existing_file(kind: Kind, name: str) -> Path:
    """The file that a combo's value names.

    Raises ValueError where there is none, or where the name leads out of the folders.
    """
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"No file is chosen: put one into models/{kind}, or save one first.")
    _require_plain(name, kind)
    path = _find(kind, name)
    if path is None:
        raise ValueError(f"There is no '{name}' in the folders for {_plain(kind)}: choose another, or save it again.")
    return path


def new_file(kind: Kind, name: str, suffix: str) -> Path:
    """A path for a new file, output/<kind>/<name>_00001_<suffix>, counting on as the host's save nodes do.

    name: may hold subfolders and the host's %date% words. Raises ValueError where it leads out of the folder.
    """
    name = name.strip()
    name = name[: -len(suffix)] if name.lower().endswith(suffix) else name
    _require_plain(name, kind)
    root = output_folder(kind)
    # Checked before the host is asked, whose answer to a bad name is a log line and an exception without a remedy.
    if not Path(name).name or not folder_paths.is_within_directory(str(root), str((root / name).parent)):
        raise ValueError(f"'{name}' is no file name inside output/{kind}: use a plain name, such as my_picture.")
    folder, stem, counter, _, _ = folder_paths.get_save_image_path(name, str(root))
    return Path(folder) / f"{stem}_{counter:05}_{suffix}"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` at the end, or vanishes where that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _find(kind: Kind, name: str) -> Path | None:
    """The first file of that name whose real place lies inside one of the kind's folders."""
    for folder in folder_paths.get_folder_paths(kind):
        path = os.path.join(folder, name)
        if os.path.isfile(path) and folder_paths.is_within_directory(folder, path):
            return Path(path)
    return None


def _require_plain(name: str, kind: Kind) -> None:
    parts = name.replace("\\", "/").split("/")
    if os.path.isabs(name) or name.startswith(("/", "\\")) or ".." in parts or "\0" in name or ":" in name:
        raise ValueError(
            f"'{name}' leads out of the folder for {_plain(kind)}: use a plain name, with subfolders at most."
        )


def _plain(kind: Kind) -> str:
    return kind.replace("_", " ")
