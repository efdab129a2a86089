"""What each socket type takes: one check a type, the same for every node.

Other packs use the names of our types for other things, and the host compares names alone. A check returns the value
as the host itself would treat it: float32 (from half, double, bool or 0/1 integers), one mask or picture as a batch
of one, a grey picture with three equal channels. Raises ValueError with one sentence where the value cannot be right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..guidance.flow.fields import check_flow
from ..guidance.flow.points import track_pairs
from ..guidance.sketch.predictor import EdgePredictor
from ..inversion.trajectory import Trajectory
from ..morphing.schedule import Alphas
from .motion.optical_flow import require_optical_flow
from .validation import require_conditioning, require_finite, require_latent, require_sigmas

# Pictures and masks lie in 0..1; sharpening and resizing overshoot a little, pictures in 0..255 go far beyond.
LARGEST = 4.0


def check_input(socket: str, value: Any, name: str) -> Any:
    """The value of the input `name` of this socket type, fit for a node. Widgets are the host's to check."""
    check = CHECKS.get(socket)
    return value if check is None else check(value, name)


def _pixels(values: Tensor, name: str) -> Tensor:
    """float32, finite and about 0..1."""
    values = require_finite(values.float(), f"The input '{name}'", "make it again")
    if values.numel() and float(values.abs().max()) > LARGEST:
        raise ValueError(
            f"The input '{name}' has values up to {float(values.abs().max()):.4g}, but pictures and masks lie between "
            "0 and 1: divide it by its largest value (255, say)."
        )
    return values


def _image(value: Any, name: str) -> Tensor:
    """IMAGE (B, H, W, 3 or 4)."""
    value = value[None] if isinstance(value, Tensor) and value.ndim == 3 else value
    if not isinstance(value, Tensor) or value.ndim != 4 or 0 in value.shape or value.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"The input '{name}' is not a batch of pictures but {_described(value)}: connect an IMAGE, such as the "
            "output of Load Image."
        )
    value = _pixels(value, name)
    return value.expand(*value.shape[:3], 3) if value.shape[-1] == 1 else value


def _mask(value: Any, name: str) -> Tensor:
    """MASK (B, H, W)."""
    given = value
    if isinstance(value, Tensor) and value.ndim == 2:
        value = value[None]
    elif isinstance(value, Tensor) and value.ndim == 4 and 1 in (value.shape[1], value.shape[3]):
        value = value[:, 0] if value.shape[1] == 1 else value[..., 0]
    if not isinstance(value, Tensor) or value.ndim != 3 or 0 in value.shape:
        raise ValueError(
            f"The input '{name}' is not a mask but {_described(given)}: connect a MASK, such as that of Load Image's "
            "Mask Editor."
        )
    return _pixels(value, name)


def _latent(value: Any, name: str) -> dict:
    samples = require_latent(value, f"The latent '{name}'")
    mask = value.get("noise_mask")
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.ndim < 2 or 0 in mask.shape:
            raise ValueError(
                f"The noise mask of the latent '{name}' is no mask: connect Set Latent Noise Mask before it."
            )
        require_finite(mask, f"The noise mask of the latent '{name}'", "paint it again")
    return value if samples.dtype == torch.float32 else {**value, "samples": samples.float()}


def _conditioning(value: Any, name: str) -> list:
    entries = require_conditioning(value, f"The prompt '{name}'")
    for embedding, _ in entries:
        if not isinstance(embedding, Tensor) or embedding.ndim != 3 or 0 in embedding.shape:
            raise ValueError(
                f"The prompt '{name}' holds no encoded text but {_described(embedding)}: connect a CLIP Text Encode "
                "node (its text may be empty)."
            )
    return [list(entry) for entry in entries]


def _sigmas(value: Any, name: str) -> Tensor:
    return require_sigmas(value, f"The schedule '{name}'").float()


def _box(value: Any, name: str) -> dict:
    """BOUNDING_BOX {"x", "y", "width", "height"} in whole pixels; of a list of boxes the first."""
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    numbers = [value.get(key) for key in ("x", "y", "width", "height")] if isinstance(value, Mapping) else [None]
    if not all(isinstance(one, Real) and math.isfinite(one) and one >= 0 for one in numbers) or not all(numbers[2:]):
        raise ValueError(f"The input '{name}' is not a box but {_described(value)}: connect Crop to Mask.")
    x, y, width, height = (int(one) for one in numbers)
    return {"x": x, "y": y, "width": max(1, width), "height": max(1, height)}


