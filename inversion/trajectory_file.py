"""A trajectory on disk: one safetensors file with the noise levels, the latents and what they were made with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .trajectory import Trajectory

FORMAT = "palimpsest.trajectory"
VERSION = 3
FIELDS = ("prompt", "cfg", "fingerprint", "prediction", "latent_format", "prompt_is_all", "pairing")
# Version 2 did not say where the inversion had asked the network. Version 1 had neither noise masks nor whether the
# prompt was all, and wrote an unknown prompt as an empty one.
FIELDS_OF = {1: FIELDS[:5], 2: FIELDS[:6], VERSION: FIELDS}
TENSORS = ("sigmas", "latents", "noise_mask", "evaluated")
OPTIONAL = ("noise_mask", "evaluated")


class NotATrajectory(ValueError):
    """A file that cannot be used; its text is a sentence for the artist."""


def write_trajectory(trajectory: Trajectory, path: Path) -> None:
    """Write to exactly `path`; the caller chooses a place and makes the write whole."""
    present = {name: getattr(trajectory, name) for name in TENSORS}
    tensors = {name: tensor.contiguous() for name, tensor in present.items() if tensor is not None}
    facts = {name: getattr(trajectory, name) for name in FIELDS}
    header = {"format": FORMAT, "version": VERSION, "checksum": _checksum(facts, tensors), **facts}
    save_file(tensors, str(path), metadata={FORMAT: json.dumps(header, sort_keys=True)})


def read_trajectory(path: Path) -> Trajectory:
    """Read and verify a file. Nothing in it is executed: tensors and JSON only.

    Raises NotATrajectory where the file is of another kind, of a newer version, damaged or inconsistent.
    """
    name = Path(path).name
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            header = _header(file.metadata(), name)
            tensors = {key: file.get_tensor(key) for key in TENSORS if key not in OPTIONAL or key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise NotATrajectory(f"'{name}' is damaged or no safetensors file ({error}): save it again.") from error
    first = header["version"] == 1
    facts = {field: header[field] for field in FIELDS_OF[header["version"]]}
    if _checksum(facts, tensors) != header["checksum"]:
        raise NotATrajectory(f"'{name}' is damaged, its contents are not what was saved: save the trajectory again.")
    if first:
        facts |= {"prompt": facts["prompt"] or None, "prompt_is_all": bool(facts["prompt"])}
    try:
        return Trajectory(**tensors, **facts)
    except (TypeError, ValueError) as error:
        raise NotATrajectory(f"'{name}' is damaged ({error})") from error


def _header(metadata: dict[str, str] | None, name: str) -> dict:
    text = (metadata or {}).get(FORMAT)
    if text is None:
        raise NotATrajectory(f"'{name}' is no trajectory: choose a file that Save Trajectory has written.")
    try:
        header = json.loads(text)
        version = int(header["version"])
    except (ValueError, TypeError, KeyError):
        header, version = {}, 0
    if version > VERSION:
        raise NotATrajectory(f"'{name}' was saved by a newer Palimpsest (format {version}): update this one.")
    if not _is_complete(header, version):
        raise NotATrajectory(f"'{name}' is damaged, its description cannot be read: save the trajectory again.")
    return header


def _is_complete(header: dict, version: int) -> bool:
    """Whether every field of the version is there and of its type."""
    text, maybe = (str,), (str, type(None))
    kinds: dict[str, tuple[type, ...]] = dict.fromkeys(("fingerprint", "prediction", "latent_format", "checksum"), text)
    kinds |= {"cfg": (int, float), "prompt": text if version == 1 else maybe}
    if version >= 2:
        kinds["prompt_is_all"] = (bool,)
    if version >= 3:
        kinds["pairing"] = maybe
    return version > 0 and all(isinstance(header.get(field, ...), kind) for field, kind in kinds.items())


def _checksum(facts: dict, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for key in sorted(tensors):
        digest.update(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)}".encode())
        digest.update(tensors[key].contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
