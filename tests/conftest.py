"""Puts the pack and the host on the path as one program sees them, and starts one real host for all tests."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOST = ROOT / ".host"

# OpenMP's waiting threads slow small models tenfold on few cores; must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def _set_paths() -> None:
    """The pack is `palimpsest`; the root itself must not be on the path, or its `nodes` would hide the host's."""
    hidden = {"", str(ROOT), str(ROOT / "tests")}
    sys.path[:] = [entry for entry in sys.path if entry not in hidden]
    sys.path[:0] = [str(HOST / "packages"), str(HOST / "ComfyUI")]


def _set_host_options() -> None:
    """In-process tests use the host's own modules: on the CPU, and with folders of their own.

    Done here and not in a fixture, because test files import the host while they are collected.
    """
    import comfy.cli_args
    from palimpsest.tools.setup import make_base

    base = Path(tempfile.mkdtemp(prefix="palimpsest-tests-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    comfy.cli_args.args.cpu = True
    comfy.cli_args.args.base_directory = str(make_base(base))


_set_paths()
_set_host_options()

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory):
    """A running ComfyUI with the pack, the companion and the weights; `host.client`, `host.base`, `host.text()`."""
    from palimpsest.tools.server import Host
    from palimpsest.tools.setup import make_base, read_record

    base = make_base(tmp_path_factory.mktemp("host"))
    with Host.start(read_record()._replace(base=str(base)), log=base / "host.log") as running:
        running.base = base
        yield running


@pytest.fixture
def host_client(host):
    """The client of the session's host; the host is checked to be alive before and after the test."""
    host.check_alive()
    yield host.client
    host.check_alive()
