"""Makes the edits of a set in a host, one technique after the other, and measures each as soon as it is there."""

from __future__ import annotations

import hashlib
import json
import time
import urllib.error
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ...tools.client import Client, HostError, Result
from ...tools.steps import Problem, Status
from .cases import Case
from .records import Record, Records
from .techniques import Settings, Technique, Values

TIMEOUT = 3600.0
METER = "/palimpsest_meter"
# A technique that fails on so many cases from its first on fails on all.
HOPELESS = 3
# (case, the edit's file, the measures that are known) -> all measures
Measure = Callable[[Case, Path, Mapping[str, float]], dict[str, float]]


def require_checkpoint(client: Client, name: str) -> None:
    """Raises Problem where the host has no such checkpoint, or cannot load it."""
    spec = client.object_info()["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"]
    names = spec[0] if isinstance(spec[0], list) else spec[1]["options"]
    if not name or name not in names:
        raise Problem(f"CHECKPOINT={name} is not there: choose from {', '.join(names) or 'none: there is no file'}.")
    load = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": name}}
    shows = {str(slot + 2): {"class_type": "PreviewAny", "inputs": {"source": ["1", slot]}} for slot in range(3)}
    result = client.run({"1": load, **shows}, TIMEOUT)
    if result.status != "success":
        raise Problem(f"CHECKPOINT={name} cannot be loaded: {first_line(result.error or result.status)}")


def first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason was given")


class Meter:
    """Calls and memory of a prompt, where the host can be asked: one that the judge started."""

    def __init__(self, client: Client):
        self.client = client
        self.here = self._post()

    def _post(self) -> bool:
        try:
            self.client.json(METER, {})
        except urllib.error.HTTPError:
            return False
        return True

    def begin(self) -> None:
        if self.here:
            self._post()

    def read(self) -> dict[str, int | None]:
        return self.client.json(METER) if self.here else {}


class Progress:
    """One live line with the time left, as far as the techniques that have begun tell it."""

    def __init__(self, techniques: Sequence[Technique], cases: int):
        self.names, self.cases = [one.name for one in techniques], cases
        self.spent: dict[str, list[float]] = {}
        self.status: Status | None = None

    def begin(self, technique: Technique) -> None:
        number = self.names.index(technique.name) + 1
        self.status = Status(f"[{number}/{len(self.names)}] {technique.title}")

    def took(self, technique: str, seconds: float) -> None:
        self.spent.setdefault(technique, []).append(seconds)

    def say(self, technique: str, done: int) -> None:
        self.status.say(f"case {done + 1} of {self.cases}{time_text(self.left(technique, done))}")

    def left(self, technique: str, done: int) -> float | None:
        """Seconds; None before anything has been timed. A technique still to come counts like those before it."""
        known = {name: sum(several) / len(several) for name, several in self.spent.items()}
        if not known:
            return None
        usual = sum(known.values()) / len(known)
        later = self.names[self.names.index(technique) + 1 :]
        here = (self.cases - done) * known.get(technique, usual)
        return here + sum(self.cases * known.get(name, usual) for name in later)


def time_text(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    if minutes < 1:
        return ", less than a minute left"
    return f", {minutes // 60} h {minutes % 60:02d} min left" if minutes >= 60 else f", {minutes} min left"


def digest(prompt: dict, picture: Path, case: Case) -> str:
    """Of all that an edit is made from and measured by, whatever the host calls the picture."""
    known = json.dumps([prompt, case.runs], sort_keys=True).encode() + picture.read_bytes()
    return hashlib.sha256(known).hexdigest()[:16]


class Editor:
    """One run of the judge. measure: (case, the edit's file, what is known) -> all measures."""

    def __init__(self, client: Client, settings: Settings, records: Records, measure: Measure):
        self.client, self.settings, self.records, self.measure = client, settings, records, measure
        self.meter = Meter(client)

    def run(self, techniques: Sequence[Technique], cases: Sequence[Case]) -> None:
        progress = Progress(techniques, len(cases))
        for technique in techniques:
            progress.begin(technique)
            self._run(technique, cases, progress)

    def _run(self, technique: Technique, cases: Sequence[Case], progress: Progress) -> None:
        errors: list[str] = []
        for done, case in enumerate(cases):
            progress.say(technique.name, done)
            start = time.monotonic()
            record, new = self._edit(technique, case)
            if new:
                progress.took(technique.name, time.monotonic() - start)
            errors.append(record.error)
            if len(errors) == HOPELESS and all(errors):
                return progress.status.done(f"given up ({errors[0]})")
        failed = sum(map(bool, errors))
        progress.status.done(f"done, {failed} of {len(cases)} failed" if failed else "done")

    def _edit(self, technique: Technique, case: Case) -> tuple[Record, bool]:
        """The record of an edit, and whether it had to be made."""
        name = f"palimpsest_judge{case.picture.suffix}"
        prompt, shows = technique.build(Values.of(case, name, self.settings), self.client.object_info())
        made_from = digest(prompt, case.picture, case)
        record = self.records.known(technique.name, case.id, made_from)
        new = record is None
        if record is None:
            record = self._made(technique, case, prompt, shows, name, made_from)
        if not record.error:
            measures = self.measure(case, self.records.picture(technique.name, case.id), record.measures)
            if measures == record.measures and not new:
                return record, False
            record = Record(**{**vars(record), "measures": measures})
        self.records.add(record)
        return record, new

    def _made(self, technique: Technique, case: Case, prompt: dict, shows: str, name: str, made_from: str) -> Record:
        self.client.upload(case.picture, name)
        self.meter.begin()
        result = self.client.run(prompt, TIMEOUT)
        counted = self.meter.read()
        error = "" if result.status == "success" else failure(result, prompt)
        if not error:
            self.records.save_picture(technique.name, case.id, self.client.view(result.files(shows)[-1]))
        return Record(case.id, technique.name, made_from, result.seconds, error, **counted)


def failure(result: Result, prompt: dict) -> str:
    """The host's reason, with the node that gave it. Raises HostError where the run was stopped by hand."""
    if result.status == "interrupted":
        raise HostError("The host was told to stop; the same command goes on from here.")
    node = prompt.get(result.error_node, {})
    title = node.get("_meta", {}).get("title") or node.get("class_type", "a node")
    return f"{title}: {first_line(result.error or result.status)}"
