"""What a suite is given: this machine, a real host on demand, and the way to make rows."""

from __future__ import annotations

import datetime
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from ..tools.inprocess import enter_host, own_installation
from ..tools.server import Host
from ..tools.setup import make_base
from .results import Row


def processor() -> str:
    """The processor's own name where the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cores() -> int:
    """The cores that this process may use, which `taskset` and containers make fewer than the machine has."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


@contextmanager
def every_core() -> Iterator[None]:
    """All threads inside: `make bench` runs on one, best for small things and slow for thousands of forwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Context:
    """One run of the benchmarks. Suites measure on `device`, import the host's modules as they need them (the CPU
    is chosen for them where there is no GPU), and yield `context.row(...)`.
    """

    def __init__(self) -> None:
        import torch

        self.gpu = torch.cuda.is_available()
        enter_host(cpu=not self.gpu)
        self.device = torch.device("cuda" if self.gpu else "cpu")
        self.date = datetime.date.today().isoformat()
        self.cpu_name = f"{os.cpu_count()} cores of {processor()}"
        self.machine = torch.cuda.get_device_name() if self.gpu else self.cpu_name

    def row(self, technique: str, measure: str, mode: str, value: float | None, unit: str, target: str = "") -> Row:
        """A row measured here and now; see `Row` for the words."""
        facts = {"machine": self.machine, "date": self.date}
        return Row.make(technique, measure, mode, value, unit, target, **facts)

    def gpu_row(
        self, technique: str, measure: str, mode: str, take: Callable[[], float], unit: str, target: str = ""
    ) -> Row:
        """A row that only a GPU can give: `take()` is called where there is one, else the value is None."""
        return self.row(technique, measure, mode, take() if self.gpu else None, unit, target)

    @cached_property
    def host(self) -> Host:
        """A real ComfyUI with the pack and Papercut, started at the first use and shared by all suites."""
        self._folder = tempfile.TemporaryDirectory(prefix="palimpsest-bench-")
        base = make_base(Path(self._folder.name))
        return Host.start(own_installation(base), log=base / "host.log")

    def close(self) -> None:
        if "host" in self.__dict__:
            self.host.stop()
            self._folder.cleanup()
