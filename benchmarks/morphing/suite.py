"""DiffMorpher on Papercut: the paper's ablation as a table, chains of four, and the cost beside the paper's recipe.

Ten chains of four scenes; each two neighbours around a chain are one of the forty pairs. They use the same LoRAs and
inversions, since the pack makes those once a picture, and are sampled in one batch, which changes nothing in them. The
last stage is the whole method as the examples have it: Trajectory Anchor keeps the key pictures exact, since few
steps do not bring every picture back from its noise, and the frames are the evenest of all that Reschedule measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from ...morphing.measured_frames import MeasuredFrames
from ...morphing.reschedule import variation
from ...morphing.schedule import schedule
from ...papercut.classifier import OBJECT, load_classifier
from ...papercut.networks import FILE
from ..context import every_core
from ..results import Row
from . import published
from .cost import Counter, kept_between_calls
from .fixtures import chains, frechet, perceived, perceived_table, psnr, things_in
from .methods import STAGES, Fixtures, Keys, MorphRun, Ring, Settings, Stage, host_interpolation
from .pace import evened, evenest, plain_steps

TECHNIQUE = "DiffMorpher"
TECHNIQUES = (TECHNIQUE,)
FULL = STAGES["+ reschedule"]
# Fewer frames than an artist takes, so that forty pairs and ten chains fit a CPU's coffee break.
STEPS_OF_A_PAIR, PAIR_PASSES, CHAIN_FRAMES, CHAIN_PASSES = 6, 3, 19, 3
INTERPOLATED = "the host's frame interpolation"
# The same measured frames, and the evenest by the classifier's distances instead of the latents'.
TO_THE_EYE = "+ reschedule, to the classifier's eye"
PAIR_STAGES = (*STAGES, TO_THE_EYE, INTERPOLATED)
CHAIN_STAGES = ("+ AdaIN", "+ reschedule", TO_THE_EYE)
FAITHFUL, FAST = "faithful", "fast"
# Latents (P, C, h, w) -> (P, P), the distances of any two frames.
Eye = Callable[[Tensor], Tensor]


def judged(run: MorphRun, made: SimpleNamespace, classifier) -> dict[str, float | Tensor]:
    """What the tables say of one morph, and the classifier's features of its key pictures and of what is between."""
    pictures, latents = made.pictures, made.latents.float().cpu()
    keys = [row for row, value in enumerate(made.alphas.values) if value == round(value)]
    own = [int(made.alphas.values[row]) for row in keys]
    ends = psnr(pictures[keys], run.pictures[own])
    felt = perceived(pictures, classifier)
    between = [row for row in range(len(pictures)) if row not in keys]
    readings = classifier.read(pictures[between].movedim(-1, 1))
    sure = [reading.sureness[: len(OBJECT)] for reading in readings]
    features = lambda pictures: classifier.features(pictures.movedim(-1, 1))
    # As if one picture's light went over into the other's.
    tints = torch.einsum("nk,kc->nc", made.alphas.weights().float(), run.pictures.mean((1, 2)))
    return {
        "between": features(pictures[between]),
        "keys": features(run.pictures[own]),
        "ends": ends,
        "below": psnr(run.bound[own], run.pictures[own]) - ends,
        "variation": variation(plain_steps(latents)),
        "felt": variation(felt),
        "way": float(felt.sum()),
        "direct": float(perceived(pictures[keys], classifier).sum()),
        "one": sum(things_in(pictures[row].movedim(-1, 0)) == 1 for row in between) / len(between),
        "sure": sum(sum(one) / len(one) for one in sure) / len(between),
        "tint": float((pictures.mean((1, 2)) - tints)[between].square().mean().sqrt()),
    }


def mean(tables: Sequence[dict], name: str) -> float | None:
    """Over all morphs; of the way, the whole over the whole. None where nothing was measured."""
    if not tables:
        return None
    if name == "strange":
        return frechet(*(torch.cat([table[which] for table in tables]) for which in ("between", "keys")))
    if name == "detour":
        return mean(tables, "way") / mean(tables, "direct")
    return sum(table[name] for table in tables) / len(tables)


