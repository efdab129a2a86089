"""How well an edge predictor reads edges off noisy pictures: what `evaluate.py` and the benchmarks ask."""

from pathlib import Path

import torch
from torch import Tensor

from ..guidance.sketch.predictor import EdgePredictor
from ..guidance.sketch.strokes import thin
from .edge_score import edge_score
from .networks import FILE as CHECKPOINT
from .scenes import SPLITS, sample_scene

FILE = CHECKPOINT.with_name("papercut-edges.safetensors")
FRACTIONS = (0.1, 0.3, 0.5)
"""Of a run: 0 is pure noise, 1 the picture. The first half is what guidance uses."""
FIRST = 9000
LEAST = 0.5


def load_with_predictor(path: Path = FILE) -> tuple[object, object, object, EdgePredictor]:
    """MODEL, CLIP, VAE and the predictor, as the host's nodes give them; the host must have been entered."""
    from ..guidance.sketch.files import read_predictor
    from .shipped import load_shipped

    return *load_shipped(), read_predictor(path)


def edges_found(model, clip, vae, predictor: EdgePredictor, *, count: int) -> dict[float, float]:
    """Mean F1 (0..1, two pixels) of edges predicted in noised test scenes with one cut-out, by fraction of a run."""
    from ..host.sketch.preview import predicted_edges

    scores = []
    for number, seed in enumerate(SPLITS["test"][FIRST : FIRST + count]):
        scene = sample_scene(seed, objects=1)
        tokens = clip.encode_from_tokens_scheduled(clip.tokenize(scene.caption))[0][0]
        picture = scene.render().movedim(0, -1)[None]
        seen = predicted_edges(model, vae, predictor, picture, [[tokens, {}]], FRACTIONS, number)
        wanted = scene.edges().expand(len(FRACTIONS), -1, -1)
        scores.append(edge_score(lines(seen[..., 0]), wanted).f1)
    return dict(zip(FRACTIONS, torch.stack(scores).mean(0).tolist()))


def lines(closeness: Tensor) -> Tensor:
    """Predicted closeness (B, H, W) in 0..1 -> its ridges (B, H, W) bool, thin."""
    return thin(closeness > LEAST)


def measure_edges(count: int = 60) -> dict[str, float]:
    """For the model card: what is found in test scenes, and what the training says of itself."""
    from ..tools.inprocess import enter_host

    enter_host()
    with torch.inference_mode():
        parts = load_with_predictor()
        found = edges_found(*parts, count=count)
    facts = {f"edges found at {100 * fraction:.0f} % of a run, F1": f1 for fraction, f1 in found.items()}
    spec = parts[3].spec
    count_of_cores = spec.facts.get("threads", 2)
    labels = {
        "minutes": f"minutes of training, {count_of_cores} core{'s' if count_of_cores > 1 else ''}",
        "held_out_loss": "loss on training scenes kept aside",
    }
    return facts | {"pictures": count} | {label: spec.facts[key] for key, label in labels.items() if key in spec.facts}
