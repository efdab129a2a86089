"""What each technique costs beside plain sampling, at 512 and 1024 pixels: on Papercut, and on a random network of
Stable Diffusion 1's size.

Memory is measured: the most that the process takes in a run of two steps. Time is computed: the samples that the
network is asked for in STEPS steps, counted, times what one takes with and without a gradient, measured. What a
technique does outside of the network is left out; short runs on Papercut, measured whole, show how much that is.
Seconds are those of the processor where there is no GPU, so that what else the machine does is not counted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from ...papercut.edge_quality import FILE as EDGES
from ...papercut.networks import FILE
from ..results import Row
from ..sketch.cost import Large, peak_memory
from .table import MEMORY, PAPERCUT, SD1, SIZES, STEPS, TECHNIQUE, TIME
from .techniques import BRIEF, TECHNIQUES, Subject, plain

FEW = 4
PLAIN = "plain sampling"
# The side of the latents on which calls are counted, which are the same at any size.
SMALL = 8
# Works on decoded pictures, so that the network's calls say little of its time.
BEYOND = ("Flow Guidance Sampler",)
# Of Stable Diffusion 1's size at 1024 x 1024, where a step takes minutes of a CPU.
AT_MOST = ("DDIM Invert", "Prompt-to-Prompt, one edit", "Edge Predictor Guidance")
TURNS = {PAPERCUT: 3, SD1: 1}


class Calls(NamedTuple):
    """Samples that a network is asked for, without and with a gradient."""

    without: int | None
    gradient: int | None


class CallTime(NamedTuple):
    """Seconds of one sample without a gradient, and with one and its backward pass."""

    without: float
    gradient: float

    def of(self, calls: Calls) -> float:
        return sum(count * seconds for count, seconds in zip(calls, self))


def counted(subject: Subject, run: Callable[[Subject], object]) -> Calls:
    from comfy.patcher_extension import WrappersMP

    rows = {False: 0, True: 0}

    def call(executor, x, *args, **kwargs):
        rows[torch.is_grad_enabled() and not torch.is_inference_mode_enabled()] += x.shape[0]
        return executor(x, *args, **kwargs)

    model = subject.model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "count", call)
    run(replace(subject, model=model))
    return Calls(rows[False], rows[True])


def seconds(run: Callable[[], object]) -> float:
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    start = clock()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def call_time(subject: Subject, turns: int) -> CallTime:
    from comfy.model_management import get_torch_device, load_models_gpu

    load_models_gpu([subject.model])
    network, device = subject.model.model.diffusion_model, get_torch_device()
    kind = subject.model.model.get_dtype()
    latent, context = (one.to(device, kind) for one in (subject.latent, subject.prompt(0)[0][0]))
    level = torch.tensor([500.0], device=device)

    def forward() -> None:
        with torch.inference_mode():
            network(latent, level, context)

    def backward() -> None:
        with torch.inference_mode(False), torch.enable_grad():
            start = latent.clone().requires_grad_(True)
            network(start, level.clone(), context.clone()).square().sum().backward()

    return CallTime(*(statistics.median(seconds(run) for _ in range(turns)) for run in (forward, backward)))


def papercut() -> Subject:
    from ...papercut.edge_quality import load_with_predictor

    model, clip, vae, predictor = load_with_predictor()
    return Subject(model, predictor, 192, vae, clip, SIZES[0] // 8, STEPS)


def of_sd1_size(like: Subject) -> Subject:
    with torch.inference_mode(False):
        large = Large(SIZES[0] // 8)
    return replace(like, model=large.model, predictor=large.predictor, width=768)


def time_rows(context, where: str, calls: Mapping[str, Calls], cost: CallTime | None) -> Iterator[Row]:
    for name in TECHNIQUES:
        ratio = cost.of(calls[name]) / cost.of(calls[PLAIN]) if cost and name not in BEYOND else None
        yield context.row(TECHNIQUE, f"{where}: {TIME}", name, ratio, "times")
    ratio = cost and cost.gradient / cost.without
    yield context.row(TECHNIQUE, f"{where}: a sample with its gradient beside one without", "a call", ratio, "times")
    yield context.row(TECHNIQUE, f"{where}: a sample", "a call", cost and cost.without, "s")


def memory_rows(context, where: str, subject: Subject | None, names: Iterable[str]) -> Iterator[Row]:
    take = lambda run: peak_memory(partial(run, replace(subject, steps=2)), context.gpu)
    base = None if subject is None else take(plain)
    yield context.row(TECHNIQUE, f"{where}: peak memory beside the weights, measured", PLAIN, base, "MiB")
    for name, run in BRIEF.items():
        ratio = take(run) / base if base and name in names else None
        yield context.row(TECHNIQUE, f"{where}: {MEMORY}", name, ratio, "times")


def count_rows(context, calls: Mapping[str, Calls]) -> Iterator[Row]:
    for name in (PLAIN, *TECHNIQUES):
        found = calls.get(name, Calls(None, None))
        for kind, value in zip(("without a gradient", "with a gradient"), found):
            yield context.row(TECHNIQUE, f"samples of the network in {STEPS} steps, {kind}", name, value, "")


def whole_runs(context, where: str, subject: Subject | None, cost: CallTime | None) -> Iterator[Row]:
    """Short runs measured whole, and as they are computed."""
    few, runs = subject and replace(subject, steps=FEW), {PLAIN: plain, **BRIEF}
    taken = {name: seconds(partial(run, few)) for name, run in runs.items()} if few else {}
    calls = {name: counted(replace(few, side=SMALL), run) for name, run in runs.items()} if few else {}
    for name in BRIEF:
        ratio = taken[name] / taken[PLAIN] if taken else None
        yield context.row(TECHNIQUE, f"{where}: time of {FEW} steps, measured", name, ratio, "times")
        ratio = cost.of(calls[name]) / cost.of(calls[PLAIN]) if calls else None
        yield context.row(TECHNIQUE, f"{where}: time of {FEW} steps, computed", name, ratio, "times")


def rows(context) -> Iterable[Row]:
    with torch.inference_mode():
        subject = papercut() if FILE.exists() and EDGES.exists() else None
        small, runs = subject and replace(subject, side=SMALL), {PLAIN: plain, **TECHNIQUES}
        calls = {name: counted(small, run) for name, run in runs.items()} if small else {}
        yield from count_rows(context, calls)
        for kind, make in ((PAPERCUT, lambda one: one), (SD1, of_sd1_size)):
            one = subject and make(subject)
            for size in SIZES:
                where, sized = f"{kind}, {size} x {size}", one and replace(one, side=size // 8)
                cost = sized and call_time(sized, TURNS[kind])
                yield from time_rows(context, where, calls, cost)
                if (kind, size) == (PAPERCUT, SIZES[0]):
                    yield from whole_runs(context, where, sized, cost)
                names = AT_MOST if (kind, size) == (SD1, SIZES[1]) and not context.gpu else TECHNIQUES
                yield from memory_rows(context, where, sized, names)