def morphs(fixtures: Fixtures, count: int = 10, split: str = "test") -> tuple[dict[str, list], dict[str, list]]:
    """Tables by stage: of the pairs at every stage, of the chains at the last two."""
    classifier = load_classifier()
    pairs: dict[str, list] = {name: [] for name in PAIR_STAGES}
    wholes: dict[str, list] = {name: [] for name in CHAIN_STAGES}
    for scenes in chains(count, split=split):
        ring = Ring(Keys(fixtures, scenes, Settings()), STEPS_OF_A_PAIR)
        eye = lambda latents: perceived_table(fixtures.decode(latents), classifier)
        found, measured = around(ring, eye)
        for name, made in found.items():
            pairs[name] += [judged(run, pair, classifier) for run, pair in zip(ring.pairs, made)]
        for name, made in through(ring, found, measured, eye).items():
            wholes[name].append(judged(ring.whole, made, classifier))
    return pairs, wholes


def around(ring: Ring, eye: Eye) -> tuple[dict[str, list[SimpleNamespace]], list[list[SimpleNamespace]]]:
    """The pairs of a ring at every stage; and what Reschedule measured: frames of the whole method at an even pace,
    and again and again at the pace that it made of them. eye: distances of any two frames, by their latents.
    """
    found = {name: ring.at(ring.even(), stage) for name, stage in STAGES.items() if not stage.reschedule}
    measured = [ring.at(ring.even(), FULL, pictures=False)]
    for _ in range(PAIR_PASSES - 1):
        measured.append(ring.at(ring.evened(measured), FULL, pictures=False))
    found["+ reschedule"], found[TO_THE_EYE] = ring.evenest(measured), ring.evenest(measured, eye)
    found[INTERPOLATED] = interpolated(ring)
    return found, measured


def interpolated(ring: Ring) -> list[SimpleNamespace]:
    """The pairs by the host's frame interpolation; none where it has no weights."""
    frames = host_interpolation()
    if frames is None:
        return []
    made = [frames(run.pictures, ring.per) for run in ring.pairs]
    alphas = schedule(ring.per + 1)
    return [SimpleNamespace(pictures=one, latents=ring.whole.fixtures.encode(one), alphas=alphas) for one in made]


def through(
    ring: Ring, found: dict[str, list[SimpleNamespace]], seen: list[list[SimpleNamespace]], eye: Eye
) -> dict[str, SimpleNamespace]:
    """The morph through all key pictures of a ring, not back to the first. The reschedule uses the measured frames of
    its pairs, and measures its own frames CHAIN_PASSES times.
    """
    measured = [MeasuredFrames(whole.alphas, whole.latents) for whole in map(ring.chain, seen)]
    for _ in range(CHAIN_PASSES):
        alphas = evened(measured, CHAIN_FRAMES)
        measured.append(MeasuredFrames(alphas, ring.whole.at(alphas, FULL, pictures=False).latents))
    made = {"+ AdaIN": ring.chain(found["+ AdaIN"])}
    for name, distances in (("+ reschedule", None), (TO_THE_EYE, eye)):
        made[name] = evenest(measured, CHAIN_FRAMES, distances)
        made[name].pictures = ring.whole.fixtures.decode(made[name].latents)
    return made


