"""A real Chromium for tests of the front end, where one is: what it needs, and the mark of the tests that need it.

npm install --prefix .host/browser playwright-core
"""

import shutil
from pathlib import Path

import pytest

PLAYWRIGHT = Path(__file__).resolve().parents[1] / ".host" / "browser"
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
