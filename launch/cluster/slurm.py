"""Run the jobs of a sweep on a SLURM cluster, through submitit."""

import re
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.schema.base import ConfigError
from conf.schema.launchers import SlurmLauncherConfig
from launch.cli.import_path import join_folders
from launch.cluster.job import import_submitit, job_failure, make_task, rank_handles
from launch.cluster.snapshot import take_snapshot
from launch.cluster.sweep import ENDED, Sweep, SweepJob, slurm_queue, write_sweep
from launch.runs.console import console

if TYPE_CHECKING:
    from submitit import Job

SBATCH_SETTINGS = (  # settings that are parameters of submitit's executor
    *("partition", "account", "qos", "constraint", "exclude", "gres", "comment", "nodes"),
    *("gpus_per_node", "cpus_per_task", "signal_delay_s", "array_parallelism"),
)
POLL_SECONDS = 1.0  # time between two calls of squeue, at first
MAX_POLL_SECONDS = 30.0


def submit_jobs(
    folder: Path, sweep: Sweep, jobs: Sequence[SweepJob], settings: SlurmLauncherConfig
) -> "list[Job[str]]":
    """Submit jobs of a sweep to SLURM as one job array, and write their ids to sweep.json."""
    executor = make_executor(folder, sweep, settings)
    take_snapshot(folder / ".code")
    for job in jobs:
        for marker in (folder / ".jobs").glob(f"{job.number}.*"):  # of an earlier submission
            marker.unlink()
    with executor.batch():
        submitted = [executor.submit(make_task(folder, sweep, job)) for job in jobs]
    for job, handle in zip(jobs, submitted, strict=True):
        job.id = handle.job_id
    write_sweep(folder, sweep)
    return submitted


def make_executor(folder: Path, sweep: Sweep, settings: SlurmLauncherConfig, preview: bool = False) -> Any:
    """Make submitit's executor for these settings.

    Args:
        folder: the sweep folder.
        sweep: its record.
        settings: the settings of the launcher.
        preview: whether the executor only shows the script, for which SLURM need not be installed.

    Raises:
        ConfigError: submitit or SLURM is not installed, or a setting or the folder cannot be written into a script.
    """
    submitit = import_submitit()
    if not preview and shutil.which("sbatch") is None:
        raise ConfigError(
            "hydra/launcher: slurm needs SLURM, but there is no sbatch on the path; use hydra/launcher=local or basic"
        )

    class Executor(submitit.SlurmExecutor):  # type: ignore[name-defined]
        @classmethod
        def affinity(cls) -> int:
            return 1  # submitit's own method needs srun, which a preview does not

    executor = Executor(folder / ".submitit" / "%j")
    check_script(folder, settings)
    executor.update_parameters(**sbatch_parameters(folder, settings))
    return executor


def check_script(folder: Path, settings: SlurmLauncherConfig) -> None:
    """Check what submitit writes into the sbatch script without regard for line ends and SLURM's own patterns.

    Raises:
        ConfigError: a setting would not stay on its line, or sbatch would read the folder as another one.
    """
    if re.search(r"[%\\\x00-\x1f\x7f]", str(folder)):
        advice = "use a path without %, \\ and line ends"
        raise ConfigError(f"hydra.sweep.dir: sbatch cannot write to {str(folder)!r}; {advice}")
    for name in settings.additional_parameters:
        if not re.fullmatch(r"[\w-]+", name):
            raise ConfigError(f"hydra.launcher.additional_parameters: {name!r} is not an option of sbatch")
    values = {name: getattr(settings, name) for name in ("name", *SBATCH_SETTINGS)}
    values |= {f"additional_parameters.{name}": value for name, value in settings.additional_parameters.items()}
    for name, value in values.items():
        if re.search(r"[\x00-\x1f\x7f]", str(value)):
            raise ConfigError(f"hydra.launcher.{name}: must be one line, got {value!r}")


def sbatch_parameters(folder: Path, settings: SlurmLauncherConfig) -> dict[str, Any]:
    """The parameters of submitit's executor."""
    parameters = {name: getattr(settings, name) for name in SBATCH_SETTINGS if getattr(settings, name) is not None}
    if settings.mem_gb is not None:
        parameters["mem"] = f"{round(settings.mem_gb * 1024)}MB"
    code = folder / ".code"
    srun = ["--kill-on-bad-exit=1"]  # a rank that fails ends the others
    if settings.cpus_per_task is not None:
        srun.append(f"--cpus-per-task={settings.cpus_per_task}")  # srun does not inherit it from sbatch
    path = shlex.quote(join_folders(code))
    setup = [f'export PYTHONPATH={path}"${{PYTHONPATH:+:$PYTHONPATH}}"', f"cd {shlex.quote(str(code))} || exit"]
    return {
        **parameters,
        "job_name": settings.name,
        "time": settings.timeout_min,
        "ntasks_per_node": settings.tasks_per_node,
        "srun_args": [*srun, *settings.srun_args],
        "setup": [*settings.setup, *setup],
        "additional_parameters": {**settings.additional_parameters, "requeue": True},
    }


def sbatch_script(folder: Path, sweep: Sweep, settings: SlurmLauncherConfig) -> str:
    """The script that `submit_jobs` gives to sbatch."""
    executor = make_executor(folder, sweep, settings, preview=True)
    if len(sweep.jobs) > 1:
        executor.parameters["map_count"] = len(sweep.jobs)
    return str(executor._make_submission_file_text(executor._submitit_command_str, "preview"))


def wait_for_jobs(folder: Path, sweep: Sweep, submitted: "Sequence[Job[str]]") -> dict[int, str]:
    """Wait for submitted jobs. This uses squeue, since not every cluster has sacct.

    Returns:
        The reason of each failure by job number.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    failures: dict[int, str] = {}
    start = time.monotonic()
    unfinished = dict(zip((job.number for job in sweep.jobs if job.id is not None), submitted, strict=True))
    columns = (TextColumn("jobs"), BarColumn(bar_width=12), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[failed]}", markup=False), console=console) as progress:
        bar = progress.add_task("jobs", total=len(unfinished), failed="")
        polls_gone: dict[int, int] = {}  # consecutive polls in which a job was no longer in the queue
        while unfinished:
            queue = slurm_queue()
            for number, handle in list(unfinished.items()):
                job = next(job for job in sweep.jobs if job.number == number)
                ended = queue is not None and queue.get(str(job.id), "gone") in (*ENDED, "gone")
                polls_gone[number] = polls_gone.get(number, 0) + 1 if ended else 0
                complete = all(task.paths.result_pickle.exists() for task in rank_handles(handle))
                if not complete and polls_gone[number] < 3:  # files may appear later than the queue changes
                    continue
                if not complete and queue is not None and not ended:
                    continue
                del unfinished[number]
                failure = job_failure(folder / job.folder, handle)
                if failure is not None:
                    failures[number] = failure
                progress.update(bar, advance=1, failed=f"{len(failures)} failed" if failures else "")
            if unfinished:
                elapsed = time.monotonic() - start
                time.sleep(min(POLL_SECONDS + elapsed / 20, MAX_POLL_SECONDS))  # limits the load on the controller
    return failures