def quality(context, fixtures: Fixtures | None) -> Iterator[Row]:
    """The ablation on forty pairs, and ten chains of four. Targets stand where the method is whole."""
    if fixtures is not None:
        pairs, wholes = morphs(fixtures)
    else:
        pairs, wholes = ({name: [] for name in names} for names in (PAIR_STAGES, CHAIN_STAGES))
    measures = {
        "ends": ("key pictures as they come back", "dB", ""),
        "below": ("key pictures below the VAE's bound", "dB", "<= 1"),
        "variation": ("variation of the steps", "", "<= 0.15"),
        "felt": ("variation of the steps as the classifier sees them", "", ""),
        "detour": ("way over the direct distance", "", ""),
        "one": ("frames between with exactly one thing", "share", ""),
        "sure": ("how sure the classifier is of the thing between", "share", ""),
        "strange": ("distance of the frames between from pictures, as a set", "", ""),
        "tint": ("mean colour of the frames between, off the straight way", "RMS of 0..1", ""),
    }
    for size, tables in (("40 pairs", pairs), ("10 chains of four", wholes)):
        for name, found in tables.items():
            for key, (measure, unit, target) in measures.items():
                wanted = target if name == "+ reschedule" else ""
                yield context.row(TECHNIQUE, f"{measure}, {size}", name, mean(found, key), unit, wanted)
    yield from gains(context, pairs)


def gains(context, pairs: dict[str, list]) -> Iterator[Row]:
    """What the paper says that each step of its ablation improves: fidelity, smoothness, light and colour, evenness."""
    for key, measure, before, name, sign in (
        ("sure", "sureness of the thing between, gained", "latent interpolation", "+ LoRA", 1),
        ("strange", "distance from pictures as a set, saved", "latent interpolation", "+ LoRA", -1),
        ("detour", "way over the direct distance, saved", "+ LoRA", "+ attention", -1),
        ("felt", "variation as the classifier sees it, saved", "+ LoRA", "+ attention", -1),
        ("variation", "variation of the steps, saved", "+ LoRA", "+ attention", -1),
        ("tint", "mean colour off the straight way, saved", "+ attention", "+ AdaIN", -1),
        ("variation", "variation of the steps, saved", "+ AdaIN", "+ reschedule", -1),
    ):
        values = [mean(pairs[stage], key) for stage in (before, name)]
        gain = None if None in values else sign * (values[1] - values[0])
        yield context.row(TECHNIQUE, f"{measure}, 40 pairs", f"{name} over {before}", gain, "", "> 0")
        if key != "strange":
            error = standard_error(pairs[before], pairs[name], key) if pairs[name] else None
            yield context.row(TECHNIQUE, f"{measure}, 40 pairs: standard error", f"{name} over {before}", error, "")


def standard_error(before: Sequence[dict], after: Sequence[dict], name: str) -> float:
    """Of the difference of two stages, by what each pair does to it (the jackknife): what a gain is compared with."""
    count = len(before)
    without = lambda tables, pair: mean([*tables[:pair], *tables[pair + 1 :]], name)
    found = torch.tensor([without(after, pair) - without(before, pair) for pair in range(count)], dtype=torch.float64)
    return float(((count - 1) * found.var(correction=0)) ** 0.5)


def timed(make: Callable[[], object]) -> tuple[float, object]:
    """Seconds, with a GPU's work done."""
    start = time.perf_counter()
    made = make()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, made


def whole(fixtures: Fixtures, mode: str) -> dict[str, float]:
    """16 frames with the reschedule, from two pictures to latents: what it takes, and how it comes out."""
    counter = Counter(fixtures.model)
    keys = Keys(fixtures, chains(1)[0][:2], Settings(), counter.model)
    run = MorphRun(keys, (0, 1))
    if mode == FAITHFUL:
        seconds, (latents, stored, alphas) = timed(lambda: published.morph(keys, run.settings.frames))
        made = SimpleNamespace(latents=latents, pictures=fixtures.decode(latents), alphas=alphas)
    else:
        seconds, chosen = timed(lambda: run.rescheduled(FULL))
        alphas = chosen.alphas
        made = SimpleNamespace(latents=chosen.latents, pictures=fixtures.decode(chosen.latents), alphas=alphas)
    facts = {"calls": counter.calls, "samples": counter.rows, "seconds": seconds}
    # Ours by what is alive: a further run, since counting takes its time.
    facts["stored"] = (stored if mode == FAITHFUL else kept_between_calls(keys, (0, 1), alphas, FULL)) / 2**20
    return {**facts, **judged(run, made, load_classifier())}


