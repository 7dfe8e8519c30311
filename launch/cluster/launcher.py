"""Launch the jobs of a sweep for `hydra/launcher=slurm` and `hydra/launcher=local`.

A job runs the command `python -m PACKAGE FLAGS OVERRIDES hydra.run.dir=FOLDER` from a snapshot of the code, in one
process for each rank. Its run folder is fixed, so a job that is requeued, retried or resubmitted resumes from its
newest checkpoint.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from conf.schema.base import ConfigError
from conf.schema.launchers import LocalLauncherConfig, SlurmLauncherConfig
from launch.cli.next_steps import after_submission
from launch.cluster.job import JobFailed, check_folder, import_submitit
from launch.cluster.local import run_locally
from launch.cluster.slurm import sbatch_script, submit_jobs, wait_for_jobs
from launch.cluster.sweep import PlannedSweep, Sweep, SweepJob, remove_empty_sweep, write_sweep
from launch.runs.closing import command, next_line, show_next, shown_path

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
    plan: PlannedSweep = launcher.plan  # type: ignore[attr-defined]  # of launch.cli.sweep_check
    folder = Path(str(launcher.config.hydra.sweep.dir)).absolute()  # type: ignore[attr-defined]
    jobs = plan.jobs[first_number : first_number + len(job_overrides)]
    outcomes = getattr(launcher.task_function, "outcomes", None)  # type: ignore[attr-defined]
    try:
        failures = start_jobs(folder, plan, jobs, settings)
    except ConfigError:
        remove_empty_sweep(folder)
        raise
    except KeyboardInterrupt as interruption:
        for note in interruption_notes(folder, settings):
            interruption.add_note(note)
        raise
    if failures is None:
        return []
    if outcomes is not None:
        outcomes.sweep = folder
    return report_outcomes(folder, replace(plan.record, jobs=jobs), failures, outcomes)


def start_jobs(folder: Path, plan: PlannedSweep, jobs: list[SweepJob], settings: Settings) -> dict[int, str] | None:
    """Start jobs of a sweep, or print what would be started.

    Returns:
        The reason of each failure by job number, None if the jobs are not waited for.

    Raises:
        ConfigError: the jobs cannot be started with these settings or in this folder.
    """
    batch = replace(plan.record, jobs=jobs)
    if settings.dry_run:
        if isinstance(settings, SlurmLauncherConfig):
            print(sbatch_script(folder, batch, settings))
        else:
            print("nothing to submit")
        remove_empty_sweep(folder)
        return None
    if isinstance(settings, SlurmLauncherConfig):
        submitted = submit_jobs(folder, plan.record, jobs, settings)
        if plan.lock is not None and jobs[-1] is plan.jobs[-1]:  # nothing is left to start
            plan.lock.release()
        print(f"submitted {len(jobs)} jobs to SLURM: {', '.join(str(job.id) for job in jobs)}", flush=True)
        print(f"sweep folder: {os.path.relpath(folder)}", flush=True)
        if settings.wait:
            return wait_for_jobs(folder, batch, submitted)
        show_next(after_submission(folder))
        return None
    import_submitit()
    check_folder(folder)
    write_sweep(folder, plan.record)
    print(f"sweep folder: {os.path.relpath(folder)}", flush=True)
    return run_locally(folder, plan.record, jobs, settings)


def interruption_notes(folder: Path, settings: Settings) -> list[str]:
    """Lines about what goes on, or is saved, when the wait for the jobs of a sweep is interrupted."""
    if isinstance(settings, SlurmLauncherConfig):
        return ["the submitted jobs go on", next_line(command("launch.watch", folder))]
    saved = f"saved: the checkpoints of the jobs that ran, in {shown_path(folder)}"
    return [saved, next_line(command("launch.resume", folder))]


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
