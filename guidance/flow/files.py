"""Flow files: .flo (Middlebury), .npz (NumPy), .safetensors, and the published examples' (1, 2, H, W) tensor files.

Nothing here can run code from a file: arrays are read from their plain bytes, tensor files weights-only.
"""

from __future__ import annotations

import io
import struct
import zipfile
from ast import literal_eval as read_literal
from collections.abc import Mapping
from pathlib import Path

import torch
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

READABLE = (".flo", ".npz", ".npy", ".safetensors", ".pth", ".pt")
WRITABLE = (".safetensors", ".flo", ".npz")
FORMAT, VERSION = "palimpsest flow", 1
FLO_TAG = 202021.25
LARGEST_SIDE = 16384
UNKNOWN = 1e9  # .flo marks unknown vectors by larger values than this
KINDS = {
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "b1": torch.bool,
}


def save_flow(path: str | Path, flow: Tensor, layers: Tensor | None = None, *, suffix: str = "") -> list[Path]:
    """Write a flow (B, H, W, 2) in the format of `suffix` (by default the path's own). Returns the paths.

    A batch in .flo becomes one numbered file each. `layers` (B, H, W) travel along in .safetensors and .npz; .flo has
    no place for them.
    """
    path, suffix = Path(path), suffix or Path(path).suffix
    flow = flow.detach().cpu().float().contiguous()
    arrays = {"flow": flow} | ({} if layers is None else {"layers": layers.detach().cpu().float().contiguous()})
    if suffix == ".safetensors":
        facts = {"format": FORMAT, "version": str(VERSION), "grid": "source", "unit": "pixels"}
        save_file(arrays, str(path), metadata=facts)
        return [path]
    if suffix == ".npz":
        _write_npz(path, arrays)
        return [path]
    if suffix == ".flo":
        names = [path] if len(flow) == 1 else [path.with_stem(f"{path.stem}_{i:03d}") for i in range(len(flow))]
        for name, item in zip(names, flow):
            head = struct.pack("<fii", FLO_TAG, item.shape[1], item.shape[0])
            name.write_bytes(head + item.numpy().astype("<f4").tobytes())
        return names
    raise ValueError(f"A flow cannot be written as '{suffix}': choose one of {', '.join(WRITABLE)}.")


def load_flow(path: str | Path) -> tuple[Tensor, Tensor | None]:
    """Read any READABLE file -> (flow (B, H, W, 2) float32, layers (B, H, W) float32 or None).

    Raises ValueError if the file is damaged, holds no flow, or is of a newer version.
    """
    path = Path(path)
    readers = {
        ".flo": _read_flo,
        ".npz": _read_npz,
        ".npy": lambda p: {"flow": _read_npy(p.read_bytes())},
        ".safetensors": lambda p: load_file(str(p)),
        ".pth": _read_tensor,
        ".pt": _read_tensor,
    }
    if path.suffix.lower() not in readers:
        raise ValueError(f"'{path.name}' is no flow file: its name must end in one of {', '.join(READABLE)}.")
    try:
        arrays = readers[path.suffix.lower()](path)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(
            f"The flow file '{path.name}' cannot be read ({error}): it is damaged or of another kind."
        ) from error
    if path.suffix.lower() == ".safetensors":
        _require_version(path)
    flow = as_flow(_flow_among(arrays, path.name), path.name)
    layers = arrays.get("layers")
    if layers is None:
        return flow, None
    layers = layers[None].expand(len(flow), -1, -1) if layers.ndim == 2 else layers
    if layers.shape != flow.shape[:3]:
        raise ValueError(f"The layers in '{path.name}' are {tuple(layers.shape)}, the flow {tuple(flow.shape)}.")
    return flow, layers.float()


def _flow_among(arrays: Mapping[str, object], name: str) -> object:
    """The array that is a flow: by its shape, and where several are, by its name; `u` and `v` may lie apart."""
    tensors = {key: value for key, value in arrays.items() if isinstance(value, Tensor)}
    if {"u", "v"} <= set(tensors) and tensors["u"].shape == tensors["v"].shape:
        return torch.stack((tensors["u"], tensors["v"]), dim=-1)
    flows = {key: value for key, value in tensors.items() if _is_flow(value)}
    for likely in (lambda key: key == "flow", lambda key: "fw" in key or "forward" in key, lambda key: True):
        found = [value for key, value in flows.items() if likely(key.lower())]
        if len(found) == 1:
            return found[0]
    listing = ", ".join(f"{key} {tuple(value.shape)}" for key, value in tensors.items()) or "no arrays"
    wanted = "save the one to use alone, or name it 'flow'" if flows else "expected (B, H, W, 2) or (B, 2, H, W)"
    raise ValueError(f"'{name}' holds {'several flows' if flows else 'no flow'} ({listing}): {wanted}.")


