"""The tests on other CPUs than this one, as far as one CPU can stand in for them: `make test-portable`.

The core tests run with each set of vector instructions that this CPU has, with one and two threads; with the rounding
of matrix products perturbed by three seeds; and once more for the list of tests by margin. The whole suite runs with
the plainest instructions. The variables are read by PyTorch and oneDNN when they start, so each run is a process.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time

from .places import ROOT

CAPABILITIES = ("default", "avx2", "avx512")
SEEDS = (1, 2, 3)
BEST = "import torch; print(torch.backends.cpu.get_cpu_capability().lower())"


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


def runs(whole: bool) -> list[tuple[dict[str, str], list[str]]]:
    """(environment, arguments of pytest) of every run, the quick ones first."""
    found = [(one, ["-m", "core"]) for one in settings()]
    found += [({}, ["-m", "core", "--perturb", str(seed)]) for seed in SEEDS]
    found += [({}, ["-m", "core", "--margins"])]
    return found + ([({"ATEN_CPU_CAPABILITY": "default"}, [])] if whole else [])


def main(arguments: list[str]) -> int:
    """arguments: "core" leaves out the whole suite; the rest goes to pytest."""
    whole = "core" not in arguments
    given = [one for one in arguments if one != "core"]
    results = []
    for environment, options in runs(whole):
        label = " ".join([*(f"{name}={value}" for name, value in environment.items()), *options]) or "everything"
        print(f"\n== {label}", flush=True)
        start = time.time()
        command = [sys.executable, "-m", "pytest", "-q", *options, *given]
        code = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}).returncode
        results.append((code, time.time() - start, label))
    print("\n== summary")
    for code, seconds, label in results:
        print(f"{'passed' if code == 0 else 'FAILED'} {seconds:7.0f} s  {label}")
    return 1 if any(code for code, _, _ in results) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
