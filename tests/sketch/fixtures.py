"""Predictors and sketches for tiny models: random weights, real taps."""

import torch
from palimpsest.guidance.sketch.predictor import EdgePredictor, PredictorSpec, frozen, new_network
from palimpsest.guidance.sketch.prepare import Strokes
from palimpsest.host.family import diffusion_model, latent_format_name, model_family
from palimpsest.host.sketch.layers import layout
from palimpsest.host.unet_features import sketch_layers


def channels_of(model) -> dict[str, int]:
    """The width of each layer that can be read, from the layer's own weights."""
    found = {}
    for name, layer in sketch_layers(diffusion_model(model)).items():
        for kind in ("out_channels", "channels"):
            if hasattr(layer, kind):
                found[name] = int(getattr(layer, kind))
        if hasattr(layer, "proj_out"):
            found[name] = layer.proj_out.weight.shape[0]
    return found


def tiny_predictor(model, *, seed: int = 0, taps=None, **changes) -> EdgePredictor:
    """A predictor of random weights that fits a tiny MODEL."""
    taps = tuple(taps or layout(diffusion_model(model)))
    widths = channels_of(model)
    facts = dict(
        family=model_family(model),
        latent_format=latent_format_name(model),
        taps=taps,
        channels=tuple(widths[name] for name in taps),
        widths=(24, 16),
        sigma_high=15.0,
    )
    spec = PredictorSpec(**{**facts, **changes})
    return EdgePredictor(spec, frozen(new_network(spec, seed)))


def drawing(size: int = 64, rows: int = 1) -> Strokes:
    """A cross in each picture, shifted from row to row."""
    lines = torch.zeros(rows, size, size, dtype=torch.bool)
    for row in range(rows):
        lines[row, size // 4 + 3 * row, 8:-8] = True
        lines[row, 8:-8, size // 3 + 5 * row] = True
    return Strokes(lines, lines.float())
