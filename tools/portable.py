"""The tests on other CPUs than this one, as far as one CPU can stand in for them: `make test-portable`.

The core tests run with each set of vector instructions that this CPU has, with one and two threads; with the rounding
of matrix products perturbed by three seeds; and once more for the list of tests by margin. The whole suite runs with
the plainest instructions. The variables are read by PyTorch and oneDNN when they start, so each run is a process.

All that the runs say goes to `.host/portable.log` too, which ends with the summary and the tests
nearest to their tolerances.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

from .places import HOST, ROOT

CAPABILITIES = ("default", "avx2", "avx512")
SEEDS = (1, 2, 3)
BEST = "import torch; print(torch.backends.cpu.get_cpu_capability().lower())"
MARGINS, COUNTS = " margins =", "compare with a tolerance"  # first and last line of the list, see tests/portability.py
LISTED = ["--margins", "-vv"]  # every test with a comparison, the nearest first
SHOWN = 20  # of them in the summary
PARTS = ("core", "whole")


def settings() -> list[dict[str, str]]:
    """What to set, one dictionary a run, for the vector instructions that this CPU has."""
    clean = {name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
    best = subprocess.run([sys.executable, "-c", BEST], env=clean, capture_output=True, text=True, check=True)
    best = best.stdout.strip()
    last = CAPABILITIES.index(best) if best in CAPABILITIES else 0
    found = [{"ATEN_CPU_CAPABILITY": one} for one in CAPABILITIES[: last + 1]]
    if platform.machine().lower() in ("x86_64", "amd64"):
        found.append({"ONEDNN_MAX_CPU_ISA": "SSE41"})
    return [{**one, "OMP_NUM_THREADS": threads} for one in found for threads in ("1", "2")]


@dataclass
class Run:
    """One run of pytest, and what became of it."""

    environment: dict[str, str]
    options: list[str]
    code: int = 0
    seconds: float = 0.0
    last: str = ""  # pytest's closing line
    margins: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        return " ".join([*(f"{name}={value}" for name, value in self.environment.items()), *self.options])

    def go(self, given: list[str], log: TextIO) -> "Run":
        say(f"\n== {self.label}", log)
        start, near = time.time(), False
        environment = {"OMP_NUM_THREADS": "1", **os.environ, **self.environment}
        processes = "auto" if environment["OMP_NUM_THREADS"] == "1" else "0"
        command = [sys.executable, "-m", "pytest", "-q", "-n", processes, *self.options, *given]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for line in process.stdout:
            say(line.rstrip(), log)
            if near:
                self.margins.append(line.rstrip())
            near = MARGINS in line or (near and COUNTS not in line)
            self.last = line.strip() or self.last
        self.code, self.seconds = process.wait(), time.time() - start
        return self


def runs(parts: list[str]) -> list[Run]:
    """Those of the named parts, the quick ones first."""
    found = []
    if "core" in parts:
        found += [Run(one, ["-m", "core"]) for one in settings()]
        found += [Run({}, ["-m", "core", "--perturb", str(seed)]) for seed in SEEDS]
        found += [Run({}, ["-m", "core", *LISTED])]
    if "whole" in parts:
        found += [Run({"ATEN_CPU_CAPABILITY": "default"}, LISTED)]
    return found


def say(line: str, log: TextIO):
    print(line, flush=True)
    log.write(line + "\n")
    log.flush()


def main(arguments: list[str]) -> int:
    """arguments: "core" or "whole" chooses that part alone; the rest goes to pytest."""
    parts = [one for one in arguments if one in PARTS] or list(PARTS)
    given = [one for one in arguments if one not in PARTS]
    with (HOST / "portable.log").open("w", encoding="utf-8") as log:
        done = [run.go(given, log) for run in runs(parts)]
        say("\n== summary", log)
        for run in done:
            say(f"{'passed' if run.code == 0 else 'FAILED'} {run.seconds:6.0f} s  {run.label}: {run.last}", log)
        for run in done:
            for line in [*run.margins[:-1][:SHOWN], *run.margins[-1:]]:
                say(line, log)
    return 1 if any(run.code for run in done) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
