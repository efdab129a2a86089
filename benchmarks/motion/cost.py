"""What a motion costs: calls, arithmetic and time of the fast and the faithful mode, in one run.

The paper's 500 levels with 10 recursions are days of a CPU; the faithful runs here are as long as a CPU allows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..results import Row, mean
from .fixtures import Fixtures, Item, faithful, fast, verdict
from .judge import Verdict

FAITHFUL_STEPS, RECURSION = 16, 5
PAPER_EVALUATIONS = 500 * 10
SIZE, SIZE_STEPS = 512, 20


class Cost(NamedTuple):
    """One mode on one motion. flow: pixels between the asked flow and the estimated one, None without a network."""

    record: object
    operations: float
    seconds: float
    seen: Verdict
    flow: float | None


def flow_error(fixtures: Fixtures, item: Item, picture: Tensor) -> float | None:
    """Mean distance in pixels of what the flow network sees and what was asked, over what moves and can be seen."""
    from ...host.motion.optical_flow import estimate_each

    if fixtures.optical_flow is None:
        return None
    # The host may have moved the network: it is loaded again, and the pictures go where it is.
    found = estimate_each(fixtures.optical_flow, item.judge.source[None], picture[None])
    seen = (item.asked.flow != 0).any(-1) & ~item.asked.landing.occluded
    return float((found - item.asked.flow).norm(dim=-1)[seen].mean())


def measured(fixtures: Fixtures, item: Item, run: Callable[[], tuple[Tensor, object]]) -> Cost:
    """A run under the counter of operations, whose time is the run's own (the counter adds about a hundredth)."""
    start = time.perf_counter()
    with FlopCounterMode(display=False) as counter:
        picture, sampler = run()
    seconds, operations = time.perf_counter() - start, float(counter.get_total_flops())
    return Cost(sampler.record, operations, seconds, verdict(item, picture), flow_error(fixtures, item, picture))


def both(fixtures: Fixtures, items: list[Item]) -> dict[str, list[Cost]]:
    """The same motions in all modes; the flow network, where there is one, guides in the second and the third."""
    network = {"optical_flow": fixtures.optical_flow}
    methods = {
        "fast": lambda item: fast(fixtures, item),
        "fast, flow network": lambda item: fast(fixtures, item, **network),
        "faithful": lambda item: faithful(fixtures, item, FAITHFUL_STEPS, recursion=RECURSION, **network),
    }
    if fixtures.optical_flow is None:
        del methods["fast, flow network"]
    return {
        mode: [measured(fixtures, item, lambda: method(item)) for item in items] for mode, method in methods.items()
    }


COUNTS = {
    "evaluations of the model": "model_calls", "gradients through the model": "model_gradients",
    "calls of the decoder": "decodes", "gradients through the decoder": "decoder_gradients",
    "calls of the flow network": "flow_calls", "gradients through the flow network": "flow_gradients",
}  # fmt: skip
SEEN = {"goal": "px", "colour": "L1", "old_place": "L1", "background": "dB"}


def cost_rows(context, technique: str, fixtures: Fixtures | None, items: list[Item]) -> Iterator[Row]:
    costs = dict.fromkeys(("fast", "fast, flow network", "faithful"), ()) | (both(fixtures, items) if items else {})
    over = lambda mode, get: mean(get(cost) for cost in costs[mode])
    for mode in costs:
        for measure, name in COUNTS.items():
            yield context.row(technique, measure, mode, over(mode, lambda c, n=name: getattr(c.record, n)), "")
        yield context.row(technique, "arithmetic", mode, over(mode, lambda c: c.operations / 1e12), "TFLOP")
        yield context.row(technique, "time", mode, over(mode, lambda c: c.seconds), "s")
        yield context.row(technique, "flow error, same motions", mode, over(mode, lambda c: c.flow), "px")
        for name, unit in SEEN.items():
            value = over(mode, lambda c, n=name: getattr(c.seen, n))
            yield context.row(technique, f"{name.replace('_', ' ')}, same motions", mode, value, unit)
    yield from beside_faithful(context, technique, over)


