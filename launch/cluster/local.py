"""Run the jobs of a sweep as processes on this machine, through submitit."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from conf.schema.launchers import LocalLauncherConfig
from launch.cluster.job import import_submitit, job_failure, make_task, retry_limit
from launch.cluster.snapshot import take_snapshot
from launch.cluster.sweep import Sweep, SweepJob


def run_locally(
    folder: Path, sweep: Sweep, jobs: Sequence[SweepJob], settings: LocalLauncherConfig
) -> dict[int, str]:
    """Run jobs as processes on this machine, `array_parallelism` at a time.

    Returns:
        The reason of each failure by job number.
    """
    submitit = import_submitit()
    take_snapshot(folder / ".code")
    executor = submitit.LocalExecutor(folder / ".submitit" / "%j")
    executor.update_parameters(
        tasks_per_node=settings.tasks_per_node,
        gpus_per_node=settings.gpus_per_node or 0,
        timeout_min=settings.timeout_min,
    )
    waiting, attempts = list(jobs), dict.fromkeys((job.number for job in jobs), 0)
    running: dict[int, tuple[SweepJob, Any]] = {}
    failures: dict[int, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < settings.array_parallelism:
                job = waiting.pop(0)
                with _from_snapshot(folder / ".code"):
                    running[job.number] = (job, executor.submit(make_task(folder, sweep, job)))
            for number, (job, handle) in list(running.items()):
                if not handle.done():
                    continue
                del running[number]
                failure = job_failure(folder / job.folder, handle)
                attempts[number] += 1
                if failure is None:
                    print(f"[{number}] finished: {' '.join(job.overrides)}", flush=True)
                elif attempts[number] <= retry_limit(sweep.on_failure):
                    print(f"[{number}] failed, trying again: {' '.join(job.overrides)}", flush=True)
                    waiting.append(job)
                else:
                    failures[number] = failure
                    if sweep.on_failure == "stop":
                        failures |= {other.number: "not started: an earlier job failed" for other in waiting}
                        waiting.clear()
            time.sleep(0.1)
    finally:
        for _, handle in running.values():
            handle.cancel()
    return failures


@contextmanager
def _from_snapshot(code: Path) -> Iterator[None]:
    """Let processes that are started in this context import from the snapshot and run in it."""
    before, cwd = os.environ.get("PYTHONPATH"), os.getcwd()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(code), cwd, *([before] if before else [])])
    try:
        with chdir(code):
            yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
