"""The host's own modules inside this process, for tests, benchmarks and tables (never for the pack itself)."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from pathlib import Path

from .places import HOST, ROOT, Installation
from .setup import make_base


def own_installation(base: Path) -> Installation:
    """The host of `.host/ComfyUI` with the Python that runs now, on another base directory."""
    return Installation(sys.executable, str(HOST / "ComfyUI"), str(base))


def enter_host(cpu: bool = True) -> Path:
    """Makes `import comfy`, `import nodes` and `import folder_paths` find the host; returns its base directory.

    Must run before the first of these imports. The repository's root leaves the path, or its own `nodes` would be
    found in the host's place; the pack itself is `palimpsest`, through the link in `.host/packages`.
    """
    hidden = {"", str(ROOT), str(ROOT / "tests")}
    sys.path[:] = [entry for entry in sys.path if entry not in hidden]
    for entry in (str(HOST / "ComfyUI"), str(HOST / "packages")):
        if entry not in sys.path:
            sys.path.insert(0, entry)
    import comfy.cli_args

    base = Path(tempfile.mkdtemp(prefix="palimpsest-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    comfy.cli_args.args.cpu = cpu
    comfy.cli_args.args.base_directory = str(make_base(base))
    return base
