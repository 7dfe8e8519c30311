"""Measure what recording costs: the share of a tiny run's time spent on metrics, samples, records and checkpoints.

    python -m benchmarks.record_cost [RUNS]

The methods of `Run` that write are timed. The 1-2 task runs with its defaults (a checkpoint every minute and one at
the end), then with a checkpoint every ten steps. The medians over RUNS runs are printed.
"""

import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from launch.runs.run import Run

WRITERS = ("__init__", "__exit__", "register_state", "log", "log_samples", "finish", "_after_step")


def main(runs: int = 3) -> None:
    spent = [0.0]
    for name in WRITERS:
        setattr(Run, name, timed(getattr(Run, name), spent))
    lines = ["setting                     seconds  of them recording  share"]
    for title, overrides in (("defaults", []), ("checkpoint.every_steps=10", ["checkpoint.every_steps=10"])):
        measured = [measure(overrides, spent) for _ in range(runs)]
        total, recording = (statistics.median(column) for column in zip(*measured, strict=True))
        share = statistics.median(part / whole for whole, part in measured)
        lines.append(f"{title:<27} {total:7.1f}  {recording:17.2f}  {share:.2%}")
    print("\n".join(lines))  # after the output of the runs


def timed(method: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """Wrap a method so that its time is added to `spent`. Nested calls of wrapped methods are counted once."""
    depth = [0]

    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        depth[0] += 1
        start = time.perf_counter()
        try:
            return method(*arguments, **keywords)
        finally:
            depth[0] -= 1
            if depth[0] == 0:
                spent[0] += time.perf_counter() - start

    return wrapped


def measure(overrides: list[str], spent: list[float]) -> tuple[float, float]:
    """Seconds of a run from the start of its record to the end, and the part of them spent recording."""
    spent[0], bounds = 0.0, []
    enter, leave = Run.__enter__, Run.__exit__

    def timed_leave(run: Run, *error: Any) -> None:
        leave(run, *error)
        bounds.append(time.perf_counter())

    def timed_enter(run: Run) -> Run:
        bounds.append(time.perf_counter() - spent[0])  # the time of __init__ belongs to the run
        return enter(run)

    Run.__enter__, Run.__exit__ = timed_enter, timed_leave  # type: ignore[assignment, method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            sys.argv = ["python -m llm", "experiment=one_two", *overrides, f"hydra.run.dir={folder}/run"]
            runpy.run_module("llm", run_name="__main__", alter_sys=True)
    finally:
        Run.__enter__, Run.__exit__ = enter, leave  # type: ignore[method-assign]
    return bounds[1] - bounds[0], spent[0]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
