"""Faults that are known and not mended yet: the tests that say what is right, and must fail until it is."""

import json
from pathlib import Path

import pytest

FAULTS = json.loads(Path(__file__).with_name("known_faults.json").read_text(encoding="utf-8"))


def pytest_collection_modifyitems(items):
    reasons = {test: reason for reason, tests in FAULTS.items() for test in tests}
    for item in items:
        name = f"{Path(item.fspath).name}::{item.name}"
        if Path(item.fspath).parent == Path(__file__).parent and name in reasons:
            item.add_marker(pytest.mark.xfail(strict=True, reason=reasons[name]))
