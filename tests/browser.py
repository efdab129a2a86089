"""A real Chromium for tests of the front end, where one is: what it needs, and the mark of the tests that need it.

npm install --prefix .host/browser playwright-core
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HOST = Path(__file__).resolve().parents[1] / ".host"
PLAYWRIGHT = HOST / "browser"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [
    name
    for name, there in (
        ("Node.js", shutil.which("node")),
        ("Chromium", CHROMIUM),
        (
            "playwright-core (npm install --prefix .host/browser playwright-core)",
            (PLAYWRIGHT / "node_modules" / "playwright-core").is_dir(),
        ),
    )
    if not there
]
needs_browser = pytest.mark.skipif(bool(MISSING), reason=f"the browser test needs {', '.join(MISSING)}")
both_renderers = pytest.mark.parametrize("vue", [False, True], ids=["classic", "nodes 2.0"])
# What artists who update get, beside the front end that the host pins.
NEWEST = "1.58.1"


def newest_front_end() -> Path:
    """The folder for the host's --front-end-root. Skips the test where the package cannot be had."""
    folder = HOST / f"front-end-{NEWEST}"
    static = folder / "comfyui_frontend_package" / "static"
    if not (static / "index.html").is_file():
        wanted = f"comfyui-frontend-package=={NEWEST}"
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), wanted]
        run = subprocess.run(install, capture_output=True, text=True, timeout=300)
        if run.returncode or not (static / "index.html").is_file():
            pytest.skip(f"{wanted} cannot be installed: {run.stderr.strip()[-200:]}")
    return static


def browse(script: Path, host, vue: bool, **given) -> dict:
    """Runs a script that ends in `browse` of browser.mjs against a running host; what it found, without page errors.

    vue: Nodes 2.0 instead of the classic canvas. given: what the script reads besides. BROWSER_PICTURES names a folder
    for screenshots.
    """
    wanted = {
        "playwright": str(PLAYWRIGHT), "chromium": CHROMIUM, "url": host.client.url, "vue": vue, "patience": 120_000,
        "out": os.environ.get("BROWSER_PICTURES", ""), **given,
    }  # fmt: skip
    run = subprocess.run(["node", str(script)], input=json.dumps(wanted), capture_output=True, text=True, timeout=540)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found.pop("errors") == []
    return found
