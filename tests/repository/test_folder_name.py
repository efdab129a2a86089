"""A checkout may be called like a module of ComfyUI: the tests import nothing under the folder's name."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from palimpsest.tools.places import ROOT

TEST = """
import sys

def test_what_the_folder_is_called_is_still_free():
    assert {name!r} not in sys.modules
"""


@pytest.mark.parametrize("name", ["main", "nodes"])
def test_core_tests_run_in_a_folder_of_any_name(tmp_path, name):
    checkout = tmp_path / name
    (checkout / "tests").mkdir(parents=True)
    for file in (
        "__init__.py",
        "pyproject.toml",
        "tests/conftest.py",
        "tests/needs.py",
        "tests/workers.py",
    ):
        shutil.copy(ROOT / file, checkout / file)
    (checkout / "tests" / "test_sample.py").write_text(TEST.format(name=name), encoding="utf-8")
    run = subprocess.run([sys.executable, "-m", "pytest", "-m", "core"], cwd=checkout, capture_output=True, text=True)
    assert run.returncode == 0 and "1 passed" in run.stdout, run.stdout + run.stderr
