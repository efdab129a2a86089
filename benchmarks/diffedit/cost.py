"""What a way of editing costs: samples of the network, seconds, and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from .diffusers_baseline import counted


class Cost(NamedTuple):
    """samples: rows of all the network's calls; largest: rows of the largest one; seconds: the median."""

    samples: int
    largest: int
    seconds: float


def costs(methods: Sequence[tuple[Callable[[], object], torch.nn.Module]], repeats: int) -> list[Cost]:
    """One cost for each method and the network that it calls. They take turns: a busy moment hits all."""
    rows: list[list[int]] = [[] for _ in methods]
    seconds: list[list[float]] = [[] for _ in methods]
    for _ in range(repeats):
        for i, (method, network) in enumerate(methods):
            with counted(network) as rows[i]:
                start = time.perf_counter()
                method()
                seconds[i].append(time.perf_counter() - start)
    return [Cost(sum(found), max(found), statistics.median(times)) for found, times in zip(rows, seconds)]


def peak_memory(method: Callable[[], object]) -> float:
    """The most that a way has allocated at one time beyond what was there before, in MB: the GPU's or the CPU's."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        method()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as run:
        method()
    now = most = 0
    for event in run.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most / 1e6
