"""`make bench`: runs the suites of every technique, prints their tables, renews `results.json` and the README.

A suite is a file `<technique>/suite.py` or `<technique>/suite_<part>.py` with `rows(context)`, which yields
`context.row(...)`; see `context.py`. `make bench SUITE=diffedit_settings` runs `diffedit/suite_settings.py` alone, and
leaves the rows of the others as they are. Each run is counted in `test_runs.json`, but for suites with
`TEST_SPLIT = False`, whose scenes are others.
"""

from __future__ import annotations

import sys
import time
import traceback
from importlib import import_module
from itertools import groupby
from pathlib import Path

from .context import Context
from .results import RESULTS, Row, load, merge, save, save_test_run, summary, table

FOLDER = Path(__file__).resolve().parent


def suites() -> dict[str, str]:
    """The module of every suite, by name: `diffedit.suite_settings` for `diffedit_settings`."""
    found = {}
    for path in sorted(FOLDER.glob("*/suite*.py")):
        technique = path.parent.name
        found[technique + path.stem.removeprefix("suite")] = f"{technique}.{path.stem}"
    return found


def chosen(arguments: list[str]) -> list[str]:
    """The suites that are asked for, all where none is; an unknown one is a sentence."""
    known = sorted(suites())
    wanted = [name for argument in arguments for name in argument.replace(",", " ").split()]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise SystemExit(f"There is no benchmark suite '{unknown[0]}': choose from {', '.join(known) or 'none yet'}.")
    return wanted or known


def run_suite(name: str, context: Context) -> list[Row]:
    """All rows of one suite; its table is printed, a technique at a time."""
    module = import_module(f"{__package__}.{suites()[name]}")
    start = time.monotonic()
    rows = list(module.rows(context))
    for technique, group in groupby(rows, key=lambda row: row.technique):
        print(f"\n{technique}\n{table(list(group))}", flush=True)
    print(f"({name}: {time.monotonic() - start:.0f} s)", flush=True)
    save(merge(load(), rows, getattr(module, "TECHNIQUES", ())))
    if getattr(module, "TEST_SPLIT", True):
        save_test_run(rows)
    return rows


def main(arguments: list[str]) -> int:
    """Suites that fail keep their old rows; the others are still measured, and the exit code is 1."""
    names = chosen(arguments)
    context, failed, rows = Context(), [], []
    print(f"Measured on {context.machine}, {context.date}.", flush=True)
    try:
        for name in names:
            try:
                rows += run_suite(name, context)
            except Exception:
                failed.append(name)
                traceback.print_exc()
    finally:
        context.close()
    print(f"\n{summary(rows)} The rows are in {RESULTS}.")
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
