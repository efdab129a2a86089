"""Papercut itself: what the shipped networks can do on the test split, and what they weigh."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ...papercut import evaluate
from ...papercut.networks import WEIGHTS
from ..results import Row

TECHNIQUES = ("Papercut", "Papercut-DiT")


def _if_there(path, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    return measure() if path.exists() else {}


def rows(context) -> Iterable[Row]:
    vae = _if_there(evaluate.FILE, evaluate.measure_vae)
    yield context.row("Papercut", "VAE reconstruction PSNR", "", vae.get("reconstruction PSNR, dB"), "dB", ">= 30")
    judge = _if_there(evaluate.CLASSIFIER_FILE, lambda: evaluate.measure_classifier(400))
    sure = judge.get("shape and colour right")
    yield context.row("Papercut", "classifier right on drawn scenes: shape and colour", "", sure, "", ">= 0.98")
    both = evaluate.FILE if evaluate.CLASSIFIER_FILE.exists() else evaluate.CLASSIFIER_FILE
    model = _if_there(both, lambda: evaluate.measure_diffusion(100))
    named = model.get("shape and colour right")
    yield context.row("Papercut", "prompts right at 20 steps, CFG 5: shape and colour", "", named, "", ">= 0.9")
    flow = _if_there(evaluate.FLOW_FILE, lambda: evaluate.measure_flow(100))
    error = flow.get("end-point error, moving, px")
    yield context.row("Papercut", "flow end-point error over moving pixels", "", error, "px", "<= 1.5")
    wide = _if_there(evaluate.AUTOENCODER, evaluate.measure_wide_vae)
    for name, target in {"reconstruction PSNR": ">= 38", "worst picture": ">= 34"}.items():
        yield context.row(
            "Papercut-DiT", f"autoencoder, 64 pictures: {name}", "", wide.get(f"{name}, dB"), "dB", target
        )
    size = sum(path.stat().st_size for path in WEIGHTS.glob("*.safetensors")) / 1e6
    yield context.row("Papercut", "size of all weights", "", size, "MB", "<= 48")
