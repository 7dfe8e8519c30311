"""Launch the jobs of a sweep for `hydra/launcher=slurm` and `hydra/launcher=local`.

A job runs the command `python -m PACKAGE FLAGS OVERRIDES hydra.run.dir=FOLDER` from a snapshot of the code, in one
process for each rank. Its run folder is fixed, so a job that is requeued, retried or resubmitted resumes from its
newest checkpoint.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from omegaconf import open_dict

from conf.schema.base import ConfigError
from conf.schema.launchers import LocalLauncherConfig, SlurmLauncherConfig
from launch.cli.recorded_command import config_flags, recorded_cwd
from launch.cluster.job import JobFailed
from launch.cluster.local import run_locally
from launch.cluster.slurm import sbatch_script, submit_jobs, wait_for_jobs
from launch.cluster.sweep import Sweep, SweepJob, remove_empty_sweep

Settings = SlurmLauncherConfig | LocalLauncherConfig


def launch(
    launcher: Launcher, params: Mapping[str, Any], job_overrides: Sequence[Sequence[str]], first_number: int
) -> Sequence[JobReturn]:
    """Submit the jobs of a sweep, and wait for them if the setting `wait` is true.

    Args:
        launcher: Hydra's launcher, which calls this.
        params: the keys of hydra.launcher.
        job_overrides: the overrides of each job.
        first_number: the number of the first job.

    Returns:
        One result for each job, as Hydra expects them; none if the jobs are not waited for.

    Raises:
        ConfigError: the settings are invalid, or submitit or SLURM is not installed.
        JobFailed: see `report_outcomes`.
    """
    settings = read_settings(params)
    config: Any = launcher.config  # type: ignore[attr-defined]
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    sweep = plan_sweep(launcher, settings, job_overrides, first_number)
    try:
        failures = start_jobs(folder, sweep, settings)
    except ConfigError:
        remove_empty_sweep(folder)
        raise
    if failures is None:
        return []
    outcomes = getattr(launcher.task_function, "outcomes", None)  # type: ignore[attr-defined]
    return report_outcomes(folder, sweep, failures, outcomes)


def start_jobs(folder: Path, sweep: Sweep, settings: Settings) -> dict[int, str] | None:
    """Start the jobs of a sweep, or print what would be started.

    Returns:
        The reason of each failure by job number, None if the jobs are not waited for.

    Raises:
        ConfigError: the jobs cannot be started with these settings or in this folder.
    """
    if settings.dry_run:
        if isinstance(settings, SlurmLauncherConfig):
            print(sbatch_script(folder, sweep, settings))
        else:
            print("nothing to submit")
        remove_empty_sweep(folder)
        return None
    if isinstance(settings, SlurmLauncherConfig):
        submitted = submit_jobs(folder, sweep, sweep.jobs, settings)
        print(
            f"submitted {len(sweep.jobs)} jobs to SLURM: {', '.join(str(job.id) for job in sweep.jobs)}", flush=True
        )
        print(f"sweep folder: {os.path.relpath(folder)}", flush=True)
        return wait_for_jobs(folder, sweep, submitted) if settings.wait else None
    return run_locally(folder, sweep, sweep.jobs, settings)


def plan_sweep(launcher: Any, settings: Settings, job_overrides: Sequence[Sequence[str]], first_number: int) -> Sweep:
    """The record of the sweep, without job ids."""
    config = launcher.config
    jobs = []
    for number, overrides in enumerate(job_overrides, first_number):
        job_config = launcher.hydra_context.config_loader.load_sweep_config(config, list(overrides))
        with open_dict(job_config):
            job_config.hydra.job.num, job_config.hydra.job.id = number, str(number)
        jobs.append(SweepJob(number, list(filter_overrides(overrides)), str(job_config.hydra.sweep.subdir)))
    package = str(config.hydra.job.name)
    return Sweep(
        package,
        ["python", *sys.argv[0].split()[1:], *sys.argv[1:]],
        settings.cluster,
        jobs,
        on_failure=settings.on_failure,
        settings=asdict(settings),
        cwd=recorded_cwd(),
        flags=config_flags(config, package),
    )


def report_outcomes(folder: Path, sweep: Sweep, failures: Mapping[int, str], outcomes: Any) -> list[JobReturn]:
    """Add the finished and failed jobs to `outcomes`, and report all of them to Hydra as completed.

    Hydra would otherwise raise at the first failed job, before the other results are reported.

    Args:
        folder: the sweep folder.
        sweep: its record.
        failures: the reason of each failure by job number.
        outcomes: the `launch.cli.app.Outcomes` of the command line, or None.

    Raises:
        JobFailed: a job failed and `outcomes` is None.
    """
    for job in sweep.jobs if outcomes is not None else ():
        if job.number in failures:
            outcomes.add_failure(f"job {job.number} ({' '.join(job.overrides)}): {failures[job.number]}")
        else:
            outcomes.finished.append(folder / job.folder)
    if outcomes is None and failures:
        raise JobFailed("\n".join(failures.values()))
    return [JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED) for job in sweep.jobs]


def read_settings(params: Mapping[str, Any]) -> Settings:
    """Convert the keys of hydra.launcher to their dataclass, which checks them."""
    kind = SlurmLauncherConfig if params.get("cluster") == "slurm" else LocalLauncherConfig
    return kind(**params)
