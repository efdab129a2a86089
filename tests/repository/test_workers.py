"""The tests in several processes: how many, what stays together, and what they report together."""

from __future__ import annotations

import io
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
from palimpsest.tests import workers
from palimpsest.tests.portability import Margins
from palimpsest.tools import portable
from palimpsest.tools.places import ROOT

FILE = "tests/repository/test_workers.py"


@pytest.mark.parametrize("cores, memory, arguments, expected", [
    (1, 32, ["tests"], 0),
    (2, 32, ["tests"], 2),
    (4, 32, ["tests"], 4),
    (64, 32, ["tests"], 4),
    (4, 8.2, ["tests"], 2),
    (4, 3.9, ["tests"], 0),
    (2, 32, ["tests/motion"], 2),
    (2, 32, ["tests/motion", FILE], 2),
    (2, 32, [FILE], 0),
    (2, 32, [f"{FILE}::test_a", f"{FILE}::test_b"], 0),
])  # fmt: skip
def test_processes_are_as_many_as_cores_and_memory_serve_and_none_more_for_a_single_file(
    monkeypatch, cores, memory, arguments, expected
):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(workers, "cores", lambda: cores)
    monkeypatch.setattr(workers, "memory", lambda: memory)
    assert workers.number(arguments) == expected


def test_files_stay_together_and_in_order_and_workflows_are_dealt_out_last(request):
    examples = workers.DEALT_OUT
    assert (ROOT / examples).is_file()
    ids = [
        f"{examples}::test_a[01]",
        f"{examples}::test_a[02]",
        f"{examples}::test_b[01]",
        "b.py::test_a[01]",
        "a.py::test",
    ]
    items = [SimpleNamespace(nodeid=one) for one in ids]
    workers.in_order(items)
    assert [one.nodeid for one in items] == [*ids[3:], *ids[:3]]
    assert Counter(map(workers.together, ids)) == {f"{examples}::01]": 2, f"{examples}::02]": 1, "b.py": 1, "a.py": 1}


def test_the_margins_of_all_processes_are_listed(monkeypatch):
    for owner, name in Margins.PLACES:
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back at the end
    process, reporting = Margins(verbose=False), Margins(verbose=False)
    process.worst = {"near": (2.0, "a.py:1")}
    session = SimpleNamespace(config=SimpleNamespace(workeroutput={}))
    process.pytest_sessionfinish(session)
    reporting.pytest_testnodedown(SimpleNamespace(workeroutput=session.config.workeroutput))
    reporting.pytest_testnodedown(SimpleNamespace())  # a process that crashed reports nothing
    assert reporting.worst == process.worst


def test_a_portable_run_keeps_the_closing_line_the_code_and_the_near_tests(monkeypatch, tmp_path):
    fake = tmp_path / "pytest.py"
    fake.write_text(
        "import os, sys\nprint('.. [100%]\\n===== margins =====\\n  1.5  near (a.py:1)')\n"
        "print('2 tests compare with a tolerance')\n"
        "print('== warnings ==\\nnot near\\n1 failed', os.environ['ATEN_CPU_CAPABILITY'])\nsys.exit(1)\n"
    )
    monkeypatch.setattr(portable, "ROOT", tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    log = io.StringIO()
    run = portable.Run({"ATEN_CPU_CAPABILITY": "default"}, ["--margins"]).go([], log)
    assert (run.code, run.last) == (1, "1 failed default")
    assert run.margins == ["  1.5  near (a.py:1)", "2 tests compare with a tolerance"]
    assert log.getvalue() == sys.stdout.getvalue() and "== ATEN_CPU_CAPABILITY=default --margins\n" in log.getvalue()
