"""The Papercut model with its edge predictor and its judges, for the benchmark of sketch guidance."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...guidance.morphology import dilate
from ...guidance.sketch.guidance import SketchRecipe
from ...papercut.data import autocast

# Outlines, and sketches of each of four further kinds: 576 in all. With half as many, three pictures were a point of
# what captions lose.
COUNT, FEW = 192, 96
AT_ONCE, STEPS, CFG, FIRST_SEED = 16, 30, 5.0, 7000
CANDIDATES, SEED_STEPS = 4, 3


class Fixtures(NamedTuple):
    """The shipped model as stock nodes give it, its edge predictor, and the judge of captions."""

    model: object
    clip: object
    vae: object
    predictor: object
    judge: object


class Tests(NamedTuple):
    """The same for all modes: scenes, captions, true outlines (B, 256, 256) bool and seeds, a row a picture."""

    scenes: list
    captions: list[str]
    edges: Tensor
    seeds: list[int]

    def first(self, count: int) -> "Tests":
        return Tests(*(part[:count] for part in self))

    def chosen(self, rows: Sequence[int]) -> "Tests":
        scenes, captions, seeds = ([part[i] for i in rows] for part in (self.scenes, self.captions, self.seeds))
        return Tests(scenes, captions, self.edges[list(rows)], seeds)


class Judged(NamedTuple):
    """Means over the test pictures, in 0..1. caption: shape and colour as the prompt says, by the classifier;
    sureness: the probability that it gives to that shape and that colour; count: of pictures; right: the scene of each
    picture, and whether its caption was met."""

    precision: float
    recall: float
    f1: float
    caption: float
    sureness: float = 0.0
    count: int = 1
    right: tuple[tuple[object, bool], ...] = ()


def load() -> Fixtures:
    from ...papercut.classifier import load_classifier
    from ...papercut.edge_quality import load_with_predictor

    return Fixtures(*load_with_predictor(), load_classifier())


def tests(count: int = COUNT) -> Tests:
    """Test scenes with one cut-out whose outline can be read off a picture."""
    from ...papercut.outlines import readable
    from ...papercut.scenes import SPLITS, sample_scene

    found = []
    for seed in SPLITS["test"]:
        scene = sample_scene(seed, objects=1)
        if readable(scene):
            found.append(scene)
        if len(found) == count:
            break
    edges = torch.stack([scene.edges() for scene in found])
    # A hundred apart, so that no two pictures have a candidate of Best Seed in common.
    return Tests(found, [scene.caption for scene in found], edges, [FIRST_SEED + 100 * i for i in range(len(found))])


def legible(fixtures: Fixtures, t: Tests) -> list[int]:
    """The numbers of the tests whose captions the judge can read at all: off the scene's own picture, as the VAE leaves
    it. Where it cannot, no way to paint that scene could be found right."""
    rows = []
    for i, scene in enumerate(t.scenes):
        picture = (
            fixtures.vae.decode(fixtures.vae.encode(scene.render().movedim(0, -1)[None])).movedim(-1, 1).clamp(0, 1)
        )
        rows += [i] if fixtures.judge.read(picture)[0].agrees(scene, "shape", "colour") else []
    return rows


def prompts(fixtures: Fixtures, captions: list[str]) -> list:
    rows = [fixtures.clip.encode_from_tokens_scheduled(fixtures.clip.tokenize(text))[0][0] for text in captions]
    return [[torch.cat(rows), {}]]


def schedule(fixtures: Fixtures, steps: int = STEPS) -> Tensor:
    import comfy.samplers

    return comfy.samplers.calculate_sigmas(fixtures.model.get_model_object("model_sampling"), "normal", steps).cpu()


def noises(seeds: list[int]) -> Tensor:
    """(B, 4, 32, 32), each row as the host draws it for that seed alone."""
    import comfy.sample

    return torch.cat([comfy.sample.prepare_noise(torch.zeros(1, 4, 32, 32), seed) for seed in seeds])


def sampled(fixtures: Fixtures, model, captions: list[str], noise: Tensor, sigmas: Tensor, latent=None) -> Tensor:
    """Latents by the host's own Euler (DDIM)."""
    import comfy.sample
    import comfy.samplers

    latent = torch.zeros_like(noise) if latent is None else latent
    conds = prompts(fixtures, captions), prompts(fixtures, [""] * len(captions))
    euler = comfy.samplers.sampler_object("euler")
    return comfy.sample.sample_custom(model, noise, CFG, euler, sigmas, *conds, latent, disable_pbar=True)


def paint(fixtures: Fixtures, model, captions: list[str], noise: Tensor, *, sigmas: Tensor, latent=None) -> Tensor:
    """Pictures (B, 3, 256, 256)."""
    made = sampled(fixtures, model, captions, noise, sigmas, latent)
    with autocast():
        return fixtures.vae.decode(made).float().movedim(-1, 1).clamp(0, 1)


def guided(fixtures: Fixtures, lines: Tensor, recipe: SketchRecipe = SketchRecipe()):
    """The MODEL guided by lines (B, 256, 256) bool."""
    from ...guidance.sketch.prepare import Strokes
    from ...host.sketch.patch import Sketch, sketch_guided

    sketch = Sketch(Strokes(lines, lines.float()))
    return sketch_guided(fixtures.model, fixtures.predictor, sketch, recipe)