def _flow(value: Any, name: str) -> Tensor:
    return check_flow(value, name)


def _alphas(value: Any, name: str) -> Alphas | list[float]:
    """Our own, or plain numbers, one a frame."""
    if isinstance(value, Alphas):
        return value
    numbers = value.tolist() if isinstance(value, Tensor) and value.ndim == 1 else value
    if not isinstance(numbers, (list, tuple)) or not numbers or not all(map(_is_place, numbers)):
        raise ValueError(
            f"The input '{name}' is not a number for each frame, from 0 on, but {_described(value)}: connect Morph "
            "Schedule or Reschedule."
        )
    return [float(number) for number in numbers]


def _is_place(number: Any) -> bool:
    return isinstance(number, Real) and math.isfinite(number) and number >= 0


def _lora(value: Any, name: str) -> Any:
    weights = value.values() if isinstance(value, Mapping) else ()
    if not weights or not all(isinstance(one, Tensor) for one in weights):
        raise ValueError(
            f"The input '{name}' is not a LoRA's weights but {_described(value)}: connect LoRA Fit, Load LoRA Weights "
            "or the host's Train LoRA."
        )
    for one in weights:
        require_finite(one, f"The input '{name}'", "fit the LoRA again, with a lower learning rate")
    return value


def _tracks(value: Any, name: str) -> dict:
    for points in track_pairs(value):
        require_finite(points, f"The input '{name}'", "track the points again")
    return value


def _optical_flow(value: Any, name: str) -> Any:
    require_optical_flow(value, name)
    return value


def _made_by(kind: type, what: str, remedy: str) -> Callable:
    """A check for values of one class."""
    return _that(lambda value: isinstance(value, kind), what, remedy)


def _with(*methods: str, what: str, remedy: str) -> Callable:
    """A check for objects of the host and of packs that imitate them: they have these attributes."""
    return _that(lambda value: all(hasattr(value, one) for one in methods), what, remedy)


def _that(test: Callable[[Any], bool], what: str, remedy: str) -> Callable:
    def check(value: Any, name: str) -> Any:
        if not test(value):
            raise ValueError(f"The input '{name}' is not {what} but {_described(value)}: connect {remedy}.")
        return value

    return check


def _described(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Tensor):
        return f"a tensor of shape {'x'.join(map(str, value.shape)) or 'one number'}"
    return f"a value of type {type(value).__name__}"


CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "IMAGE": _image,
    "MASK": _mask,
    "LATENT": _latent,
    "CONDITIONING": _conditioning,
    "SIGMAS": _sigmas,
    "MODEL": _with("model", "clone", "model_options", what="a model", remedy="a Load Checkpoint node"),
    "CLIP": _with("tokenize", "encode_from_tokens", what="a CLIP", remedy="the CLIP of a Load Checkpoint node"),
    "VAE": _with("encode", "decode", "first_stage_model", what="a VAE", remedy="the VAE of a Load Checkpoint node"),
    "CLIP_VISION": _with("encode_image", what="a CLIP vision model", remedy="Load CLIP Vision"),
    "SAMPLER": _with("sample", what="a sampler", remedy="the sampler of the run"),
    "NOISE": _with("generate_noise", what="a noise", remedy="Random Noise"),
    "GUIDER": _with("model_patcher", "sample", what="a guider", remedy="CFG Guider"),
    "CURVE": _with("interp", what="a curve", remedy="Curve Editor"),
    "TRAJECTORY": _made_by(Trajectory, "a trajectory", "DDIM Invert or Load Trajectory"),
    "EDGE_PREDICTOR": _made_by(EdgePredictor, "an edge predictor", "Edge Predictor Train or Load Edge Predictor"),
    "BOUNDING_BOX": _box,
    "FLOW": _flow,
    "ALPHAS": _alphas,
    "LORA_MODEL": _lora,
    "TRACKS": _tracks,
    "OPTICAL_FLOW": _optical_flow,
}
