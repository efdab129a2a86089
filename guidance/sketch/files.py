"""An edge predictor on disk: one safetensors file with the weights and, as JSON, all that they mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .predictor import EdgeNetwork, EdgePredictor, PredictorSpec, frozen

FORMAT = "palimpsest.edge_predictor"
VERSION = 1
WEIGHTS, STATE = "network.", "training."


def write_predictor(predictor: EdgePredictor, path: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write to exactly `path`. dtype: of the weights in the file; the state of a training keeps its own."""
    spec = predictor.spec
    header = {
        "version": VERSION,
        "family": spec.family,
        "latent_format": spec.latent_format,
        "taps": list(spec.taps),
        "channels": list(spec.channels),
        "target": spec.target,
        "detail": spec.detail,
        "spread": spec.spread,
        "widths": list(spec.widths),
        "sigma_low": spec.sigma_low,
        "sigma_high": spec.sigma_high,
        "facts": dict(spec.facts),
    }
    tensors = {WEIGHTS + name: value.to(dtype) for name, value in predictor.network.state_dict().items()}
    tensors.update({STATE + name: value for name, value in (predictor.state or {}).items()})
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    save_file(plain, str(path), metadata={FORMAT: json.dumps(header, sort_keys=True)})


def read_predictor(path: Path) -> EdgePredictor:
    """Read a file; nothing in it is executed. The weights come in float32.

    Raises ValueError where the file is of another kind, of a newer version or damaged.
    """
    name = Path(path).name
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            header = _header(file.metadata(), name)
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"'{name}' is damaged or no safetensors file ({error}): save the predictor again.") from error
    try:
        spec = _spec(header)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"'{name}' is damaged, its description cannot be read ({error}): save it again.") from error
    state = {key[len(STATE) :]: value for key, value in tensors.items() if key.startswith(STATE)}
    return EdgePredictor(spec, _network(spec, tensors, name), state or None)


def _header(metadata: Mapping[str, str] | None, name: str) -> dict[str, Any]:
    text = (metadata or {}).get(FORMAT)
    if text is None:
        raise ValueError(f"'{name}' is no edge predictor: choose a file that Save Edge Predictor has written.")
    try:
        header = json.loads(text)
        version = int(header["version"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"'{name}' is damaged, its description cannot be read: save the predictor again.") from None
    if version > VERSION:
        raise ValueError(f"'{name}' was saved by a newer Palimpsest (format {version}): update this one.")
    return header


def _spec(header: dict[str, Any]) -> PredictorSpec:
    return PredictorSpec(
        family=str(header["family"]),
        latent_format=str(header["latent_format"]),
        taps=tuple(map(str, header["taps"])),
        channels=tuple(map(int, header["channels"])),
        target=header["target"],
        detail=int(header["detail"]),
        spread=float(header["spread"]),
        widths=tuple(map(int, header["widths"])),
        sigma_low=float(header["sigma_low"]),
        sigma_high=float(header["sigma_high"]),
        facts=dict(header["facts"]),
    )


def _network(spec: PredictorSpec, tensors: dict[str, Tensor], name: str) -> EdgeNetwork:
    # The sizes are checked on the meta device first: a damaged description must not make a giant network.
    weights = {key[len(WEIGHTS) :]: value for key, value in tensors.items() if key.startswith(WEIGHTS)}
    with torch.inference_mode(False):
        with torch.device("meta"):
            network = EdgeNetwork(spec.channels, spec.outputs, spec.widths)
        wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        if wanted != {key: tuple(value.shape) for key, value in weights.items()}:
            raise ValueError(f"'{name}' is damaged, its weights do not fit its description: save the predictor again.")
        if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
            raise ValueError(f"'{name}' holds weights that are not numbers: train the predictor again.")
        plain = {key: value.clone().float() for key, value in weights.items()}
        network.load_state_dict(plain, assign=True)
        return frozen(network)
