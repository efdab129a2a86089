"""Puts the pack and the host on the path as one program sees them, and starts one real host for all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ROOT / ".host" / "packages"

# OpenMP's waiting threads slow small models tenfold on few cores; must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if not (PACKAGES / "palimpsest").exists():
    raise SystemExit("The tests' environment is not set up: run 'make test' instead of pytest.")
sys.path.insert(0, str(PACKAGES))

from palimpsest.tools.inprocess import enter_host, own_installation  # noqa: E402

# Not in a fixture: test files import the host while they are collected.
enter_host()

import pytest  # noqa: E402
from palimpsest.tools.server import Host  # noqa: E402
from palimpsest.tools.setup import link, make_base  # noqa: E402


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory):
    """A running ComfyUI with the pack, the companion and the weights: `host.client`, `host.base`, `host.text()`."""
    base = make_base(tmp_path_factory.mktemp("host"))
    link(ROOT / "tests" / "host_pack", base / "custom_nodes" / "palimpsest_tests")
    # One rule on every machine: outputs that the running prompt does not use are forgotten, whatever memory there is.
    forget = ("--cache-ram", "2", "1000000")
    with Host.start(own_installation(base), extra=forget, log=base / "host.log") as running:
        yield running


@pytest.fixture
def host_client(host: Host):
    """The client of the session's host, which must be alive before and after the test."""
    host.check_alive()
    yield host.client
    host.check_alive()
