"""Rows, targets and the merging of results."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType

import pytest
from palimpsest.benchmarks import results as rows_module, run
from palimpsest.benchmarks.results import (
    Row,
    load,
    load_test_runs,
    meets,
    merge,
    number,
    save,
    save_test_run,
    summary,
    table,
)

FACTS = {"machine": "m", "date": "2026-01-01"}


def row(technique="a", measure="x", mode="fast", value=1.0, target="", **facts):
    return Row.make(technique, measure, mode, value, "dB", target, **{**FACTS, **facts})


@pytest.mark.parametrize(
    "value, target, met",
    [
        (30, ">= 30", True),
        (29.9, ">= 30", False),
        (1.3, "<= 1.3", True),
        (1.31, "<= 1.3", False),
        (0, "> 0", False),
        (4.9, "< 5", True),
        (0, "== 0", True),
        (1e-5, "<= 1e-4", True),
        (-3, ">= -2.5", False),
        (None, ">= 30", None),
        (30, "", None),
    ],
)
def test_a_target_is_met_or_not_or_unknown(value, target, met):
    assert meets(value, target) is met


@pytest.mark.parametrize("target", ["30", ">=30", "about 30", ">= thirty", "=> 3"])
def test_a_target_that_is_no_relation_is_refused(target):
    with pytest.raises(ValueError, match="not a relation and a number"):
        meets(1.0, target)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="not a measurement"):
        row(value=value)


def test_values_are_rounded_to_six_digits_and_judged_after_that():
    made = row(value=29.99999999, target=">= 30")
    assert made.value == 30.0 and made.met is True
    assert row(value=None, target=">= 30").met is None


def test_a_rerun_replaces_the_rows_of_its_techniques_alone():
    old = [row("a", "x"), row("a", "gone"), row("b", "y", value=5.0)]
    new = [row("a", "x", value=2.0)]
    assert merge(old, new) == [row("a", "x", value=2.0), row("b", "y", value=5.0)]
    assert merge(old, [], techniques=["b"]) == [row("a", "gone"), row("a", "x")]


def test_the_order_does_not_depend_on_who_was_measured_first():
    some = [row("b"), row("a", "y"), row("a", "x", "slow"), row("a", "x", "fast")]
    assert merge([], some) == merge([], some[::-1]) == merge(merge([], some[:1]), some[1:])


def test_a_gpu_row_survives_a_machine_without_one_and_takes_the_new_target():
    old = [row("a", "t", "gpu", 7.0, "<= 10", machine="H200", date="2025-01-01")]
    (kept,) = merge(old, [row("a", "t", "gpu", None, "<= 8")])
    assert (kept.value, kept.machine, kept.date, kept.target, kept.met) == (7.0, "H200", "2025-01-01", "<= 8", True)


def test_the_same_measure_twice_is_an_error():
    with pytest.raises(ValueError, match="Measured twice: a, x, fast"):
        merge([], [row(), row(value=3.0)])


def test_rows_come_back_from_the_file_as_they_were(tmp_path):
    some = [row(), row("b", value=None, target=">= 3"), row("c", value=0.123456789, target="<= 1")]
    save(some, tmp_path / "r.json")
    assert load(tmp_path / "r.json") == some
    save([], tmp_path / "none.json")
    assert load(tmp_path / "none.json") == load(tmp_path / "missing.json") == []


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "-"),
        (0, "0"),
        (3.0, "3"),
        (24.4321, "24.43"),
        (1713.4, "1713"),
        (0.00123456, "0.001235"),
        (3.2e-6, "3.2e-06"),
        (-0.5, "-0.5"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_tables_and_the_summary_say_how_things_stand():
    wishes = (("x", 31, ">= 30"), ("y", 1, ">= 2"), ("z", None, "< 1"))
    some = [row(measure=measure, value=value, target=target) for measure, value, target in wishes]
    lines = table(some).splitlines()
    assert [line.split()[-1] for line in lines[1:3]] == ["yes", "no"]
    assert summary(some) == "3 targets: 1 met, 1 missed, 1 not measured here."


@pytest.fixture
def suites(monkeypatch, tmp_path):
    """Two suites in a folder of their own, one of which fails, and a results file of their own."""
    for name, rows in (("good", lambda context: [row("a", value=2.0)]), ("bad", lambda context: 1 / 0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "suite.py").write_text("")
        module = ModuleType(name)
        module.rows = rows
        monkeypatch.setitem(sys.modules, f"palimpsest.benchmarks.{name}.suite", module)
    monkeypatch.setattr(run, "FOLDER", tmp_path)
    monkeypatch.setattr(run, "Context", lambda: ModuleContext())
    results = tmp_path / "results.json"
    monkeypatch.setattr(run, "load", lambda: load(results))
    monkeypatch.setattr(run, "save", lambda rows: save(rows, results))
    monkeypatch.setattr(run, "save_test_run", lambda rows: save_test_run(rows, tmp_path / "test_runs.json"))
    save([row("b")], results)
    return results


class ModuleContext:
    machine, date = "m", "2026-01-01"

    def close(self) -> None:
        pass


def test_a_suite_that_fails_does_not_stop_the_others(suites, capsys):
    assert run.main([]) == 1
    assert load(suites) == [row("a", value=2.0), row("b")]
    assert "Failed: bad." in capsys.readouterr().err


def test_each_run_that_has_a_value_is_counted_as_one_of_the_test_split(suites, monkeypatch):
    test_runs, module = suites.with_name("test_runs.json"), sys.modules["palimpsest.benchmarks.good.suite"]
    for _ in range(2):
        run.main([])
    assert load_test_runs(test_runs) == {"a": 2}
    monkeypatch.setattr(module, "TEST_SPLIT", False, raising=False)
    run.main(["good"])
    monkeypatch.undo()
    assert load_test_runs(test_runs) == {"a": 2}


def test_a_row_without_a_value_is_not_counted(tmp_path):
    save_test_run([row("a", value=None), row("b")], tmp_path / "test_runs.json")
    assert load_test_runs(tmp_path / "test_runs.json") == {"b": 1}


def test_one_suite_can_be_chosen_and_an_unknown_one_is_a_sentence(suites):
    assert run.main(["good"]) == 0
    with pytest.raises(SystemExit, match=r"no benchmark suite 'ugly': choose from bad, good."):
        run.main(["ugly"])


def test_the_committed_results_are_sorted_unique_and_judged_by_today_s_rule():
    rows = load()
    assert merge([], rows) == rows
    assert all(replace(one, met=meets(one.value, one.target)) == one for one in rows)
    assert rows_module.RESULTS.is_file()