def beside_faithful(context, technique: str, over: Callable) -> Iterator[Row]:
    """Fast beside faithful. The targets are those of the fast mode that has the flow network, as the faithful has."""
    run = f"{FAITHFUL_STEPS * RECURSION} faithful evaluations"
    whole = over("faithful", lambda c: c.operations / max(c.record.model_calls, 1) * PAPER_EVALUATIONS)
    for mode, (least, most) in {"fast": ("", ""), "fast, flow network": (">= 20", "<= 1")}.items():
        ratio = lambda get, m=mode: _ratio(over("faithful", get), over(m, get))
        row = lambda measure, value, unit, target="", m=mode: context.row(technique, measure, m, value, unit, target)
        yield row(f"arithmetic saved beside {run}", ratio(lambda c: c.operations), "times", least)
        yield row(f"time saved beside {run}", ratio(lambda c: c.seconds), "times")
        error = _ratio(over(mode, lambda c: c.flow), over("faithful", lambda c: c.flow))
        yield row(f"flow error beside {run}", error, "times", most)
        less = _ratio(whole, over(mode, lambda c: c.operations))
        yield row(f"arithmetic saved beside the paper's {PAPER_EVALUATIONS} evaluations", less, "times")


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


class Large:
    """Networks of real size and random weights: SD1's UNet, a preview decoder, RAFT-large, at 512 x 512."""

    def __init__(self) -> None:
        import comfy.model_management
        import comfy.model_patcher
        import comfy.sd
        import comfy.taesd.taesd
        from torchvision.models.optical_flow import raft_large

        from ..random_sd1 import stable_diffusion_1

        torch.manual_seed(0)
        self.model = stable_diffusion_1()
        small = comfy.taesd.taesd.TAESD()
        for weight in (weight for weight in small.parameters() if weight.ndim):
            weight.data.normal_(0, weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1)
        small.vae_scale.data.fill_(0.18215)
        self.vae = comfy.sd.VAE(sd=small.state_dict())
        device = comfy.model_management.get_torch_device()
        network = raft_large(weights=None).eval()
        self.optical_flow = comfy.model_patcher.ModelPatcher(network, device, torch.device("cpu"))
        self.conds = [[[torch.randn(1, 77, 768), {}]] for _ in range(2)]

    def run(self, side: int = SIZE, steps: int = SIZE_STEPS) -> float:
        """Seconds of one motion of the default preset, the flow network included."""
        import comfy.sample
        from comfy_extras.nodes_custom_sampler import BasicScheduler

        from ...guidance.flow.fields import Transform, transform_flow
        from ...nodes.motion import FlowGuidanceSamplerNode

        mask = torch.zeros(1, side, side)
        mask[:, side // 4 : side // 2, side // 4 : side // 2] = 1
        flow = transform_flow(mask, Transform(move=(side // 6, side // 12), turn=15.0))
        picture, latent = torch.rand(1, side, side, 3), torch.randn(1, 4, side // 8, side // 8)
        sigmas = BasicScheduler.execute(self.model, "normal", steps, 0.75).args[0]
        start = time.perf_counter()
        sampler = FlowGuidanceSamplerNode.execute(
            vae=self.vae,
            flow=flow,
            image=picture,
            preset="normal",
            strength=1.0,
            grow=10,
            optical_flow=self.optical_flow,
        ).args[0]
        noise = comfy.sample.prepare_noise(latent, 0)
        made = comfy.sample.sample_custom(
            self.model, noise, 7.5, sampler, sigmas, *self.conds, latent, disable_pbar=True
        )
        self.vae.decode(made)
        return time.perf_counter() - start

    @cached_property
    def on_gpu(self) -> tuple[float, float]:
        """(seconds, peak bytes) of a second run, when everything is loaded."""
        self.run()
        torch.cuda.reset_peak_memory_stats()
        seconds = self.run()
        torch.cuda.synchronize()
        return seconds, torch.cuda.max_memory_allocated()


def size_rows(context, technique: str) -> Iterator[Row]:
    large = Large() if context.gpu else None
    seconds, gigabytes = (lambda: large.on_gpu[0]), (lambda: large.on_gpu[1] / 1e9)
    yield context.gpu_row(technique, "time at SD1 size, 512 x 512", "fast", seconds, "s", "<= 10")
    yield context.gpu_row(technique, "peak memory at SD1 size, 512 x 512", "fast", gigabytes, "GB", "<= 8")
