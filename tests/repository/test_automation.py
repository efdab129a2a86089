"""The workflows and the hooks run what anyone can run: make targets that exist, nothing that is fetched."""

from __future__ import annotations

import re

import pytest
import yaml
from palimpsest.tools.places import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_make_targets(path):
    """Installing the packages that a target asks for is all that may stand before it."""
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = [command.split()[1] for command in commands if command.startswith("make ")]
    others = [command for command in commands if not command.startswith("make ")]
    assert targets and set(targets) <= TARGETS
    assert all(command.startswith("python3 -m pip install ") and "-r tools/" in command for command in others)


def test_there_is_a_workflow_for_lint_tests_and_publishing():
    assert {path.stem for path in WORKFLOWS} == {"lint", "test-core", "test", "publish"}


def test_hooks_are_local():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in hooks["repos"]] == ["local"]
    for hook in hooks["repos"][0]["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(("make ", ".venv/bin/python -m ruff ")), hook["entry"]
        if hook["entry"].startswith("make "):
            assert hook["entry"].split()[1] in TARGETS
