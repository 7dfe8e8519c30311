"""Run the jobs of a sweep as processes on this machine, through submitit."""

import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from conf.schema.launchers import LocalLauncherConfig
from launch.cli.import_path import python_path
from launch.cluster.controller import start_controller
from launch.cluster.job import import_submitit, job_failure, make_task, retry_limit
from launch.cluster.snapshot import take_snapshot
from launch.cluster.sweep import Sweep, SweepJob
from launch.runs import signals

POLL_SECONDS = 0.1


def run_locally(
    folder: Path, sweep: Sweep, jobs: Sequence[SweepJob], settings: LocalLauncherConfig
) -> dict[int, str]:
    """Run jobs as processes on this machine, `array_parallelism` at a time.

    A signal lets the running jobs complete their step and save a checkpoint; a second one ends them at once.

    Returns:
        The reason of each failure by job number.

    Raises:
        KeyboardInterrupt: a signal asked to stop. Its argument is the signal's number. All jobs have ended.
    """
    take_snapshot(folder / ".code")
    executor = make_executor(folder, settings)
    waiting, attempts = list(jobs), dict.fromkeys((job.number for job in jobs), 0)
    running: dict[int, tuple[SweepJob, Any]] = {}
    failures: dict[int, str] = {}
    signals.defer(True)
    try:
        while (waiting or running) and signals.pending() is None:
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
            time.sleep(POLL_SECONDS)
    finally:
        with signals.held():
            stop_jobs([handle for _, handle in running.values()])
        signals.defer(False)
    interruption = signals.pending()
    if interruption is not None:
        raise KeyboardInterrupt(interruption)
    return failures


def make_executor(folder: Path, settings: LocalLauncherConfig) -> Any:
    """submitit's executor of local processes, with a controller of our own.

    Raises:
        ConfigError: submitit is not installed.
    """
    submitit = import_submitit()

    class Executor(submitit.LocalExecutor):  # type: ignore[name-defined]
        def _submit_command(self, command: str) -> Any:
            process = start_controller(self.folder, controller_environment(command, settings))
            tasks = list(range(settings.tasks_per_node))
            job = submitit.LocalJob(folder=self.folder, job_id=str(process.pid), process=process, tasks=tasks)
            job.controller = process
            return job

    executor = Executor(folder / ".submitit" / "%j")
    executor.update_parameters(tasks_per_node=settings.tasks_per_node, timeout_min=settings.timeout_min)
    return executor


def controller_environment(command: str, settings: LocalLauncherConfig) -> dict[str, str]:
    """The environment that submitit's `Controller` and the ranks of a job read their settings from."""
    return {
        **os.environ,
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_COMMAND": command,
        "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
        "SUBMITIT_LOCAL_NODEID": "0",
        "SUBMITIT_LOCAL_NTASKS": str(settings.tasks_per_node),
        "SUBMITIT_LOCAL_SIGNAL_DELAY_S": "30",
        "SUBMITIT_LOCAL_TIMEOUT_S": str(60 * settings.timeout_min),
        "SUBMITIT_LOCAL_WITH_SHELL": "",
        "SUBMITIT_STDERR_TO_STDOUT": "",
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(settings.gpus_per_node or 0))),
    }


def stop_jobs(handles: Iterable[Any]) -> None:
    """Ask jobs to stop after their step, and wait until they have ended; a second signal ends them at once."""
    handles = [handle for handle in handles if not handle.done()]
    if handles:
        print(f"waiting for {len(handles)} jobs to save a checkpoint; another Ctrl-C ends them at once", flush=True)
    for handle in handles:
        handle.controller.stdin.close()
    told = False
    while not all(handle.done() for handle in handles):
        if signals.urgent() and not told:
            told = True
            for handle in handles:
                handle.controller.send_signal(signal.SIGINT)  # not sent if it has ended
        time.sleep(POLL_SECONDS)


@contextmanager
def _from_snapshot(code: Path) -> Iterator[None]:
    """Let processes that are started in this context import from the snapshot and run in it."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = python_path(code)
    try:
        with chdir(code):
            yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
