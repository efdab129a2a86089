"""What sketch guidance costs: time and memory at Stable Diffusion 1's size (random weights) and on Papercut."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ...guidance.sketch.guidance import SketchRecipe
from ..random_sd1 import stable_diffusion_1
from ..results import Row
from .fixtures import STEPS, Fixtures, Tests, guided, noises, sampled, schedule

TURNS = 7
TRAINING_STEPS = 12
PREDICTED = 12
RECIPES = {"fast": SketchRecipe(), "faster": SketchRecipe(renew=0.045), "faithful": SketchRecipe.faithful()}
"""By mode: the nodes' defaults, with kept gradients too, and the paper's step; the target is the defaults'."""
TARGETS = {"fast": "<= 1.3"}
SIZE_MODES = ("fast",)
LARGE, LARGEST = 24, 64
"""Sides of the latent at Stable Diffusion 1's size: for whole runs on a CPU, and its own."""
STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def seconds_each(runs: Mapping[str, Callable[[], object]], turns: int, *, warm: bool = True) -> dict[str, float]:
    """Median time of each run, taking turns in one process. warm: a turn before the others warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(0 if warm else 1, turns + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def papercut_rows(context, technique: str, measure: str, fixtures: Fixtures | None, t: Tests | None) -> Iterator[Row]:
    for batch, modes in ((1, tuple(RECIPES)), (4, ("fast",))):
        seconds = None
        if fixtures is not None:
            some = t.first(batch)
            run = partial(
                sampled, fixtures, captions=some.captions, noise=noises(some.seeds), sigmas=schedule(fixtures, STEPS)
            )
            models = {"plain": fixtures.model}
            models |= {mode: guided(fixtures, some.edges, RECIPES[mode]) for mode in modes}
            runs = {name: partial(run, model) for name, model in models.items()}
            seconds = seconds_each(runs, TURNS if batch == 1 else 1)
        name = f"{measure}, Papercut, {batch} picture{'s' if batch > 1 else ''}"
        for mode in modes:
            ratio = None if seconds is None else seconds[mode] / seconds["plain"]
            yield context.row(technique, name, mode, ratio, "times", TARGETS.get(mode, ""))
    yield from papercut_memory(context, technique, fixtures, t)


def papercut_memory(context, technique: str, fixtures: Fixtures | None, t: Tests | None) -> Iterator[Row]:
    """What a step takes beside the weights."""
    peaks: dict[str, float | None] = {"no guidance": None, "fast": None}
    if fixtures is not None:
        one, sigmas = t.first(1), schedule(fixtures)[:2]
        run = partial(sampled, fixtures, captions=one.captions, noise=noises(one.seeds), sigmas=sigmas)
        models = {"no guidance": fixtures.model, "fast": guided(fixtures, one.edges)}
        peaks = {mode: peak_memory(partial(run, model), context.gpu) for mode, model in models.items()}
    for mode, peak in peaks.items():
        yield context.row(technique, "peak memory of a step beside the weights, Papercut", mode, peak, "MiB")


class Large:
    """A model of SD1's size with a predictor of the paper's size, both of random weights, and a sketch."""

    def __init__(self, side: int):
        """side: of the latent."""
        from ...guidance.sketch.predictor import EdgePredictor, PredictorSpec, frozen, new_network
        from ...host.sketch.layers import layout

        self.model, self.side = stable_diffusion_1(), side
        widths = {"input.2": 320, "input.4": 640, "output.8": 640}
        taps = layout(self.model.model.diffusion_model)
        channels = tuple(widths.get(tap, 1280) for tap in taps)
        spec = PredictorSpec(
            family="sd1", latent_format="SD15", taps=taps, channels=channels, detail=2, sigma_high=15.0
        )
        self.predictor = EdgePredictor(spec, frozen(new_network(spec)))
        draw = lambda seed: torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(seed))
        self.conds = [[draw(0), {}]], [[draw(1), {}]]

    def guided(self, recipe: SketchRecipe):
        from ...guidance.sketch.prepare import Strokes
        from ...host.sketch.patch import Sketch, sketch_guided

        lines = torch.zeros(1, 8 * self.side, 8 * self.side, dtype=torch.bool)
        lines[:, 4 * self.side, 20:-20] = True
        return sketch_guided(self.model, self.predictor, Sketch(Strokes(lines, lines.float())), recipe)

    def levels(self, steps: int) -> Tensor:
        import comfy.samplers

        return comfy.samplers.calculate_sigmas(self.model.get_model_object("model_sampling"), "normal", steps)

    def run(self, model, sigmas: Tensor) -> Tensor:
        import comfy.sample
        import comfy.samplers

        latent = torch.zeros(1, 4, self.side, self.side)
        euler = comfy.samplers.sampler_object("euler")
        noise = comfy.sample.prepare_noise(latent, 0)
        return comfy.sample.sample_custom(model, noise, 7.5, euler, sigmas, *self.conds, latent, disable_pbar=True)


def size_ratios(large: Large, turns: int) -> dict[str, float]:
    """A guided run of STEPS steps, half of them guided, beside the plain ones before and after it, by mode.

    These runs take minutes: what else the machine does in that time is then counted on both sides.
    """
    models = {"plain": large.model} | {mode: large.guided(RECIPES[mode]) for mode in SIZE_MODES}
    models["plain again"] = large.model
    for model in models.values():
        large.run(model, large.levels(STEPS)[:2])
    runs = {name: partial(large.run, model, large.levels(STEPS)) for name, model in models.items()}
    seconds = seconds_each(runs, turns, warm=False)
    plain = (seconds["plain"] + seconds["plain again"]) / 2
    return {mode: seconds[mode] / plain for mode in SIZE_MODES}


def size_rows(context, technique: str, measure: str) -> Iterator[Row]:
    """Time, and the memory that a guided step takes and that its graph holds on to."""
    large = Large(LARGEST if context.gpu else LARGE)
    for mode, ratio in size_ratios(large, 5 if context.gpu else 1).items():
        yield context.row(technique, f"{measure}, SD1 size", mode, ratio, "times", TARGETS[mode])
    large.side = LARGEST
    size = f"at {8 * large.side} x {8 * large.side}, SD1 size"
    models, one = {"no guidance": large.model, "fast": large.guided(SketchRecipe(end=1.0))}, large.levels(2)[:2]
    for mode, model in models.items():
        peak = peak_memory(partial(large.run, model, one), context.gpu)
        yield context.row(technique, f"peak memory of a step beside the weights {size}", mode, peak, "MiB")
    kept = kept_for_backward(large, one) / 2**20
    yield context.row(technique, f"activations kept for backward {size}", "fast", kept, "MiB")


def kept_for_backward(large: Large, levels: Tensor) -> int:
    """Bytes of all tensors that autograd saves in one guided step, each storage once, without the weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in large.model.model.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        large.run(large.guided(SketchRecipe(end=1.0)), levels)
    return sum(seen.values())


