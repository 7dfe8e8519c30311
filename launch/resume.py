"""`python -m launch.resume SWEEP`: run the jobs of a sweep that are missing, failed, preempted or dead.

Finished and running jobs are not touched. Each of the others continues from its newest checkpoint in its own folder.
A job whose files cannot be read is shown with the reason and not run: move its folder away to run it anew. While
another process is starting the jobs of the sweep, the command is refused.
The jobs run one after another on this machine, or through the launcher that the sweep was started with. SLURM jobs
are submitted with the code as it was when the sweep was submitted. The folder of a single run is resumed in the same
way. A job is refused if its command now gives another configuration than the one the run started with.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from conf.schema.base import ConfigError
from conf.schema.launchers import SlurmLauncherConfig
from launch.cli.compose import compose
from launch.cli.errors import one_line
from launch.cluster.launcher import read_settings
from launch.cluster.local import run_locally
from launch.cluster.slurm import submit_jobs
from launch.cluster.sweep import (
    ACTIVE,
    Sweep,
    SweepJob,
    SweepLock,
    job_states,
    read_sweep,
    slurm_queue,
    unreadable_reason,
)
from launch.runs.checkpoint import check_equal, result_config
from launch.runs.run_folder import one_line_errors, read_config

NOT_RESUMED = ("finished", *ACTIVE, "unreadable")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.resume", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, help="folder of a sweep or of a run")
    parser.add_argument("--dry-run", action="store_true", help="print what would be run, and run nothing")
    args = parser.parse_args(arguments)
    folder = args.sweep.absolute()
    with one_line_errors("launch.resume"):
        read_sweep(folder)  # a folder without a sweep is not locked
        with nullcontext() if args.dry_run else SweepLock(folder):
            return resume(folder, args.dry_run)
    return 1


def resume(folder: Path, dry_run: bool) -> int:
    """Run the jobs of a sweep that have not finished.

    Args:
        folder: absolute path of the sweep or the run.
        dry_run: whether to print the jobs only.

    Returns:
        The exit status: 1 if a job failed again or cannot be read, otherwise 0.

    Raises:
        ConfigError: the folder holds no sweep or run, a configuration has changed, or SLURM does not answer.
    """
    sweep = read_sweep(folder)
    queue = None
    if sweep.launcher == "slurm":
        queue = slurm_queue()
        if queue is None:
            raise ConfigError(f"{folder}: squeue does not answer; resume this sweep on a machine with SLURM")
    states = job_states(folder, sweep.jobs, queue or {})
    jobs = [job for job, state in zip(sweep.jobs, states, strict=True) if state not in NOT_RESUMED]
    for job, state in zip(sweep.jobs, states, strict=True):
        reason = f": {unreadable_reason(folder / job.folder)}" if state == "unreadable" else ""
        will_run = "" if state in NOT_RESUMED else ", will run"
        print(f"[{job.number}] {state}{will_run}: {' '.join(job.overrides)}{reason}", flush=True)
    if not (folder / ".code").exists():  # with a snapshot, the jobs compose their configuration from it
        for job in jobs:
            check_unchanged(folder, sweep, job)
    unreadable = int("unreadable" in states)
    if dry_run or not jobs:
        return unreadable
    if sweep.launcher == "basic":
        return max(unreadable, *(run_job(folder, sweep, job) for job in jobs))
    settings = read_settings(sweep.settings)
    if not isinstance(settings, SlurmLauncherConfig):
        failures = run_locally(folder, sweep, jobs, settings)
        for number, failure in failures.items():
            print(f"launch.resume: job {number}: {one_line(failure)}", file=sys.stderr)
        return int(bool(failures or unreadable))
    submit_jobs(folder, sweep, jobs, settings)
    print(f"submitted {len(jobs)} jobs to SLURM: {', '.join(str(job.id) for job in jobs)}")
    return unreadable


def check_unchanged(folder: Path, sweep: Sweep, job: SweepJob) -> None:
    """Check that a job's command still gives the configuration that its run started with.

    Raises:
        ConfigError: it gives another configuration.
    """
    run = folder / job.folder
    if (run / "config.yaml").exists():
        now = result_config(compose(sweep.package, job.overrides, sweep.flags))
        advice = "the configuration has changed since the sweep was started; start a new sweep"
        check_equal(str(run / "config.yaml"), result_config(read_config(run)), now, advice)


def run_job(folder: Path, sweep: Sweep, job: SweepJob) -> int:
    """Run a job in a child process and return 1 if it failed, otherwise 0."""
    run_dir = f"hydra.run.dir={folder / job.folder}"
    command = [sys.executable, "-m", sweep.package, *sweep.flags, *job.overrides, run_dir]
    return 1 if subprocess.run(command, cwd=sweep.cwd or None).returncode else 0


if __name__ == "__main__":
    sys.exit(main())
