"""One measurement is one row; targets, merging and printing are decided here and nowhere else."""

from __future__ import annotations

import json
import math
import operator
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results.json"
TEST_RUNS = RESULTS.with_name("test_runs.json")
RELATIONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "==": operator.eq}
TARGET = re.compile(r"(>=|<=|==|>|<) (-?\d+(?:\.\d+)?(?:e-?\d+)?)")


def meets(value: float | None, target: str) -> bool | None:
    """Whether a value meets a target such as ">= 30"; None where either is missing.

    Raises ValueError for a target that is not a relation, a space and a number.
    """
    if not target:
        return None
    found = TARGET.fullmatch(target)
    if not found:
        raise ValueError(f"The target '{target}' is not a relation and a number, such as '>= 30'.")
    return None if value is None else bool(RELATIONS[found[1]](value, float(found[2])))


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def error_of_mean(values: Iterable[float | None]) -> float | None:
    """The standard error of the mean of those that are known; None where fewer than two are."""
    known = [value for value in values if value is not None]
    return statistics.stdev(known) / len(known) ** 0.5 if len(known) > 1 else None


@dataclass(frozen=True)
class Row:
    """technique, measure, mode: what was measured, unique together; mode: faithful, fast, or a baseline's name.

    value: None where this machine cannot measure it (a GPU's time without a GPU); then `met` is None as well.
    target: "" where no issue names one. machine, date: where and when (ISO) the value was taken.
    """

    technique: str
    measure: str
    mode: str
    value: float | None
    unit: str
    target: str
    met: bool | None
    machine: str
    date: str

    @classmethod
    def make(
        cls,
        technique: str,
        measure: str,
        mode: str,
        value: float | None,
        unit: str,
        target: str = "",
        *,
        machine: str,
        date: str,
    ) -> "Row":
        """The row of a value, rounded to six significant digits, with `met` decided; NaN and infinity are refused."""
        if value is not None:
            value = float(value)
            if not math.isfinite(value):
                raise ValueError(f"{technique}, {measure}, {mode}: {value} is not a measurement.")
            value = float(f"{value:.6g}")
        return cls(technique, measure, mode, value, unit, target, meets(value, target), machine, date)

    @property
    def key(self) -> tuple[str, str, str]:
        return self.technique, self.measure, self.mode


def merge(old: Iterable[Row], new: Sequence[Row], techniques: Iterable[str] = ()) -> list[Row]:
    """The old rows with those of the new rows' techniques (and of `techniques`) replaced, sorted.

    A value that this machine could not measure does not wipe out one that another machine did; its target is renewed.
    """
    keys = [row.key for row in new]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f"Measured twice: {', '.join(twice[0])}.")
    replaced = {row.technique for row in new} | set(techniques)
    old = list(old)
    measured = {row.key: row for row in old if row.value is not None}
    kept = [row for row in old if row.technique not in replaced]
    return sorted(kept + [_keep_measured(row, measured.get(row.key)) for row in new], key=lambda row: row.key)


def _keep_measured(row: Row, older: Row | None) -> Row:
    if row.value is not None or older is None:
        return row
    facts = {"machine": older.machine, "date": older.date}
    return Row.make(row.technique, row.measure, row.mode, older.value, row.unit, row.target, **facts)


def load(path: Path = RESULTS) -> list[Row]:
    return [Row(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []


def save(rows: Iterable[Row], path: Path = RESULTS) -> None:
    """A row a line, so that a new measurement is a small change."""
    lines = ",\n".join(json.dumps(asdict(row)) for row in rows)
    path.write_text(f"[\n{lines}\n]\n" if lines else "[]\n", encoding="utf-8")


def load_test_runs(path: Path = TEST_RUNS) -> dict[str, int]:
    """How often each technique was measured on the test split."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def save_test_run(rows: Iterable[Row], path: Path = TEST_RUNS) -> None:
    """One run more for each technique that has a value among the rows."""
    runs = load_test_runs(path)
    for name in {row.technique for row in rows if row.value is not None}:
        runs[name] = runs.get(name, 0) + 1
    path.write_text(json.dumps(runs, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def number(value: float | None) -> str:
    """At most four significant digits, no exponent for the sizes that occur; a dash for None."""
    if value is None:
        return "-"
    if value == 0 or 1e-4 <= abs(value) < 1e7:
        return f"{value:.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"
    return f"{value:.3g}"


def cells(row: Row) -> tuple[str, str, str, str, str]:
    """measure, mode, value with unit, target, verdict: as the tables show them."""
    verdict = {True: "yes", False: "no", None: ""}[row.met]
    return row.measure, row.mode, f"{number(row.value)} {row.unit}".strip(), row.target, verdict


HEAD = ("measure", "mode", "value", "target", "met")


def table(rows: Sequence[Row]) -> str:
    """Aligned columns for a terminal."""
    lines = [HEAD, *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def summary(rows: Iterable[Row]) -> str:
    """How many targets there are and how they stand, in a sentence."""
    verdicts = [row.met for row in rows if row.target]
    met, missed = verdicts.count(True), verdicts.count(False)
    return f"{len(verdicts)} targets: {met} met, {missed} missed, {verdicts.count(None)} not measured here."