def peak_memory(run: Callable[[], object], gpu: bool) -> float | None:
    """MiB by which the memory in use rises in a run: on a GPU what torch holds, on a CPU what the process does."""
    if not gpu:
        return resident_peak(run)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def resident_peak(run: Callable[[], object]) -> float | None:
    """MiB by which resident memory rises while `run` runs; None on other systems than Linux."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not hide what is taken now
        REFERENCES.write_text("5", encoding="ascii")  # proc(5): the high-water mark starts anew
    except (OSError, AttributeError, TypeError):
        return None
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    """A line of the process's status, in KiB."""
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def first_layer_row(context, technique: str) -> Row:
    """How many times fewer operations the predictor's first and widest layer takes by being applied before the features
    are enlarged; counted on the features of Stable Diffusion 1 at 512 x 512."""
    from ...guidance.sketch.predictor import WIDTHS, EdgeNetwork

    maps = ((320, 64), (640, 32), (1280, 16), (1280, 8), (1280, 8), (1280, 8), (1280, 16), (1280, 16), (640, 64))
    with torch.device("meta"):
        network = EdgeNetwork([channels for channels, _ in maps], 1)
        features = [torch.empty(1, channels, side, side) for channels, side in maps]
        enlarged = torch.empty(1, sum(channels for channels, _ in maps), 64, 64)
        wide = torch.empty(WIDTHS[0], enlarged.shape[1], 1, 1)
    after = operations(lambda: F.conv2d(enlarged, wide))
    ratio = after / operations(lambda: network.first_layer(features, (64, 64)))
    name = "operations of the first layer after the enlargement beside before it, SD1 at 512 x 512"
    return context.row(technique, name, "fast", ratio, "times", ">= 6")


def operations(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def training_rows(context, technique: str, fixtures: Fixtures | None) -> Iterator[Row]:
    """Pictures a second that Edge Predictor Train learns from; what the shipped predictor's training took and gave."""
    from ...papercut.edge_quality import FRACTIONS, edges_found

    speed = None if fixtures is None else pictures_a_second(fixtures)
    yield context.row(technique, "training throughput on Papercut", "fast", speed, "pictures/s")
    facts = {} if fixtures is None else fixtures.predictor.spec.facts
    for key, measure, unit, target in (
        ("pictures", "pictures that the shipped predictor learned from", "", "<= 200"),
        ("minutes", "training of the shipped predictor, at most two cores", "min", "<= 10"),
        ("held_out_loss", "loss of the shipped predictor on pictures kept aside", "", ""),
    ):
        yield context.row(technique, measure, "fast", facts.get(key), unit, target)
    found = {} if fixtures is None else edges_found(*fixtures[:4], count=PREDICTED)
    for fraction in FRACTIONS:
        value = 100 * found[fraction] if found else None
        yield context.row(technique, f"edges predicted at {100 * fraction:.0f} % of a run: F1", "fast", value, "%")


def pictures_a_second(fixtures: Fixtures) -> float:
    from ...guidance.sketch.examples import Examples, TrainingRecipe
    from ...host.sketch.examples import make_examples
    from ...host.sketch.training import EdgeTraining, LevelRange, new_spec
    from ...papercut.outlines import as_picture
    from ...papercut.scenes import SPLITS, sample_scene

    levels = LevelRange(fixtures.model.get_model_object("model_sampling"), 0.0, 0.8)
    spec = new_spec(fixtures.model, levels, detail=fixtures.predictor.spec.detail)
    drawn = [sample_scene(seed) for seed in SPLITS["validation"][:8]]
    pictures = [scene.render().movedim(0, -1)[None] for scene in drawn]
    edges = [as_picture(scene.edges()[None]) for scene in drawn]
    empty = fixtures.clip.encode_from_tokens_scheduled(fixtures.clip.tokenize(""))
    plain = [[empty[0][0], {}]]
    found = make_examples(fixtures.model, fixtures.vae, spec, pictures, edges, 1, flips=False)
    recipe = TrainingRecipe(steps=TRAINING_STEPS, batch=8, held_out=0.0)
    training = EdgeTraining(fixtures.model, spec, Examples(found, recipe), levels, [plain], plain)
    start = time.perf_counter()
    training.run()
    return TRAINING_STEPS * recipe.batch / (time.perf_counter() - start)
