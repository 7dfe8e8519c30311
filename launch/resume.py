"""`python -m launch.resume SWEEP`: run the jobs of a sweep that are missing, failed, preempted or dead.

Finished and running jobs are not touched. Each of the others continues from its newest checkpoint in its own folder.
A job whose files cannot be read is shown with the reason and not run: move its folder away to run it anew. While
another process is starting the jobs of the sweep, the command is refused.
The jobs run one after another on this machine, or through the launcher that the sweep was started with. SLURM jobs
are submitted with the code as it was when the sweep was submitted. The folder of a single run is resumed in the same
way. A job is refused if its command now gives another configuration than the one the run started with.
"""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from conf.schema.base import ConfigError
from conf.schema.launchers import LocalLauncherConfig, SlurmLauncherConfig
from launch.cli.command_table import ArgumentParser
from launch.cli.compose import compose
from launch.cli.errors import one_line
from launch.cli.next_steps import after_status, after_submission
from launch.cli.recorded_command import RecordedCommand, read_command
from launch.cli.sweep_report import report_sweep
from launch.cluster.job import check_folder
from launch.cluster.launcher import Settings, read_settings
from launch.cluster.local import run_locally
from launch.cluster.slurm import submit_jobs
from launch.cluster.sweep import (
    RESUMABLE,
    Sweep,
    SweepJob,
    SweepLock,
    check_inside,
    inspect_jobs,
    is_alive,
    read_sweep,
    slurm_queue,
)
from launch.runs.checkpoint import check_equal, result_config
from launch.runs.closing import command, next_line, pictures_in, show_next, show_pictures
from launch.runs.progress import tracked
from launch.runs.run_folder import one_line_errors, read_config, read_record
from launch.runs.streams import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and return the exit status."""
    parser = ArgumentParser("launch.resume", __doc__)
    parser.add_argument("sweep", type=Path, help="folder of a sweep or of a run")
    parser.add_argument("--dry-run", action="store_true", help="print what would be run, and run nothing")
    args = parser.parse_args(arguments)
    folder = args.sweep.absolute()
    with one_line_errors("launch.resume"):
        read_sweep(folder)  # a folder without a sweep is not locked
        try:
            with nullcontext() if args.dry_run else SweepLock(folder):
                status = resume(folder, args.dry_run)
        except KeyboardInterrupt as interruption:
            interruption.add_note(next_line(command("launch.resume", folder)))
            raise
        sweep = read_sweep(folder)
        of_queue = sweep.launcher == "slurm" and not args.dry_run
        states = [of_job.state for of_job in inspect_jobs(folder, sweep.jobs, {})]
        show_next(after_submission(folder) if of_queue else after_status(folder, states))
        return status
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
    for job in sweep.jobs:
        check_inside(folder, job)
    queue = None
    if sweep.launcher == "slurm":
        queue = slurm_queue()
        if queue is None:
            raise ConfigError(f"{folder}: squeue does not answer; resume this sweep on a machine with SLURM")
    states = inspect_jobs(folder, sweep.jobs, queue or {}, dry_run and is_alive(folder))  # otherwise the lock is ours
    jobs = [job for job, of_job in zip(sweep.jobs, states, strict=True) if of_job.state in RESUMABLE]
    for job in jobs:
        job_command(folder, sweep, job).check(folder)
    for job, of_job in zip(sweep.jobs, states, strict=True):
        reason = f": {of_job.problem}" if of_job.problem else ""
        will_run = ", will run" if of_job.state in RESUMABLE else ""
        print(f"[{job.number}] {of_job.state}{will_run}: {' '.join(job.overrides)}{reason}", flush=True)
    if not (folder / ".code").exists():  # with a snapshot, the jobs compose their configuration from it
        for job in tracked(jobs, "comparing configurations"):
            check_unchanged(folder, sweep, job)
    unreadable = int(any(of_job.state == "unreadable" for of_job in states))
    settings = None if sweep.launcher == "basic" else read_recorded_settings(folder, sweep)
    if settings is not None and jobs:
        print_code(folder, settings)
    if dry_run or not jobs:
        return unreadable
    return max(unreadable, start(folder, sweep, jobs, settings))


def start(folder: Path, sweep: Sweep, jobs: list[SweepJob], settings: Settings | None) -> int:
    """Start jobs with the launcher of their sweep, and return 1 if one of them is known to have failed, otherwise 0.

    Args:
        folder: absolute path of the sweep.
        sweep: its record.
        jobs: one or more.
        settings: those of the launcher; None for Hydra's basic one.
    """
    if isinstance(settings, SlurmLauncherConfig):
        submit_jobs(folder, sweep, jobs, settings)
        print(f"submitted {len(jobs)} jobs to SLURM: {', '.join(str(job.id) for job in jobs)}")
        return 0
    failed = run_here(folder, sweep, jobs, settings)
    close(folder, sweep)
    return failed


def run_here(folder: Path, sweep: Sweep, jobs: list[SweepJob], settings: LocalLauncherConfig | None) -> int:
    """Run jobs on this machine until they have ended; arguments and result of `start`."""
    if settings is None:
        return max(run_job(folder, sweep, job) for job in jobs)
    check_folder(folder)
    failures = run_locally(folder, sweep, jobs, settings)
    for number, failure in failures.items():
        print(f"launch.resume: job {number}: {one_line(failure)}", file=sys.stderr)
    return int(bool(failures))


def close(folder: Path, sweep: Sweep) -> None:
    """Compare the finished runs of a sweep, as at its own end, and print where the pictures are."""
    states = inspect_jobs(folder, sweep.jobs, {})
    runs = [folder / job.folder for job, of_job in zip(sweep.jobs, states, strict=True) if of_job.state == "finished"]
    report_sweep(sweep.package, runs, folder)
    show_pictures(pictures_in(folder))


def print_code(folder: Path, settings: Settings) -> None:
    """Print what the jobs of a launcher run besides their commands: a snapshot of the code, and lines of shell."""
    snapshot = folder / ".code"
    print(f"code: {snapshot}" if snapshot.exists() else "code: a new snapshot of this code")
    for line in settings.setup if isinstance(settings, SlurmLauncherConfig) else ():
        print(f"setup: {line}")


def check_unchanged(folder: Path, sweep: Sweep, job: SweepJob) -> None:
    """Check that a job's command still gives the configuration that its run started with.

    Raises:
        ConfigError: it gives another configuration.
    """
    run = folder / job.folder
    if (run / "config.yaml").exists():
        command = job_command(folder, sweep, job)
        now = result_config(compose(command.package, command.overrides, command.flags, checked=False))
        advice = "the configuration has changed since the sweep was started; start a new sweep"
        check_equal(str(run / "config.yaml"), result_config(read_config(run)), now, advice)


def run_job(folder: Path, sweep: Sweep, job: SweepJob) -> int:
    """Run a job in a child process and return 1 if it failed, otherwise 0."""
    return 1 if job_command(folder, sweep, job).run(folder / job.folder, folder) else 0


def job_command(folder: Path, sweep: Sweep, job: SweepJob) -> RecordedCommand:
    """The command of a job, which is its run's own if the folder has no record of a sweep."""
    run = folder / job.folder
    if not (folder / "sweep.json").exists() and (run / "run.json").exists():
        return read_command(read_record(run))
    return RecordedCommand(sweep.package, tuple(sweep.flags), tuple(job.overrides), sweep.cwd)


def read_recorded_settings(folder: Path, sweep: Sweep) -> Settings:
    """The settings of the launcher that the sweep was started with.

    Raises:
        ConfigError: they are not valid.
    """
    try:
        return read_settings(sweep.settings)
    except (TypeError, AttributeError) as error:
        raise ConfigError(f"{folder / 'sweep.json'}: settings: {error}") from error


if __name__ == "__main__":
    run_command("launch.resume", main)
