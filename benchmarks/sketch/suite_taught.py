"""Sketch guidance with a predictor that was taught by what the model itself paints, beside the shipped one, which knows
the exact edges of drawn scenes. Validation scenes with one cut-out; the predictor comes from the blueprint Train an
Edge Predictor, run as a user runs it, with Papercut's captions as its prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...papercut.edge_quality import FILE as EDGES
from ...papercut.networks import FILE
from ..context import every_core
from ..results import Row, error_of_mean
from .fixtures import FIRST_SEED, Fixtures, Tests, judged, load, with_guidance

TECHNIQUE = "Sketch guidance, taught by the model's own pictures"
TECHNIQUES = (TECHNIQUE,)
TEST_SPLIT = False
SHIPPED, TAUGHT = "shipped predictor", "taught by the model"
KINDS = ("outline", "wobbled")
SCENES, STEPS, PICTURES = 32, 20, 100
FIRST = 600_000  # of the training scenes: their captions alone are used
ROWS_OF_CFG = 2
TRAIN = "PalimpsestEdgePredictorTrain"
# Less than a third of the blueprint's own 1000 steps of 8, which take an hour of one core.
LEARNING, BATCH = 600, 4


class Lesson(NamedTuple):
    """What the blueprint made. work: samples x model calls of painting and learning beside those of Edge Predictor
    Train as it is set."""

    predictor: object
    minutes: float
    work: float


def asked(info: dict) -> dict:
    """The blueprint's prompt, from which programs run it, with a short learning."""
    from ...tools.blueprint_paintings import train_predictor
    from ...tools.blueprint_templates import for_programs

    prompt = for_programs(train_predictor(info), info)
    given = {
        "checkpoint": FILE.name, "prompts": "\n".join(captions()), "pictures": PICTURES, "width": 256, "height": 256,
        "cfg": 5.0, "file": "taught", "learning": LEARNING,
    }  # fmt: skip
    for node in prompt.values():
        controls = node["_meta"].get("controls", {})
        node["inputs"].update({inner: given[name] for inner, name in controls.items() if name in given})
        if node["class_type"] == TRAIN:
            node["inputs"]["batch_size"] = BATCH
    return prompt


def lesson(host) -> Lesson:
    """Runs the blueprint in a real host."""
    from ...guidance.sketch.files import read_predictor

    info = host.client.object_info()
    prompt = asked(info)
    result = host.client.run(prompt, timeout=7200.0)
    if result.status != "success":
        raise RuntimeError(f"The blueprint failed: {result.error}")
    made = max((Path(host.base) / "output" / "edge_predictors").glob("taught_*"))
    return Lesson(read_predictor(made), result.seconds / 60, work(prompt, as_set(info)))


def work(prompt: dict, beside: int | None = None) -> float:
    """Samples x model calls of the whole prompt beside those of a training (None: of its own)."""
    of = {node["class_type"]: node["inputs"] for node in prompt.values()}
    learning = of[TRAIN]["steps"] * of[TRAIN]["batch_size"]
    painting = of["PalimpsestPromptList"]["count"] * of["KSampler"]["steps"] * ROWS_OF_CFG
    return (painting + learning) / (beside or learning)


def as_set(info: dict) -> int:
    """Samples of Edge Predictor Train as it is set."""
    inputs = info[TRAIN]["input"]["required"]
    return inputs["steps"][1]["default"] * inputs["batch_size"][1]["default"]


def captions() -> list[str]:
    from ...papercut.scenes import SPLITS, sample_scene

    return [sample_scene(seed, objects=1).caption for seed in SPLITS["train"][FIRST : FIRST + PICTURES]]


def validation() -> Tests:
    """Scenes whose outline can be read off a picture."""
    from ...papercut.outlines import readable
    from ...papercut.scenes import SPLITS, sample_scene

    scenes = (sample_scene(seed, objects=1) for seed in SPLITS["validation"])
    found = list(islice(filter(readable, scenes), SCENES))
    edges = torch.stack([scene.edges() for scene in found])
    return Tests(found, [scene.caption for scene in found], edges, [FIRST_SEED + 100 * i for i in range(SCENES)])


def followed(fixtures: Fixtures, t: Tests) -> tuple[Tensor, float]:
    """(F1 of each scene, (B,) in 0..1; captions met, 0..1), means over the kinds of sketches."""
    from ...papercut.outlines import SKETCHES, outlines_score

    scores, met = [], []
    for kind in KINDS:
        lines = torch.stack([SKETCHES[kind](edges, seed) for edges, seed in zip(t.edges, t.seeds)])
        pictures = with_guidance(fixtures, t, lines, steps=STEPS)
        scores.append(outlines_score(pictures, lines).f1)
        met.append(judged(fixtures, pictures, lines, t.scenes).caption)
    return torch.stack(scores).mean(0), sum(met) / len(met)


def compared(context, found: dict[str, tuple[Tensor, float]]) -> Iterator[Row]:
    """found: by mode, empty where nothing could be painted."""
    sketches = len(KINDS) * SCENES if found else None
    yield context.row(TECHNIQUE, "validation sketches", TAUGHT, sketches, "")
    for mode in (SHIPPED, TAUGHT):
        f1, met = found.get(mode, (None, None))
        yield context.row(TECHNIQUE, "edge F1", mode, None if f1 is None else 100 * float(f1.mean()), "%")
        yield context.row(TECHNIQUE, "caption success", mode, None if met is None else 100 * met, "%")
    behind = (100 * (found[SHIPPED][0] - found[TAUGHT][0])).tolist() if found else []
    mean = sum(behind) / len(behind) if behind else None
    yield context.row(TECHNIQUE, "edge F1 behind the shipped predictor's", TAUGHT, mean, "points", "<= 3")
    error = error_of_mean(behind)
    yield context.row(TECHNIQUE, "edge F1 behind the shipped predictor's, standard error", TAUGHT, error, "points")


def rows(context) -> Iterable[Row]:
    made, found = None, {}
    if FILE.exists() and EDGES.exists():
        made = lesson(context.host)
        with torch.inference_mode(), every_core():
            fixtures, t = load(), validation()
            for mode, predictor in ((SHIPPED, fixtures.predictor), (TAUGHT, made.predictor)):
                found[mode] = followed(fixtures._replace(predictor=predictor), t)
    yield from compared(context, found)
    measure = "samples x model calls of painting and learning beside Edge Predictor Train as it is set"
    yield context.row(TECHNIQUE, measure, TAUGHT, made and made.work, "times", "<= 2")
    yield context.row(TECHNIQUE, "pictures painted", TAUGHT, made and PICTURES, "")
    yield context.row(TECHNIQUE, "painting and learning, one core", TAUGHT, made and made.minutes, "min")