def in_parts(count: int, paint_part: Callable[[slice], Tensor]) -> Tensor:
    """paint_part(slice) over 0..count, AT_ONCE pictures at a time."""
    return torch.cat([paint_part(slice(i, min(i + AT_ONCE, count))) for i in range(0, count, AT_ONCE)])


def without_guidance(fixtures: Fixtures, t: Tests, *, steps: int = STEPS) -> Tensor:
    sigmas = schedule(fixtures, steps)
    part = lambda s: paint(fixtures, fixtures.model, t.captions[s], noises(t.seeds[s]), sigmas=sigmas)
    return in_parts(len(t.scenes), part)


def with_guidance(
    fixtures: Fixtures,
    t: Tests,
    lines: Tensor,
    seeds: list[int] | None = None,
    *,
    steps: int = STEPS,
    recipe: SketchRecipe = SketchRecipe(),
) -> Tensor:
    """lines: (B, 256, 256) bool, a sketch a picture."""
    seeds, sigmas = t.seeds if seeds is None else seeds, schedule(fixtures, steps)
    part = lambda s: paint(fixtures, guided(fixtures, lines[s], recipe), t.captions[s], noises(seeds[s]), sigmas=sigmas)
    return in_parts(len(lines), part)


def sdedit(fixtures: Fixtures, t: Tests, lines: Tensor, strength: float, *, steps: int = STEPS) -> Tensor:
    """The sketch itself, dark on white, noised to `strength` of the way and painted over (arXiv 2108.01073)."""
    sigmas = schedule(fixtures, round(steps / strength))[-(steps + 1) :]
    drawn = 1 - dilate(lines, 1, "square").float()

    def part(s: slice) -> Tensor:
        with autocast():
            latent = fixtures.vae.encode(drawn[s][..., None].expand(-1, -1, -1, 3)).float()
        return paint(fixtures, fixtures.model, t.captions[s], noises(t.seeds[s]), sigmas=sigmas, latent=latent)

    return in_parts(len(lines), part)


def best_seeds(fixtures: Fixtures, t: Tests, lines: Tensor, *, recipe: SketchRecipe = SketchRecipe()) -> list[int]:
    """Best Seed's choice for each picture; the picture's own seed is the first candidate."""
    from ...nodes.best_seed import BestSeed
    from ...papercut.outlines import as_picture

    chosen, sigmas = [], schedule(fixtures)
    for i, (caption, seed) in enumerate(zip(t.captions, t.seeds)):
        drawn = lines[i : i + 1]
        out = BestSeed.execute(
            guided(fixtures, drawn, recipe),
            prompts(fixtures, [caption]),
            {"samples": torch.zeros(1, 4, 32, 32)},
            sigmas,
            seed=seed,
            candidates=CANDIDATES,
            steps=SEED_STEPS,
            cfg=CFG,
            negative=prompts(fixtures, [""]),
            edge_predictor=fixtures.predictor,
            sketch=as_picture(drawn),
            unfinished=recipe.one_sided,
        )
        chosen.append(out.args[1])
    return chosen


def judged(fixtures: Fixtures, pictures: Tensor, wanted: Tensor, scenes: list) -> Judged:
    """wanted: (B, 256, 256) bool."""
    from ...papercut.outlines import outlines_score

    score = outlines_score(pictures, wanted)
    readings = fixtures.judge.read(pictures)
    right = tuple((scene, reading.agrees(scene, "shape", "colour")) for reading, scene in zip(readings, scenes))
    caption = sum(met for _, met in right) / len(scenes)
    edges = (float(value.mean()) for value in (score.precision, score.recall, score.f1))
    return Judged(*edges, caption, sureness(fixtures.judge(pictures), scenes), len(scenes), right)


def pooled(parts: Sequence[Judged]) -> Judged:
    """The means over the pictures of all parts."""
    count = sum(part.count for part in parts)
    means = [sum(part[i] * part.count for part in parts) / count for i in range(Judged._fields.index("count"))]
    return Judged(*means, count, sum((part.right for part in parts), ()))


def error_of_loss(plain: Judged, guided: Judged) -> float:
    """The standard error of plain.caption - guided.caption, of the same sketches in the same order.

    A scene lends its picture to several sketches, so scenes are what chance draws, not sketches: with e the difference
    in a scene's sketches less what is lost on average, it is sqrt(S/(S - 1) sum e^2) / count over S scenes.
    """
    mean, over = plain.caption - guided.caption, defaultdict(float)
    for (scene, before), (same, after) in zip(plain.right, guided.right, strict=True):
        if scene != same:
            raise ValueError("The two sets of pictures are not of the same sketches.")
        over[scene] += before - after - mean
    among = len(over) / max(len(over) - 1, 1)
    return math.sqrt(among * sum(e * e for e in over.values())) / guided.count


@torch.no_grad()
def sureness(answers: Mapping[str, Tensor], scenes: list) -> float:
    """answers: the classifier's, (B, words) each before the softmax; of the right shape and colour, the mean."""
    from ...papercut.classifier import ANSWERS, truth

    sure = torch.ones(len(scenes))
    for name in ("shape", "colour"):
        right = torch.tensor([ANSWERS[name].index(truth(scene)[name]) for scene in scenes])
        sure = sure * answers[name].softmax(1).gather(1, right[:, None])[:, 0]
    return float(sure.mean())
