"""`COMFYUI=path CHECKPOINT=name SET=folder make judge`: the pack's templates on a set of the field, in its table.

SET: a folder of PIE-Bench, TEdBench or DragBench. URL=http://... asks a ComfyUI that runs already. TECHNIQUES=a,b are
those of techniques.py, CASES=n takes n cases spread over the set, and STEPS, CFG and MEGAPIXELS set what the templates
leave to the model. DINO=file, VISION=file and TEXT=file add the measures of networks; what is missing is left out and
named. An interrupted run goes on where it stopped, and what has been measured is not measured again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ...tools.client import Client, HostError
from ...tools.examples import slug
from ...tools.own_model import lend
from ...tools.places import HOST, ROOT
from ...tools.server import Host
from ...tools.setup import read_record
from ...tools.steps import Problem, Status
from ...tools.workflow import WorkflowError
from . import dragbench, pie_bench, published, scores, tedbench
from .cases import Case
from .editing import Editor, require_checkpoint
from .records import Records
from .report import Page, write_report
from .tables import Line, line_of, text_of
from .techniques import Settings, Technique, chosen

OUT = ROOT / "judged"
PACKS = Path(__file__).parent / "host_packs"


class Layout(NamedTuple):
    """A set of the field. is_here: whether a folder holds it; published: the papers' lines, with their source; lpips:
    what measures with it."""

    name: str
    is_here: Callable[[Path], bool]
    read: Callable[[Path], list[Case]]
    published: Callable[[], list[Line]] = list
    source: str = ""
    lpips: Callable[[], scores.Scorer] = scores.lpips


LAYOUTS = (
    Layout("PIE-Bench", pie_bench.is_here, pie_bench.read, published.pie_bench, published.PIE_BENCH_SOURCE),
    Layout("TEdBench", tedbench.is_here, tedbench.read),
    Layout("DragBench", dragbench.is_here, dragbench.read, lpips=scores.fidelity),
)


def layout_of(folder: Path) -> tuple[Layout, Path]:
    """Which set a folder, or the folder `data` in it, holds. Raises Problem where it is none that is known."""
    for place in (folder, folder / "data"):
        for one in LAYOUTS:
            if one.is_here(place):
                return one, place
    names = ", ".join(one.name for one in LAYOUTS)
    raise Problem(f"SET={folder} holds no set that is known: give the unpacked folder of one of {names}.")


def spread(cases: Sequence[Case], count: int | None) -> list[Case]:
    """`count` of them, evenly over the set; all where that is None."""
    if count is None or count >= len(cases):
        return list(cases)
    return [cases[i * len(cases) // count] for i in range(count)]


def number_of(settings: Mapping[str, str], name: str, kind: Callable) -> float | None:
    text = settings.get(name) or ""
    try:
        value = kind(text) if text else None
    except ValueError:
        value = 0
    if value is not None and not value > 0:
        raise Problem(f"{name}={text} is no number above 0: leave it out, or give one.")
    return value


def settings_of(given: Mapping[str, str]) -> Settings:
    """Raises Problem where no checkpoint is named or a number is none."""
    if not given.get("CHECKPOINT"):
        raise Problem("CHECKPOINT=name is missing: name a file of ComfyUI's folder models/checkpoints.")
    numbers = [number_of(given, *one) for one in (("STEPS", int), ("CFG", float), ("MEGAPIXELS", float))]
    return Settings(given["CHECKPOINT"], *numbers)


@contextmanager
def host_of(given: Mapping[str, str]) -> Iterator[Client]:
    """The host that runs at URL, or one that is started with the models of COMFYUI and the judge's meter."""
    if given.get("URL"):
        client = Client(given["URL"])
        client.request("/system_stats")
        yield client
        return
    starting, installation = Status("Starting ComfyUI"), read_record()
    config = HOST / "judge_packs.yaml"
    # JSON is YAML, too.
    config.write_text(json.dumps({"judge": {"custom_nodes": str(PACKS)}}), encoding="utf-8")
    with Host.start(installation, extra=(*lend(installation), str(config))) as host:
        starting.done()
        yield host.client


def scorers_of(
    given: Mapping[str, str], layout: Layout, client: Client, folder: Path
) -> tuple[list[scores.Scorer], list[str]]:
    """What measures, and a sentence for each measure that is left out."""
    found, notes = [scores.PIXELS], []
    if given.get("DINO"):
        found.append(scores.dino(Path(given["DINO"])))
    else:
        notes.append("Structure distance is left out: give DINO=dino_vitbase8_pretrain.pth.")
    try:
        found.append(layout.lpips())
    except ValueError as reason:
        notes.append(f"Left out: {reason}")
    if given.get("VISION") and given.get("TEXT"):
        found.append(scores.clip(client, given["VISION"], given["TEXT"], folder / "scratch"))
    else:
        notes.append(
            "CLIP similarity is left out: give VISION=file of models/clip_vision and TEXT=file of "
            "models/text_encoders, both of CLIP ViT-L/14."
        )
    return found, notes


def usable(techniques: Sequence[Technique], cases: Sequence[Case]) -> tuple[list[Technique], list[str]]:
    """The techniques that have what they need, and a sentence on those that have not."""
    drags = any(case.drag for case in cases)
    techniques = [one for one in techniques if one.drags == drags]
    if not techniques:
        raise Problem("None of TECHNIQUES is for this set: drags need move-it, and nothing else does.")
    if all(case.source for case in cases):
        return techniques, []
    left_out = [one.title for one in techniques if one.needs_source]
    notes = [f"The set has no source prompts, without which these have nothing to go by: {', '.join(left_out)}."]
    return [one for one in techniques if not one.needs_source], notes if left_out else []


def judge(given: Mapping[str, str], out: Path = OUT) -> str:
    """The whole run; returns the table and where the page is. Raises Problem, HostError and WorkflowError."""
    layout, place = layout_of(Path(given.get("SET") or "").expanduser())
    settings = settings_of(given)
    count = number_of(given, "CASES", int)
    techniques = chosen(given.get("TECHNIQUES") or "")
    cases = spread(layout.read(place), count)
    techniques, notes = usable(techniques, cases)
    folder = out / slug(layout.name) / slug(settings.checkpoint.rpartition(".")[0])
    records = Records(folder)
    with host_of(given) as client:
        require_checkpoint(client, settings.checkpoint)
        scorers, missing = scorers_of(given, layout, client, folder)
        editor = Editor(client, settings, records, scores.Scores(scorers))
        if not editor.meter.here:
            missing.append("Calls and memory are left out: the host at URL was not started by the judge.")
        editor.run(techniques, cases)
    ids = {case.id for case in cases}
    own = [line_of(one.title, [r for r in records.of(one.name).values() if r.case in ids]) for one in techniques]
    lines = [*own, *layout.published()]
    facts = [f"{settings.checkpoint}, {len(cases)} cases of {layout.name}."]
    about = [*notes, *missing, *([layout.source] if layout.source else [])]
    page = write_report(folder, Page(f"{layout.name}, judged", facts, about, lines), techniques, cases)
    return "\n".join([text_of(lines), *about, f"The page is {page}."])


def main(given: Mapping[str, str] = os.environ) -> int:
    try:
        print(judge(given))
    except (HostError, Problem, WorkflowError) as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped: the same command goes on from here.\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
