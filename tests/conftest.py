"""Puts the pack on the path as one program sees it, and the host beside it as soon as a test needs the host.

Each test is marked `core` or `host` by what it imports (see needs.py). With `-m core` no module of ComfyUI can be
imported, and files that need more than the cores' packages are left out unread.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ROOT / ".host" / "packages"

# OpenMP's waiting threads slow small models tenfold on few cores; must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if not (PACKAGES / "palimpsest").exists():
    PACKAGES.mkdir(parents=True, exist_ok=True)
    (PACKAGES / "palimpsest").symlink_to(ROOT)
# The repository's root leaves the path, or its `nodes` would be found in the place of the host's.
sys.path[:] = [str(PACKAGES), *(entry for entry in sys.path if entry not in ("", str(ROOT), str(ROOT / "tests")))]

import pytest  # noqa: E402
from palimpsest.tests import workers  # noqa: E402
from palimpsest.tests.needs import HOST_MODULES, is_core, needs_host, packages_of  # noqa: E402
from palimpsest.tests.workers import (  # noqa: E402, F401
    pytest_xdist_auto_num_workers,
    pytest_xdist_make_scheduler,
)


class NoHost:
    """A finder in the host's place: a core test that needs the host after all fails with this sentence."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in HOST_MODULES:
            raise ModuleNotFoundError(f"'{name}' is ComfyUI's, and core tests run without it.", name=name)


class PlainFolder:
    """The checkout is a folder to pytest and no package: it would be imported under the folder's name, which may be a
    module of ComfyUI's (main, nodes). A plug-in, for this file is not asked about the folder above it."""

    @staticmethod
    def pytest_collect_directory(path: Path, parent: pytest.Collector):
        return pytest.Dir.from_parent(parent, path=path) if path.resolve() == ROOT else None


def pytest_addoption(parser: pytest.Parser):
    group = parser.getgroup("portability")
    group.addoption("--margins", action="store_true", help="list tests whose comparisons come near their tolerances")
    group.addoption("--perturb", type=int, metavar="SEED", help="round matrix products, convolutions, attention anew")


def pytest_configure(config: pytest.Config):
    config.left_out = []
    words = config.option.markexpr.split()
    config.core_only = words[:1] == ["core"] and "or" not in words
    if config.core_only:
        sys.meta_path.insert(0, NoHost)
    config.pluginmanager.register(PlainFolder)
    if config.option.margins or config.option.perturb is not None:
        from palimpsest.tests import portability  # not before: it takes torch, which not every process needs

        portability.configure(config)


@cache
def is_here(package: str) -> bool:
    return package in HOST_MODULES or find_spec(package) is not None


def missing(path: Path, name: str | None = None) -> list[str]:
    """Packages that are not here; the host's count as here."""
    return sorted(one for one in packages_of(path, name) if not is_here(one))


@cache
def enter_host():
    if not (ROOT / ".host" / "ComfyUI").exists():
        raise pytest.UsageError("These tests need ComfyUI: run 'make test' instead of pytest, or 'make test-core'.")
    from palimpsest.tools.inprocess import enter_host

    enter_host()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config):
    if not (collection_path.suffix == ".py" and collection_path.name.startswith("test_")):
        return None
    if lacking := missing(collection_path):
        config.left_out.append(f"{collection_path.relative_to(ROOT)} is left out: it needs {' and '.join(lacking)}")
    return bool(lacking) or (config.core_only and not is_core(collection_path)) or None


def pytest_sessionfinish(session: pytest.Session):
    """What a process found goes to the one that reports; see also Margins."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left out"] = session.config.left_out


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    lines = node.workeroutput["left out"] if hasattr(node, "workeroutput") else []
    node.config.left_out += [line for line in lines if line not in node.config.left_out]


def pytest_terminal_summary(terminalreporter, config: pytest.Config):
    for line in config.left_out:
        terminalreporter.write_line(line)


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path: Path, parent):
    if needs_host(module_path):
        enter_host()


def pytest_collection_modifyitems(items: list[pytest.Item]):
    workers.in_order(items)
    for item in items:
        name = item.nodeid.split("::")[1].split("[")[0]
        if not item.get_closest_marker("host"):  # a test that needs a file of the host's says so itself
            item.add_marker("core" if is_core(item.path, name) else "host")
        if lacking := missing(item.path, name):
            item.add_marker(pytest.mark.skip(reason=f"needs {' and '.join(lacking)}"))


def pytest_runtest_setup(item: pytest.Item):
    if needs_host(item.path, item.nodeid.split("::")[1].split("[")[0]):
        enter_host()


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory):
    """A running ComfyUI with the pack, the companion and the weights: `host.client`, `host.base`, `host.text()`."""
    from palimpsest.tools.inprocess import own_installation
    from palimpsest.tools.server import Host
    from palimpsest.tools.setup import link, make_base

    enter_host()
    base = make_base(tmp_path_factory.mktemp("host"))
    link(ROOT / "tests" / "host_pack", base / "custom_nodes" / "palimpsest_tests")
    # One rule on every machine: outputs that the running prompt does not use are forgotten, whatever memory there is.
    forget = ("--cache-ram", "2", "1000000")
    with Host.start(own_installation(base), extra=forget, log=base / "host.log") as running:
        yield running


@pytest.fixture(scope="session")
def newest_host(tmp_path_factory: pytest.TempPathFactory):
    """A second host, with the newest front end; skips where that cannot be had."""
    from palimpsest.tools.inprocess import own_installation
    from palimpsest.tools.server import Host
    from palimpsest.tools.setup import make_base

    from .browser import newest_front_end

    enter_host()
    extra = ("--front-end-root", str(newest_front_end()))
    base = make_base(tmp_path_factory.mktemp("newest"))
    with Host.start(own_installation(base), extra=extra, log=base / "host.log") as running:
        yield running


@pytest.fixture(scope="session", params=["host", "newest_host"], ids=["pinned front end", "newest front end"])
def front_end(request: pytest.FixtureRequest):
    """The host with the front end that it pins, then one with the newest."""
    # Named in full, so that the tests are known to need a host (see needs.py).
    pinned = request.param == "host"
    running = request.getfixturevalue("host") if pinned else request.getfixturevalue("newest_host")
    running.front_end = "pinned" if pinned else "newest"
    return running


@pytest.fixture
def host_client(host):
    """The client of the session's host, which must be alive before and after the test."""
    host.check_alive()
    yield host.client
    host.check_alive()
