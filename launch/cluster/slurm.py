"""Jobs of a sweep on a SLURM cluster, through submitit."""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.schema.base import ConfigError
from conf.schema.launchers import SlurmLauncherConfig
from launch.cluster.job import import_submitit, job_failure, make_task, rank_handles
from launch.cluster.snapshot import take_snapshot
from launch.cluster.sweep import ENDED, Sweep, SweepJob, slurm_queue, write_sweep
from launch.runs.console import console

if TYPE_CHECKING:
    from submitit import Job

POLL_SECONDS = 1.0  # between two looks at the queue at first, and at most
MOST_SECONDS = 30.0


def submit(folder: Path, sweep: Sweep, jobs: Sequence[SweepJob], settings: SlurmLauncherConfig) -> "list[Job[str]]":
    """Submit jobs of a sweep to SLURM as one array, and write their ids into sweep.json."""
    executor = make_executor(folder, settings)
    take_snapshot(folder / ".code")
    for job in jobs:
        for mark in (folder / ".jobs").glob(f"{job.number}.*"):  # of an earlier submission
            mark.unlink()
    with executor.batch():
        submitted = [executor.submit(make_task(folder, sweep, job)) for job in jobs]
    for job, handle in zip(jobs, submitted, strict=True):
        job.id = handle.job_id
    write_sweep(folder, sweep)
    return submitted


def make_executor(folder: Path, settings: SlurmLauncherConfig, preview: bool = False) -> Any:
    """submitit's executor for these settings.

    Raises:
        ConfigError: submitit or SLURM is not installed.
    """
    submitit = import_submitit()
    if not preview and shutil.which("sbatch") is None:
        raise ConfigError(
            "hydra/launcher: must be basic or local on a machine without SLURM (no sbatch on the path), got slurm"
        )

    class Executor(submitit.SlurmExecutor):  # type: ignore[name-defined]
        @classmethod
        def affinity(cls) -> int:
            return 1  # also where there is no srun, to show the script

    executor = Executor(folder / ".submitit" / "%j")
    executor.update_parameters(**sbatch_parameters(folder, settings))
    return executor


def sbatch_parameters(folder: Path, settings: SlurmLauncherConfig) -> dict[str, Any]:
    """As submitit names them."""
    names = ["partition", "account", "qos", "constraint", "exclude", "gres", "comment", "nodes"]
    names += ["gpus_per_node", "cpus_per_task", "signal_delay_s", "array_parallelism"]
    given = {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}
    if settings.mem_gb is not None:
        given["mem"] = f"{round(settings.mem_gb * 1024)}MB"
    code = folder / ".code"
    path = f"{code}:{os.getcwd()}"
    srun = ["--kill-on-bad-exit=1"]  # no rank waits for one that failed
    if settings.cpus_per_task is not None:
        srun.append(f"--cpus-per-task={settings.cpus_per_task}")  # which srun does not take over from sbatch
    setup = [f'export PYTHONPATH="{path}${{PYTHONPATH:+:$PYTHONPATH}}"', f'cd "{code}"']
    return {
        **given,
        "job_name": settings.name,
        "time": settings.timeout_min,
        "ntasks_per_node": settings.tasks_per_node,
        "srun_args": [*srun, *settings.srun_args],
        "setup": [*settings.setup, *setup],
        "additional_parameters": {**settings.additional_parameters, "requeue": True},
    }


def sbatch_script(folder: Path, sweep: Sweep, settings: SlurmLauncherConfig) -> str:
    """The script that `submit` would give to sbatch."""
    executor = make_executor(folder, settings, preview=True)
    if len(sweep.jobs) > 1:
        executor.parameters["map_count"] = len(sweep.jobs)
    return str(executor._make_submission_file_text(executor._submitit_command_str, "preview"))


def wait(folder: Path, sweep: Sweep, submitted: "Sequence[Job[str]]") -> dict[int, str]:
    """Wait for submitted jobs; why each of those that failed did, by number. Not by sacct: not every site has it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    failures: dict[int, str] = {}
    began = time.monotonic()
    left = dict(zip((job.number for job in sweep.jobs if job.id is not None), submitted, strict=True))
    columns = (TextColumn("jobs"), BarColumn(bar_width=12), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[failed]}"), console=console) as progress:
        bar = progress.add_task("jobs", total=len(left), failed="")
        gone: dict[int, int] = {}
        while left:
            queue = slurm_queue()
            for number, handle in list(left.items()):
                job = next(job for job in sweep.jobs if job.number == number)
                over = queue is not None and queue.get(str(job.id), "gone") in (*ENDED, "gone")
                gone[number] = gone.get(number, 0) + 1 if over else 0
                complete = all(task.paths.result_pickle.exists() for task in rank_handles(handle))
                if not complete and gone[number] < 3:  # the file system may be slower than the queue
                    continue
                if not complete and queue is not None and not over:
                    continue
                del left[number]
                failure = job_failure(folder / job.folder, handle)
                if failure is not None:
                    failures[number] = failure
                progress.update(bar, advance=1, failed=f"{len(failures)} failed" if failures else "")
            if left:
                time.sleep(min(POLL_SECONDS + (time.monotonic() - began) / 20, MOST_SECONDS))  # spare the controller
    return failures
