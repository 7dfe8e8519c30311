"""What the record costs: the share of a tiny run's time that goes into metrics, samples, record and checkpoints.

    python -m benchmarks.record_cost [RUNS]

It wraps the methods of `Run` that write, runs the 1-2 task with its defaults (a checkpoint a minute, one at the end),
and once more with a checkpoint at every tenth step, and prints the medians.
"""

import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from launch.runs.run import Run

WRITERS = ("__init__", "__exit__", "keep", "log", "sample", "finish", "_after")


def main(runs: int = 3) -> None:
    spent = [0.0]
    for name in WRITERS:
        setattr(Run, name, timed(getattr(Run, name), spent))
    lines = ["setting                     seconds  of them recording  share"]
    for title, overrides in (("defaults", []), ("checkpoint.every_steps=10", ["checkpoint.every_steps=10"])):
        measured = [measure(overrides, spent) for _ in range(runs)]
        total, record = (statistics.median(column) for column in zip(*measured, strict=True))
        share = statistics.median(part / whole for whole, part in measured)
        lines.append(f"{title:<27} {total:7.1f}  {record:17.2f}  {share:.2%}")
    print("\n".join(lines))  # after what the runs say


def timed(method: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """The method, with its time added to what is spent; what it calls of the others is counted once."""
    depth = [0]

    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        depth[0] += 1
        began = time.perf_counter()
        try:
            return method(*arguments, **keywords)
        finally:
            depth[0] -= 1
            if depth[0] == 0:
                spent[0] += time.perf_counter() - began

    return wrapped


def measure(overrides: list[str], spent: list[float]) -> tuple[float, float]:
    """Seconds of a run from its record's beginning to its end, and those spent recording."""
    spent[0], bounds = 0.0, []
    entered, left = Run.__enter__, Run.__exit__

    def leave(run: Run, *error: Any) -> None:
        left(run, *error)
        bounds.append(time.perf_counter())

    def enter(run: Run) -> Run:
        bounds.append(time.perf_counter() - spent[0])  # what __init__ took belongs to the run
        return entered(run)

    Run.__enter__, Run.__exit__ = enter, leave  # type: ignore[assignment, method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            sys.argv = ["python -m llm", "experiment=one_two", *overrides, f"hydra.run.dir={folder}/run"]
            runpy.run_module("llm", run_name="__main__", alter_sys=True)
    finally:
        Run.__enter__, Run.__exit__ = entered, left  # type: ignore[method-assign]
    return bounds[1] - bounds[0], spent[0]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
