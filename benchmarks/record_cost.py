"""The cost of recording: the share of a small run's time that is spent on metrics, samples, record and checkpoints.

    python -m benchmarks.record_cost [RUNS]

Measures the methods of `Run` that write files. Runs the 1-2 task with its default settings (a checkpoint every minute
and at the end), and again with a checkpoint every ten steps, and prints medians over RUNS runs each.
"""

import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from launch.cli.overrides import run_folder_override
from launch.runs.run import Run

WRITERS = ("__init__", "__exit__", "register_state", "log", "log_samples", "finish", "_after_step")


class Stopwatch:
    """Seconds spent in the wrapped methods. A method that another wrapped method calls is not counted twice."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    def wrap(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method, with its time measured."""

        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            self._depth += 1
            start = time.perf_counter()
            try:
                return method(*arguments, **keywords)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.seconds += time.perf_counter() - start

        return wrapped


def main(runs: int = 3) -> None:
    stopwatch = Stopwatch()
    for name in WRITERS:
        setattr(Run, name, stopwatch.wrap(getattr(Run, name)))
    lines = ["setting                     seconds  recording seconds  share"]
    for title, overrides in (("defaults", []), ("checkpoint.every_steps=10", ["checkpoint.every_steps=10"])):
        measured = [measure(overrides, stopwatch) for _ in range(runs)]
        total, recording = (statistics.median(column) for column in zip(*measured, strict=True))
        share = statistics.median(recording / total for total, recording in measured)
        lines.append(f"{title:<27} {total:7.1f}  {recording:17.2f}  {share:.2%}")
    print("\n".join(lines))  # after the output of the runs


def measure(overrides: list[str], stopwatch: Stopwatch) -> tuple[float, float]:
    """Seconds of a run from the start of its record to its end, and seconds spent recording."""
    stopwatch.seconds, bounds = 0.0, []
    original_enter, original_exit = Run.__enter__, Run.__exit__

    def exit_run(run: Run, *error: Any) -> None:
        original_exit(run, *error)
        bounds.append(time.perf_counter())

    def enter_run(run: Run) -> Run:
        bounds.append(time.perf_counter() - stopwatch.seconds)  # the time of __init__ belongs to the run
        return original_enter(run)

    Run.__enter__, Run.__exit__ = enter_run, exit_run  # type: ignore[assignment, method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            sys.argv = ["python -m llm", "experiment=one_two", *overrides, run_folder_override(f"{folder}/run")]
            runpy.run_module("llm", run_name="__main__", alter_sys=True)
    finally:
        Run.__enter__, Run.__exit__ = original_enter, original_exit  # type: ignore[method-assign]
    return bounds[1] - bounds[0], stopwatch.seconds


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
