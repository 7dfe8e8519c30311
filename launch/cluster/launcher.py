"""What `hydra/launcher=slurm` and `local` do with the jobs of a sweep.

A job is the command `python -m PACKAGE OVERRIDES hydra.run.dir=FOLDER`, run from a snapshot of the code, in one
process for each rank. Its run folder is fixed, so that a job that starts again (requeued, retried, resubmitted)
resumes from the newest checkpoint that is there then.
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

from conf.schema.launchers import LocalLauncherConfig, SlurmLauncherConfig
from launch.cluster.job import JobFailed
from launch.cluster.local import run_locally
from launch.cluster.slurm import sbatch_script, submit, wait
from launch.cluster.sweep import Sweep, SweepJob, config_flags, remove_empty_sweep

Settings = SlurmLauncherConfig | LocalLauncherConfig


def launch(
    launcher: Launcher, params: Mapping[str, Any], job_overrides: Sequence[Sequence[str]], first_number: int
) -> Sequence[JobReturn]:
    """What Hydra calls with the jobs of a sweep: submit them all, and wait for them unless `wait` is false.

    Args:
        params: of the launcher, the keys of hydra.launcher.
        first_number: of the first of these jobs.

    Raises:
        ConfigError: settings that cannot work, or submitit or SLURM is not installed.
    """
    settings = read_settings(params)
    config: Any = launcher.config  # type: ignore[attr-defined]
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    sweep = plan_sweep(launcher, settings, job_overrides, first_number)
    if settings.dry_run:
        if isinstance(settings, SlurmLauncherConfig):
            print(sbatch_script(folder, sweep, settings))
        else:
            print("nothing to submit")
        remove_empty_sweep(folder)
        return []
    if isinstance(settings, SlurmLauncherConfig):
        submitted = submit(folder, sweep, sweep.jobs, settings)
        print(
            f"submitted {len(sweep.jobs)} jobs to SLURM: {', '.join(str(job.id) for job in sweep.jobs)}", flush=True
        )
        print(f"sweep folder: {os.path.relpath(folder)}", flush=True)
        if not settings.wait:
            return []
        failures = wait(folder, sweep, submitted)
    else:
        failures = run_locally(folder, sweep, sweep.jobs, settings)
    outcomes = getattr(launcher.task_function, "outcomes", None)  # type: ignore[attr-defined]
    return report_outcomes(folder, sweep, failures, outcomes)


def plan_sweep(launcher: Any, settings: Settings, job_overrides: Sequence[Sequence[str]], first_number: int) -> Sweep:
    """The record of the sweep."""
    config = launcher.config
    jobs = []
    for number, overrides in enumerate(job_overrides, first_number):
        job_config = launcher.hydra_context.config_loader.load_sweep_config(config, list(overrides))
        with open_dict(job_config):
            job_config.hydra.job.num, job_config.hydra.job.id = number, str(number)
        jobs.append(SweepJob(number, list(filter_overrides(overrides)), str(job_config.hydra.sweep.subdir)))
    return Sweep(
        str(config.hydra.job.name),
        ["python", *sys.argv[0].split()[1:], *sys.argv[1:]],
        settings.cluster,
        jobs,
        on_failure=settings.on_failure,
        settings=asdict(settings),
        cwd=os.getcwd(),
        flags=config_flags(config),
    )


def report_outcomes(folder: Path, sweep: Sweep, failures: Mapping[int, str], outcomes: Any) -> list[JobReturn]:
    """Tell `launch.cli.app.Outcomes`, where there is one, what became of the jobs; Hydra is told that all completed.

    Hydra would raise at the first failed job, before the report on the others.

    Raises:
        JobFailed: a job failed, and there are no `outcomes`.
    """
    for job in sweep.jobs if outcomes is not None else ():
        if job.number in failures:
            outcomes.failed(f"job {job.number} ({' '.join(job.overrides)}): {failures[job.number]}")
        else:
            outcomes.finished.append(folder / job.folder)
    if outcomes is None and failures:
        raise JobFailed("\n".join(failures.values()))
    return [JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED) for job in sweep.jobs]


def read_settings(params: Mapping[str, Any]) -> Settings:
    """The launcher's settings, checked."""
    kind = SlurmLauncherConfig if params.get("cluster") == "slurm" else LocalLauncherConfig
    return kind(**params)