def _is_flow(value: Tensor) -> bool:
    """(B, H, W, 2), (H, W, 2), (B, 2, H, W) or (2, H, W)."""
    return value.ndim in (3, 4) and (value.shape[-1] == 2 or value.shape[-3] == 2)


def as_flow(value: object, name: str) -> Tensor:
    """Any of (B, H, W, 2), (H, W, 2), (B, 2, H, W), (2, H, W) -> (B, H, W, 2) float32.

    Unknown vectors, marked by NaN or by more than UNKNOWN as in .flo, come back as 0.
    """
    if not isinstance(value, Tensor) or not _is_flow(value):
        raise ValueError(f"'{name}' holds no flow: expected an array (B, H, W, 2) or (B, 2, H, W).")
    value = value[None] if value.ndim == 3 else value
    if value.shape[-1] != 2:
        value = rearrange(value, "b c h w -> b h w c")
    value = value.float().contiguous()
    known = (value.abs() <= UNKNOWN).all(dim=-1, keepdim=True)  # NaN is not below anything
    if not known.any():
        raise ValueError(f"The flow in '{name}' holds no known vector: make it again.")
    return torch.where(known, value, 0.0)


def _require_version(path: Path) -> None:
    """Other programs' files, and ours from before there were versions, name none and are read as they are."""
    with safe_open(str(path), framework="pt") as file:
        facts = file.metadata() or {}
    version = facts.get("version", "1") if facts.get("format") == FORMAT else "1"
    if int(version) > VERSION:
        raise ValueError(f"'{path.name}' was saved by a newer Palimpsest (format {version}): update this one.")


def _read_flo(path: Path) -> dict[str, Tensor]:
    data = path.read_bytes()
    tag, width, height = struct.unpack_from("<fii", data)
    if tag != FLO_TAG or not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
        raise ValueError("it does not begin like a .flo file")
    if len(data) < 12 + 8 * width * height:
        raise ValueError("it ends too early")
    values = torch.frombuffer(bytearray(data[12 : 12 + 8 * width * height]), dtype=torch.float32)
    return {"flow": values.reshape(height, width, 2)}


def _read_tensor(path: Path) -> dict[str, Tensor]:
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        # PyTorch's own words advise to switch its safety off.
        raise ValueError("it is no file of plain tensors; save the flow as .npz or .safetensors") from None
    return value if isinstance(value, dict) else {"flow": value}


def _read_npz(path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if n.endswith(".npy")]
        return {name.removesuffix(".npy"): _read_npy(archive.read(name)) for name in names}


def _read_npy(data: bytes) -> Tensor:
    """NumPy's array format 1 to 3; objects are refused."""
    if data[:6] != b"\x93NUMPY":
        raise ValueError("it does not begin like a NumPy array")
    size, start = struct.unpack_from("<H" if data[6] == 1 else "<I", data, 8)[0], 10 if data[6] == 1 else 12
    head = read_literal(data[start : start + size].decode("latin1"))
    kind = KINDS.get(head["descr"].lstrip("<|="))
    if kind is None:
        raise ValueError(f"arrays of kind {head['descr']} hold no flow")
    values = torch.frombuffer(bytearray(data[start + size :]), dtype=kind)
    if head["fortran_order"]:
        return values.reshape(head["shape"][::-1]).permute(*reversed(range(len(head["shape"])))).contiguous()
    return values.reshape(head["shape"])


def _write_npz(path: Path, arrays: dict[str, Tensor]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in arrays.items():
            head = str({"descr": "<f4", "fortran_order": False, "shape": tuple(values.shape)})
            head += " " * (-(10 + len(head) + 1) % 64) + "\n"
            buffer = io.BytesIO(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode("latin1"))
            buffer.seek(0, io.SEEK_END)
            buffer.write(values.numpy().astype("<f4").tobytes())
            archive.writestr(f"{name}.npy", buffer.getvalue())