def cost(context, fixtures: Fixtures | None) -> Iterator[Row]:
    """The published recipe and ours, in one run on one machine."""
    found = {mode: whole(fixtures, mode) for mode in (FAITHFUL, FAST)} if fixtures is not None else {}
    size = "16 frames, rescheduled"
    for mode in (FAITHFUL, FAST):
        one = found.get(mode, {})
        yield context.row(TECHNIQUE, f"{size}: UNet calls", mode, one.get("calls"), "calls")
        yield context.row(TECHNIQUE, f"{size}: UNet samples (rows of all calls)", mode, one.get("samples"), "samples")
        yield context.row(TECHNIQUE, f"{size}: seconds", mode, one.get("seconds"), "s")
        wanted = "<= 1" if mode == FAST else ""
        yield context.row(TECHNIQUE, f"{size}: kept from one pass to the next", mode, one.get("stored"), "MiB", wanted)
        yield context.row(TECHNIQUE, f"{size}: key pictures below the VAE's bound", mode, one.get("below"), "dB")
        yield context.row(TECHNIQUE, f"{size}: variation of the steps", mode, one.get("variation"), "")
        yield context.row(TECHNIQUE, f"{size}: frames between with exactly one thing", mode, one.get("one"), "share")
    for key, measure in (
        ("calls", "fewer UNet calls than as published"),
        ("samples", "fewer UNet samples than as published"),
        ("seconds", "faster than as published"),
    ):
        ratio = found[FAITHFUL][key] / found[FAST][key] if found else None
        yield context.row(TECHNIQUE, f"{size}: {measure}", FAST, ratio, "x", ">= 5")


class Canvas:
    """A VAE of the right shapes at no cost: only the UNet is measured at Stable Diffusion 1's size."""

    def encode(self, pictures: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return 4 * torch.randn(len(pictures), 4, 64, 64, generator=generator)

    def decode(self, latents: Tensor) -> Tensor:
        return torch.zeros(len(latents), 512, 512, 3)


class LargeFixtures(Fixtures):
    """Stable Diffusion 1's size at 512 x 512, with random weights; prompts are random as well."""

    def __init__(self):
        from ..random_sd1 import stable_diffusion_1

        super().__init__(stable_diffusion_1(), None, Canvas())

    def prompt(self, text: str) -> list:
        return [[torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(len(text))), {}]]


def on_a_gpu(context) -> Iterator[Row]:
    """All in, again with LoRAs and inversions at hand, and the peak of memory."""
    seconds: dict[str, float] = {}

    def all_in() -> float:
        run = MorphRun(Keys(LargeFixtures(), chains(1)[0][:2], Settings()), (0, 1))
        run.sampled(schedule(16), Stage(), 1)  # what is made once: kernels chosen, memory taken
        torch.cuda.reset_peak_memory_stats()
        seconds["all"], _ = timed(lambda: run.frames(FULL))
        seconds["again"], _ = timed(lambda: run.frames(FULL))
        seconds["peak"] = torch.cuda.max_memory_allocated() / 2**30
        return seconds["all"]

    size = "SD1 at 512 x 512, 16 frames, rescheduled"
    yield context.gpu_row(TECHNIQUE, f"{size}, all in", FAST, all_in, "s", "<= 20")
    again = lambda: seconds["again"]
    yield context.gpu_row(TECHNIQUE, f"{size}, LoRAs and inversions reused", FAST, again, "s", "<= 5")
    yield context.gpu_row(TECHNIQUE, f"{size}, peak memory", FAST, lambda: seconds["peak"], "GiB", "<= 10")


def rows(context) -> Iterable[Row]:
    with torch.inference_mode(), every_core():
        fixtures = Fixtures.papercut() if FILE.exists() else None
        yield from quality(context, fixtures)
        yield from cost(context, fixtures)
        yield from on_a_gpu(context)
