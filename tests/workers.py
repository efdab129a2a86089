"""The tests in several processes at once (`-n auto` of pytest-xdist): how many processes, and what stays together.

The tests of a file stay in one process and in order, since they share models and a place in the host's caches. The
example workflows are dealt out one by one, after all else, so that no process is left waiting. Each process has a
host, a base folder and temporary folders of its own, and hosts take ports that nobody holds.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DEALT_OUT = "tests/repository/test_examples.py"
MOST, ROOM = 4, 4  # processes; GB that each and its hosts may take


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> float:
    """GB of this machine; plenty where it does not say."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9 if hasattr(os, "sysconf") else float("inf")


def number(arguments: list[str]) -> int:
    """Processes for these arguments of pytest; 0: no others than pytest's own, where a second one would only wait."""
    places = {argument.split("::")[0] for argument in arguments}
    single = len(places) == 1 and Path(*places).is_file()
    count = int(min(cores(), MOST, memory() / ROOM))
    return 0 if single or count < 2 else count


def together(nodeid: str) -> str:
    """What tests that must run in one process have in common."""
    file, _, rest = nodeid.partition("::")
    return f"{file}::{rest.partition('[')[2]}" if file == DEALT_OUT else file


def in_order(items: list[pytest.Item]):
    """Moves the tests that are dealt out one by one to the end."""
    items.sort(key=lambda item: item.nodeid.startswith(DEALT_OUT))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else number(config.args)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return together(nodeid)

    config.option.loadscopereorder = False
    return ByFile(config, log)
