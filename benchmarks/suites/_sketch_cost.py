"""What sketch guidance costs: time and memory at Stable Diffusion 1's size (random weights) and on Papercut."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from ..rows import Row
from ._sketch_world import Tests, World, guided, noises, sampled, schedule
from .inversion import stable_diffusion_1

STEPS, TURNS = 30, 1
SIZE_STEPS, SIZE_TURNS = 4, 1
TRAINING_STEPS = 12
BATCHES, PREDICTED = (1, 4), 20


def time_ratio(run_plain, run_guided, turns: int) -> float:
    """Median time of a guided run beside the plain one, taking turns in one process."""
    seconds: dict[str, list[float]] = {"plain": [], "guided": []}
    for turn in range(turns + 1):
        for name, run in (("plain", run_plain), ("guided", run_guided)):
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return statistics.median(seconds["guided"]) / statistics.median(seconds["plain"])


def papercut_rows(context, technique: str, measure: str, world: World | None, t: Tests | None) -> Iterator[Row]:
    for batch in BATCHES:
        ratio = None
        if world is not None:
            some = t.first(batch)
            run = partial(
                sampled, world, captions=some.captions, noise=noises(some.seeds), sigmas=schedule(world, STEPS)
            )
            ratio = time_ratio(lambda: run(world.model), lambda: run(guided(world, some.edges)), TURNS)
        name = f"{measure}, Papercut, {batch} picture{'s' if batch > 1 else ''}"
        yield context.row(technique, name, "fast", ratio, "times", "<= 1.3")


class Large:
    """A model of SD1's size with a predictor of the paper's size, both of random weights, and a sketch."""

    def __init__(self, gpu: bool):
        from ...guidance.edge_predictor import EdgePredictor, PredictorSpec, frozen, new_network
        from ...host.edge_layers import layout

        self.model = stable_diffusion_1()
        self.side = 64 if gpu else 32  # on a CPU a quarter of the usual latent, to end in time; the shares are alike
        widths = {"input.2": 320, "input.4": 640, "output.8": 640}
        taps = layout(self.model.model.diffusion_model)
        channels = tuple(widths.get(tap, 1280) for tap in taps)
        spec = PredictorSpec("sd1", "SD15", taps, channels, detail=2, sigma_high=15.0)
        self.predictor = EdgePredictor(spec, frozen(new_network(spec)))
        draw = lambda seed: torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(seed))
        self.conds = [[draw(0), {}]], [[draw(1), {}]]

    def guided(self, end: float):
        from ...guidance.sketch_guidance import SketchRecipe
        from ...guidance.sketch_prepare import Strokes
        from ...host.sketch import Sketch, sketch_guided

        lines = torch.zeros(1, 8 * self.side, 8 * self.side, dtype=torch.bool)
        lines[:, 4 * self.side, 20:-20] = True
        sketch = Sketch(Strokes(lines, lines.float()))
        return sketch_guided(self.model, self.predictor, sketch, SketchRecipe(end=end))

    def run(self, model, steps: int) -> Tensor:
        import comfy.sample
        import comfy.samplers

        latent = torch.zeros(1, 4, self.side, self.side)
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)
        euler = comfy.samplers.sampler_object("euler")
        noise = comfy.sample.prepare_noise(latent, 0)
        return comfy.sample.sample_custom(model, noise, 7.5, euler, sigmas, *self.conds, latent, disable_pbar=True)


def size_rows(context, technique: str, measure: str) -> Iterator[Row]:
    """Time, and the memory that the graph of a guided step holds on to."""
    large = Large(context.gpu)
    steps, turns = (STEPS, 5) if context.gpu else (SIZE_STEPS, SIZE_TURNS)
    ratio = time_ratio(lambda: large.run(large.model, steps), lambda: large.run(large.guided(0.5), steps), turns)
    yield context.row(technique, f"{measure}, SD1 size", "fast", ratio, "times", "<= 1.3")
    name = f"activations kept for backward at {8 * large.side} x {8 * large.side}, SD1 size"
    yield context.row(technique, name, "fast", kept_for_backward(large) / 2**20, "MiB")
    peak = lambda: peak_memory(large) / 2**20
    yield context.gpu_row(technique, "peak memory added by guidance at 512 x 512, SD1 size", "fast", peak, "MiB")


def kept_for_backward(large: Large) -> int:
    """Bytes of all tensors that autograd saves in one guided step, each storage once, without the weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in large.model.model.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        large.run(large.guided(1.0), 1)
    return sum(seen.values())


def peak_memory(large: Large) -> int:
    """Bytes by which the peak of a guided run lies above that of the plain one."""
    peaks = []
    for model in (large.model, large.guided(1.0)):
        torch.cuda.reset_peak_memory_stats()
        large.run(model, 2)
        peaks.append(torch.cuda.max_memory_allocated())
    return peaks[1] - peaks[0]


def training_rows(context, technique: str, world: World | None) -> Iterator[Row]:
    """Pictures a second that Edge Predictor Train learns from; what the shipped predictor's training took and gave."""
    from ...papercut.edge_quality import SHARES, edges_found

    speed = None if world is None else pictures_a_second(world)
    yield context.row(technique, "training throughput on Papercut", "fast", speed, "pictures/s")
    facts = {} if world is None else world.predictor.spec.facts
    for key, measure, unit, target in (
        ("pictures", "pictures that the shipped predictor learned from", "", "<= 200"),
        ("minutes", "training of the shipped predictor, two cores", "min", "<= 10"),
        ("held_out_loss", "loss of the shipped predictor on pictures kept aside", "", ""),
    ):
        yield context.row(technique, measure, "fast", facts.get(key), unit, target)
    found = {} if world is None else edges_found(*world[:4], count=PREDICTED)
    for share in SHARES:
        value = 100 * found[share] if found else None
        yield context.row(technique, f"edges predicted at {100 * share:.0f} % of a run: F1", "fast", value, "%")


def pictures_a_second(world: World) -> float:
    from ...guidance.edge_examples import Examples, TrainingRecipe
    from ...host.edge_examples import make_examples
    from ...host.edge_training import EdgeTraining, LevelRange, new_spec
    from ...papercut.outlines import as_picture
    from ...papercut.scenes import SPLITS, sample_scene

    levels = LevelRange(world.model.get_model_object("model_sampling"), 0.0, 0.8)
    spec = new_spec(world.model, levels, detail=world.predictor.spec.detail)
    drawn = [sample_scene(seed) for seed in SPLITS["validation"][:8]]
    pictures = [scene.render().movedim(0, -1)[None] for scene in drawn]
    edges = [as_picture(scene.edges()[None]) for scene in drawn]
    empty = world.clip.encode_from_tokens_scheduled(world.clip.tokenize(""))
    plain = [[empty[0][0], {}]]
    found = make_examples(world.model, world.vae, spec, pictures, edges, 1, flips=False)
    recipe = TrainingRecipe(steps=TRAINING_STEPS, batch=8, held_out=0.0)
    training = EdgeTraining(world.model, spec, Examples(found, recipe), levels, [plain], plain)
    start = time.perf_counter()
    training.run()
    return TRAINING_STEPS * recipe.batch / (time.perf_counter() - start)
